"""Settings for every test: offline, two threads, no surprises from the user's environment."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
