"""What training starts from where `model.policy` is given: a run of this program, or weights from elsewhere."""

from pathlib import Path

from omegaconf import DictConfig

from alignbench.configuration.build import run_name, start_of, trains
from alignbench.configuration.run_config import read_named_config
from alignbench.store.run_folder import RunFolder

DEPTH = 3  # RUN/policy/unet/FILE


def start_run(cfg: DictConfig) -> RunFolder | None:
    """Return the run whose trained weights `model.policy` is; None for weights that came from elsewhere."""
    if cfg.model.policy is None or not Path(cfg.model.policy).exists():
        return None
    path = Path(cfg.model.policy).resolve()
    folders = map(RunFolder, [path, *path.parents[:DEPTH]])
    return next((one for one in folders if one.manifest_file.is_file() and one.policy.exists()), None)


def display_name(cfg: DictConfig) -> str | None:
    """Return how tables call a run if it is not by its method: as typed, or as the run whose weights it measures."""
    if cfg.get("name") is not None:  # the configuration of a run of version 0.1.0 has none
        return cfg.name
    measured = None if trains(cfg) else start_run(cfg)
    return None if measured is None else measured.manifest.display_name or measured.manifest.method


def measuring_start(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the run that measures what `cfg` starts training from, as `cfg` is measured.

    Weights of a run of the same model and results folder have a row already: that of the run itself.
    """
    found = start_run(cfg)
    is_here = found is not None and found.path.parent == Path(cfg.results).resolve()
    if found is None or not is_here or Path(cfg.model.policy).resolve() not in (found.path, found.policy):
        return start_of(cfg)
    own = read_named_config(found.config_file)
    if own.model.name != cfg.model.name or run_name(own) != found.name:
        return start_of(cfg)
    for key in ("prompts", "evaluators", "sampling", "stages", "results", "calibration", "shard"):
        own[key] = cfg[key]
    return own
