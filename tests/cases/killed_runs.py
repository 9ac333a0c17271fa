"""A run of four updates with a checkpoint after each."""

from accelerate import Accelerator

from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import train
from tests.tiny_runs import RandomPairs, settings


def fit(path, method):
    """Train in a folder, or go on where its checkpoints end."""
    cfg = settings(checkpointing_steps=1, max_train_steps=4)
    train(cfg, tiny_adapter("flux"), method, RandomPairs(), RunFolder(path), Accelerator(cpu=True))
