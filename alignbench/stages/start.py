"""The run of this program that `model.policy` comes from, and what that says of a training that starts from it."""

from pathlib import Path

from omegaconf import DictConfig

from alignbench.store.run_folder import RunFolder

DEPTH = 3  # RUN/policy/unet/FILE


def start_run(cfg: DictConfig) -> RunFolder | None:
    """Return the run whose trained weights `model.policy` is; None for weights that came from elsewhere."""
    if cfg.model.policy is None or not Path(cfg.model.policy).exists():
        return None
    path = Path(cfg.model.policy).resolve()
    folders = map(RunFolder, [path, *path.parents[:DEPTH]])
    return next((one for one in folders if one.manifest_file.is_file() and one.policy.exists()), None)
