"""One judge from its configuration to its folder: split, fit, scale, measure, write."""

import hashlib
import importlib.metadata
import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from omegaconf import DictConfig
from rich.console import Console
from safetensors.torch import save
from transformers.utils import logging as transformers_logging

from alignbench.configuration.build import build, resolve_all, without_frames
from alignbench.data.source import PairSource
from alignbench.devices import multiply_float32
from alignbench.errors import UserError
from alignbench.former_names import with_former_names
from alignbench.report.cards.reliability_picture import reliability
from alignbench.reward_model import RewardModelRecipe
from alignbench.stages.turns import training_alone
from alignbench.statistics.reliability import best_scale, calibration
from alignbench.store.origin.provenance import PACKAGES, commit
from alignbench.store.reward_model_folder import (
    CONFIG,
    LOG,
    PICTURE,
    RANGE,
    TRAINING_DATA,
    FeatureRange,
    RewardModelRecord,
    write_reward_model,
)
from alignbench.store.training_data import digests, encoded, union
from alignbench.terminal.console import headed, open_console, print_fact
from alignbench.text import duration
from alignbench.train_reward.checks import recipe
from alignbench.train_reward.fit import fit, pooled_features, predict
from alignbench.train_reward.measure import Figures, measure
from alignbench.train_reward.pairs import PairSplit, make_reader

NOT_IN_HASH = {"logging_steps", "checkpointing_steps", "checkpointing_minutes", "checkpoints_in_background",
               "dataloader_num_workers"}  # fmt: skip


def reward_model_name(cfg: DictConfig) -> str:
    """Return the name of a judge: as typed, or made of the choices and a hash of all that changes its weights."""
    if cfg.name is not None:
        return cfg.name
    return f"{recipe(cfg).kind}-{cfg.data.name}-{_hash(cfg)}"


def train_reward(cfg: DictConfig) -> RewardModelRecord:
    """Fit a judge and write its folder, unless that was done before.

    Raises:
        UserError: the pairs cannot be split as asked, or another judge has the folder.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    multiply_float32(tf32=False)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without it, launched processes on a CPU each believe to be alone
        mixed_precision=cfg.train.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    console = open_console(quiet=not accelerator.is_main_process)
    try:
        return _train_reward(cfg, accelerator, console)
    finally:
        # accelerate keeps its state for the process, which may be that of a test
        accelerator.end_training()
        accelerator.free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def _train_reward(cfg: DictConfig, accelerator: Accelerator, console: Console) -> RewardModelRecord:
    name = reward_model_name(cfg)
    folder = Path(cfg.results) / "judges" / name
    work = folder.with_name(f".{name}-{_hash(cfg)}.unfinished")  # another configuration may have left one of this name
    console.print(headed(name, str(folder)))
    if (folder / CONFIG).exists():
        if accelerator.is_main_process:
            shutil.rmtree(work, ignore_errors=True)  # a kill may have come before
        return _found(folder, cfg, console)
    with training_alone(folder, accelerator):
        return _fit_and_measure(name, folder, work, cfg, accelerator, console)


def _fit_and_measure(
    name: str, folder: Path, work: Path, cfg: DictConfig, accelerator: Accelerator, console: Console
) -> RewardModelRecord:
    # the pairs
    data = build(cfg.data)
    assert isinstance(data, PairSource)
    pairs, view = list(data.pairs), data.view("pairs")
    prompts = [pair.prompt for pair in pairs]
    probability = np.array([pair.probability_w for pair in pairs])
    split = PairSplit.of(prompts, cfg.heldout_share, cfg.validation_share)
    dropped = data.summary()
    sizes = f"{len(split.train)} to train on, {len(split.validation)} to validate, {len(split.heldout)} held out"
    print_fact(console, "data", f"{data.name}, {len(pairs)} pairs: {sizes}{dropped and f'; {dropped}'}")
    if cfg.train.total_batch_size % accelerator.num_processes:
        raise UserError(
            f"train.total_batch_size={cfg.train.total_batch_size} cannot be split evenly over "
            f"{accelerator.num_processes} processes; choose a multiple"
        )

    # the judge
    torch.manual_seed(cfg.seed)
    made_from = recipe(cfg)
    reward_model = made_from.make().to(accelerator.device)
    num = sum(parameter.numel() for parameter in reward_model.parameters() if parameter.requires_grad)
    console.print(
        f"  judge       {reward_model.kind} from {made_from.start.name}, {num:,} trained weights, {accelerator.device}"
    )
    reader = make_reader(view, reward_model, cfg.train.dataloader_num_workers, accelerator, work / "features")
    used = fit(reward_model, reader, split, probability, cfg.train, cfg.seed, work, accelerator)

    # its scale, by the pairs that chose the update; its figures, by pairs that chose nothing
    batch_size = cfg.train.micro_batch_size
    margins = predict(reward_model, reader, split.validation, batch_size, accelerator)
    scale = best_scale(margins, probability[split.validation])
    reward_model.log_scale.fill_(float(np.log(scale)))
    margins = predict(reward_model, reader, split.heldout, batch_size, accelerator)
    before = calibration(margins / scale, probability[split.heldout]).error
    known = [data.law(pairs[row]) for row in split.heldout]
    law = None if None in known else np.array(known, np.float64)
    heldout = [prompts[row] for row in split.heldout]
    figures = measure(margins, probability[split.heldout], heldout, law)

    read = partial(pooled_features, reward_model, reader, batch_size=batch_size, device=accelerator.device)
    seen_range = FeatureRange.of(read(split.train), read([*split.validation, *split.heldout]))
    record = RewardModelRecord(
        name=name,
        judge=reward_model.description(),
        start=_start(made_from, cfg),
        calibrated_on=made_from.start.calibrated_on,
        judged_by=list(data.labelled_by),
        data={
            "name": data.name,
            "fingerprint": data.fingerprint,
            "num_pairs": {part: len(rows) for part, rows in vars(split).items()},
            "dropped": dict(data.num_filtered),
        },
        figures={**asdict(figures), "scale": scale, "calibration_error_before_scaling": before},
        training={"seed": cfg.seed, **used},
        config=resolve_all(cfg),
        package_versions={package: importlib.metadata.version(package) for package in PACKAGES},
        commit=commit(),
    )
    if accelerator.is_main_process:
        seen = [pairs[row] for row in (*split.train, *split.validation)]
        images = data.identities_of({key for pair in seen for key in (pair.key_w, pair.key_l)})
        training_data = union([digests(images), made_from.start.training_data])
        files = {
            PICTURE: reliability(figures.calibration, name),
            LOG: (work / LOG).read_bytes(),
            TRAINING_DATA: encoded(training_data),
            RANGE: save(seen_range.tensors()),
        }
        write_reward_model(folder, reward_model, record, files)
        shutil.rmtree(work)
        _report(record, figures, before, folder, console)
    accelerator.wait_for_everyone()
    return record


def _found(folder: Path, cfg: DictConfig, console: Console) -> RewardModelRecord:
    """Return the judge that is there, if it was made as asked for."""
    record = RewardModelRecord.read(folder)
    different = [key for key, value in _recipe(resolve_all(cfg)).items() if _recipe(record.config)[key] != value]
    if different:
        raise UserError(
            f"{folder} holds a judge that was made with another {' and '.join(different)}; give a name of its own, as "
            "in name=NAME, or delete the folder"
        )
    console.print(f"  done before; held-out accuracy {record.figures['accuracy']['value']:.1%}")
    return record


def _start(made_from: RewardModelRecipe, cfg: DictConfig) -> dict[str, Any]:
    start = made_from.start
    arguments = {key: value for key, value in resolve_all(cfg)["judge"]["start"].items() if key != "_target_"}
    node = {"kind": type(start).__name__, **arguments}
    return {"evaluator": start.name, "version": start.version, "weights": start.weights, "node": node}


def _recipe(values: dict[str, Any]) -> dict[str, Any]:
    """Return what changes the weights of a judge."""
    train = {key: value for key, value in values["train"].items() if key not in NOT_IN_HASH}
    keys = ("judge", "data", "seed", "heldout_share", "validation_share")
    return without_frames({key: values[key] for key in keys} | {"train": train})


def _hash(cfg: DictConfig) -> str:
    text = json.dumps(with_former_names(_recipe(resolve_all(cfg))), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _report(record: RewardModelRecord, figures: Figures, before: float, folder: Path, console: Console) -> None:
    """Print how the judge does on held-out pairs."""
    accuracy, best = figures.accuracy, figures.best
    used = record.training
    say = console.print
    say(f"  kept        update {used['selected_step']} of {used['optimizer_steps']}, {duration(used['train_seconds'])}")
    say(f"  held out    {figures.num_pairs} pairs of {figures.num_prompts} prompts")
    at_best = "" if best is None else f"; at best {best.accuracy.value:.1%}"
    say(f"  accuracy    {accuracy.value:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}] of the winners{at_best}")
    agreement = figures.agreement
    say(f"  agreement   {agreement.value:.1%} [{agreement.low:.1%}, {agreement.high:.1%}] of single judgements", end="")
    if best is not None:
        gap = best.gap
        bounds = f"[{100 * gap.low:.1f}, {100 * gap.high:.1f}]"
        say(f"; at best {best.agreement.value:.1%}, {100 * gap.value:.1f} {bounds} points more", end="")
    say()
    error = figures.calibration
    say(
        f"  calibration error {error.error:.3f} ({before:.3f} before scaling by {record.figures['scale']:.2f}; "
        f"{error.by_chance:.3f} by chance), log loss {figures.log_loss:.3f}"
    )
    say(f"  picture     {folder / PICTURE}")
    say(f"  use it      reward=judge reward.path={folder}")
