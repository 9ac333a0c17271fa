"""What training starts from where `model.policy` is given: a run of this program, or weights from elsewhere."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hydra.utils import get_class
from omegaconf import DictConfig

from alignbench.configuration.build import run_name, start_of, trains
from alignbench.configuration.run_config import read_named_config, read_run_config
from alignbench.errors import UserError
from alignbench.files import file_digest
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.find_policy import find_policy
from alignbench.models.weights.policy_files import Adapters
from alignbench.store.origin.soup_record import SoupRecord, find_soup
from alignbench.store.run_folder import RunFolder
from alignbench.store.stopped_run import StoppedRun
from alignbench.store.training_data import data_of_run, union

DEPTH = 3  # RUN/policy/unet/FILE


def start_run(cfg: DictConfig) -> RunFolder | None:
    """Return the run whose trained weights `model.policy` is; None for weights that came from elsewhere."""
    if cfg.model.policy is None or not Path(cfg.model.policy).exists():
        return None
    path = Path(cfg.model.policy).resolve()
    folders = map(RunFolder, [path, *path.parents[:DEPTH]])
    return next(
        (one for one in folders if one.manifest_file.is_file() and (one.policy.exists() or one.checkpoints.exists())),
        None,
    )


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
    if measured is None:
        return None
    name = measured.manifest.display_name or measured.manifest.method
    return name if cfg.model.policy_step is None else f"{name} step {StoppedRun.find(cfg.model.policy).step}"


def measuring_start(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the run that measures what `cfg` starts training from, as `cfg` is measured.

    Weights of a run of the same model and results folder have a row already: that of the run itself.
    """
    found = start_run(cfg)
    is_here = found is not None and found.path.parent == Path(cfg.results).resolve()
    if found is None or not is_here or Path(cfg.model.policy).resolve() not in (found.path, found.policy):
        return start_of(cfg)
    own = read_named_config(found.config_file)
    if cfg.model.policy_step is not None or own.model.name != cfg.model.name or run_name(own) != found.name:
        return start_of(cfg)
    for key in ("prompts", "evaluators", "features", "sampling", "stages", "results", "calibration", "shard"):
        own[key] = cfg[key]
    return own


def start_weights(cfg: DictConfig) -> dict[str, str]:
    """Say what the model is made of, as the manifest records it: paths, and revision or sha256 of what they held."""
    pipeline = cfg.model.adapter.pipeline
    found = {key: str(value) for key, value in pipeline.items() if key != "_target_"}
    file = Path(found.get("pretrained_model_name_or_path", ""))
    if file.is_file():
        found["sha256"] = file_digest(file)
    if cfg.model.policy is None:
        return found
    if cfg.model.policy_step is not None:
        return found | StoppedRun.find(cfg.model.policy).origin
    denoiser = get_class(cfg.model.adapter._target_).denoiser_name
    return found | find_policy(cfg.model.policy, denoiser, cfg.model.policy_revision).origin


def refuse_other_weights(folder: RunFolder, weights: Mapping[str, str]) -> None:
    """Refuse to take a run for one of other weights.

    Args:
        weights: what its configuration names now, as `start_weights` returns it.

    Raises:
        UserError: if it was made from others.
    """
    noted = folder.manifest.start_weights
    if changed := [key for key, value in noted.items() if weights.get(key, value) != value]:
        raise UserError(
            f"{folder.path} was made from weights of another {' and '.join(changed)}; give those back, choose another "
            "results folder, or delete this one"
        )


def load_weights(model: ModelAdapter, cfg: DictConfig, run: RunFolder | None) -> None:
    """Give a model without trained weights those that a run measures: what it started from, and what it trained.

    Args:
        cfg: of the run, or of weights without a run.

    Raises:
        UserError: if the weights do not fit the model, or have changed.
    """
    if cfg.model.policy is not None:
        load_start(model, cfg, {} if run is None else run.manifest.start_weights)
    if trains(cfg):
        assert run is not None
        model.fold_adapters()
        model.load_policy(str(run.verified(run.policy)))


def load_start(model: ModelAdapter, cfg: DictConfig, noted: Mapping[str, str], keep_start: bool = False) -> None:
    """Give a model without trained weights those of `model.policy`.

    Adapters that a run trained on top of another policy are loaded on top of that policy.

    Args:
        noted: the start weights in the manifest of the run that `cfg` describes. They say which checkpoint is meant,
            as a stopped run may go on in the meantime.
        keep_start: whether `reference` is to answer for the model without these weights.

    Raises:
        UserError: if the weights do not fit the model, or have changed.
    """
    run = start_run(cfg)
    if run is not None and "policy" in run.manifest.start_weights:
        own = read_run_config(run.config_file)
        if own.train.tuning == "lora":
            refuse_other_weights(run, start_weights(own))
            load_start(model, own, run.manifest.start_weights)
            model.fold_adapters()
    if cfg.model.policy_step is None:
        model.load_policy(cfg.model.policy, cfg.model.policy_revision, keep_start)
        return
    stopped = StoppedRun(RunFolder(cfg.model.policy), int(noted["policy_step"]))
    own = read_run_config(stopped.run.config_file)
    average = None if own.train.ema_decay is None else stopped.average()
    targets = own.model.adapter.lora_targets
    is_lora = own.train.tuning == "lora"
    adapters = Adapters(own.train.lora_rank, own.train.lora_alpha, targets) if is_lora else None
    if keep_start and adapters is None:
        model.make_reference()
    model.load_checkpoint(cfg.model.policy, stopped.weights(), average, adapters)
