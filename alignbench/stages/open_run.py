"""What a run folder says of its run, from the first second and after training, and whether one that is there fits."""

import importlib.metadata
from typing import TYPE_CHECKING

from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import config_hash, recipe_hash, row_name, trains
from alignbench.devices import device_name
from alignbench.files import write_text
from alignbench.stages.start import display_name, refuse_other_weights, start_data, start_trained_on, start_weights
from alignbench.store.manifest import Budget, Manifest
from alignbench.store.origin.provenance import PACKAGES, command, commit, now
from alignbench.store.run_folder import RunFolder
from alignbench.store.training_data import write_training_data

if TYPE_CHECKING:
    from alignbench.training.train import Trained


def open_run(folder: RunFolder, cfg: DictConfig, start: RunFolder | None, accelerator: Accelerator) -> None:
    """Start a run folder, or check that what lies there belongs to the configuration.

    Args:
        start: the run whose weights `model.policy` is; None for none, or for weights from elsewhere.

    Raises:
        UserError: it was made from other weights.
        ResultsError: it was made by another configuration, or its policy has changed.
    """
    weights, is_main = start_weights(cfg), accelerator.is_main_process
    found = folder.open(
        Manifest(
            run=folder.name,
            method=row_name(cfg),
            model=cfg.model.name,
            seed=cfg.seed if trains(cfg) else None,
            started=now(),
            command=command(),
            config_hash=config_hash(cfg),
            recipe_hash=recipe_hash(cfg),
            start_weights=weights,
            trained_on=start_trained_on(cfg, start),
            package_versions={name: importlib.metadata.version(name) for name in PACKAGES},
            commit=commit(),
            devices=[device_name(accelerator.device)] * accelerator.num_processes,
        )
    )
    refuse_other_weights(folder, weights)
    if is_main and (name := display_name(cfg)) is not None:
        folder.update(display_name=name)
    if is_main and not trains(cfg):  # it may be learnt later what a policy saw
        folder.update(trained_on=list(dict.fromkeys([*found.trained_on, *start_trained_on(cfg, start)])))
        if (data := start_data(cfg, start)).size:
            write_training_data(folder, data)
    if is_main and not folder.config_file.exists():
        folder.store(folder.config_file, lambda file: write_text(file, OmegaConf.to_yaml(cfg, resolve=True)))
    folder.check_policy()  # also where its images are made already


def note_training(
    folder: RunFolder, cfg: DictConfig, trained: "Trained", best_step: int | None, selected_by: list[str]
) -> None:
    """Note what training came to, once it has ended.

    Args:
        best_step: update whose weights validation chose; None where the last ones were kept.
        selected_by: evaluators that chose it.
    """
    folder.update(
        budget=Budget(**trained.budget),
        weight_distance=trained.weight_distance,
        selected_step=trained.budget["optimizer_steps"] if best_step is None else best_step,
        selected_by=selected_by,
        weights_kind="raw" if cfg.train.ema_decay is None else "ema",
    )
