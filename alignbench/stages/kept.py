"""What a job that ends early leaves on the disk, in words."""

from pathlib import Path

from omegaconf import DictConfig

from alignbench.configuration.build import has_images, run_name
from alignbench.store.checkpoint_files import checkpoint_steps
from alignbench.store.run_folder import RunFolder


def kept(cfg: DictConfig) -> str:
    """Return a sentence without its full stop about what the job of a configuration has left."""
    if has_images(cfg):
        return f"{cfg.results} keeps the scores that were finished"
    run = RunFolder(Path(cfg.results) / run_name(cfg))
    if not run.manifest_file.is_file():
        return "nothing was begun"
    if run.manifest.seed is None:
        return f"{run.path} keeps the images and scores that were finished"
    if run.completed("train"):
        return f"{run.path} keeps the trained policy, and the images and scores that were finished"
    return f"{run.path} keeps {last_checkpoint(run)}"


def last_checkpoint(run: RunFolder) -> str:
    """Return the checkpoint that training goes on from, in words."""
    steps = checkpoint_steps(run.checkpoints)
    return f"the checkpoint of update {steps[-1]}" if steps else "no checkpoint yet"
