"""Settings for every test: offline, one thread a process, and nothing from the user's environment."""

import os
import tempfile

pytest_plugins = ["tests.browser", "tests.studies"]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; and sums then have one order
os.environ["TOKENIZERS_PARALLELISM"] = "false"

_cache = tempfile.TemporaryDirectory(prefix="alignbench-cache-")  # digests and text features; gone with the process
os.environ["XDG_CACHE_HOME"] = _cache.name
