"""What training starts from where `model.policy` is given: a run of this program, or weights from elsewhere."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from alignbench.configuration.build import run_name, start_of, trains
from alignbench.configuration.run_config import read_named_config
from alignbench.store.run_folder import RunFolder
from alignbench.store.soup_record import SoupRecord, find_soup
from alignbench.store.training_data import data_of_run, union

DEPTH = 3  # RUN/policy/unet/FILE


def start_run(cfg: DictConfig) -> RunFolder | None:
    """Return the run whose trained weights `model.policy` is; None for weights that came from elsewhere."""
    if cfg.model.policy is None or not Path(cfg.model.policy).exists():
        return None
    path = Path(cfg.model.policy).resolve()
    folders = map(RunFolder, [path, *path.parents[:DEPTH]])
    return next((one for one in folders if one.manifest_file.is_file() and one.policy.exists()), None)


def start_soup(cfg: DictConfig) -> SoupRecord | None:
    """Return what `model.policy` says of its parents if it is an average of policies."""
    return None if cfg.model.policy is None else find_soup(cfg.model.policy)


def start_trained_on(cfg: DictConfig, start: RunFolder | None) -> list[str]:
    """Return the evaluators that the start weights were trained on: what is typed, and what their run or soup notes."""
    known = [] if start is None else start.manifest.trained_on
    soup = start_soup(cfg)
    return list(dict.fromkeys([*cfg.model.policy_trained_on, *known, *([] if soup is None else soup.trained_on)]))


def start_data(cfg: DictConfig, start: RunFolder | None) -> np.ndarray:
    """Return the digests of what the start weights learned from, as far as their run or soup notes it."""
    soup = start_soup(cfg)
    parts = [] if start is None else [data_of_run(start)]
    return union([*parts, *([] if soup is None else [soup.training_data])])


def display_name(cfg: DictConfig) -> str | None:
    """Return how tables call a run if it is not by its method: as typed, or as the weights that it measures are."""
    if cfg.get("name") is not None:  # the configuration of a run of version 0.1.0 has none
        return cfg.name
    if trains(cfg):
        return None
    if (soup := start_soup(cfg)) is not None:
        return soup.label
    measured = start_run(cfg)
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
