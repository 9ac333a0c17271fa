"""Settings for every test: offline, one thread a process, and nothing from the user's environment."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; and sums then have one order
os.environ["TOKENIZERS_PARALLELISM"] = "false"
