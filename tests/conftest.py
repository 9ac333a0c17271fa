"""Settings for every test: offline, one thread a process, and nothing from the user's environment."""

import gc
import os
import sys
import tempfile

import pytest

pytest_plugins = ["tests.browser", "tests.slurm", "tests.studies"]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; and sums then have one order
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Compiled modules are kept: otherwise each run, and each process that a test starts, would compile them anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_cache = tempfile.TemporaryDirectory(prefix="alignbench-cache-")  # digests and text features; gone with the process
os.environ["XDG_CACHE_HOME"] = _cache.name


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep what the libraries define from the garbage collector, which would look at all of it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_finish():
    """Let autograd start without threads, for tests that fork: it would count a fake GPU, which stays once it is made.

    A `FakeTensorMode` makes one where there is no real GPU. After threads, forked processes cannot compute gradients.
    """
    if (torch := sys.modules.get("torch")) is not None:
        torch.ones((), requires_grad=True).backward()


@pytest.fixture(autouse=True)
def no_accelerator_of_another_test():
    """Forget what accelerate keeps for the life of a process, such as the precision of a benchmark's updates."""
    yield
    if (state := sys.modules.get("accelerate.state")) is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def pytest_unconfigure():
    gc.unfreeze()
