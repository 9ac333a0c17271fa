"""Make a share of a run's images and scores again, from what a capsule says of them, and compare.

Images are made and scored by the functions that made and scored them. Whole batches are made again, since images that
are made together are the same to the last bit only where they are made together again.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from alignbench.capsule.compared import Repeated, compare_images, compare_scores
from alignbench.configuration.build import frames_of, trains
from alignbench.configuration.find_evaluator import build_evaluator, evaluator_names
from alignbench.configuration.run_config import read_run_config
from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.generation.generate import Sampling, generate, image_set
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.loading import is_here
from alignbench.report.tables import measurements
from alignbench.scoring.calibration import calibrate
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.score import info, score
from alignbench.stages.prepare import build_adapter
from alignbench.store.image_records import PromptRecord, SamplingRecord
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.text import keyed

MAX_STEPS, MAX_BATCH, MAX_SIDE, MAX_FRAMES = 1000, 1024, 8192, 1000  # of what is worth making again
SIDES = ("resolution", "sampling_resolution")  # of a model, for images whose size is not said
FIELDS = (
    "num_inference_steps", "guidance_scale", "num_images_per_prompt", "noise", "seed", "scheduler", "negative_prompt",
    "true_cfg_scale", "resolution", "frames",
)  # fmt: skip


class Repeater:
    """Makes images and scores of the runs of a capsule again.

    Args:
        workspace: an empty folder.
        share: of the images of each prompt set, 0 to 1; at least one batch is made.
        seed: chooses them.
    """

    def __init__(self, workspace: Path, share: float, seed: int) -> None:
        self.workspace, self.share, self.seed = workspace, share, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network_pool = NetworkPool(self.device)
        self.evaluator = cache(self._evaluator)

    def repeat(self, run: RunFolder, policy: Path | None) -> Repeated:
        """Make a share of one run again.

        Args:
            policy: its trained weights; None where they are not at hand.

        Raises:
            UserError: nothing of the run can be made again; the sentence says why.
        """
        cfg, found = read_run_config(run.config_file), Repeated()
        todo = self._todo(run, cfg, found)
        if not todo:
            return found
        model = _model(cfg, run, policy)
        model.to(self.device)
        again = RunFolder(self.workspace / run.name)
        replace(run.manifest, files={}, completed={}).write(again.manifest_file)
        for (prompt_set, sampling_hash), (sampling, prompts) in todo.items():
            generate(model, prompts, sampling, again)
            kept = {
                (entry.scores.info.evaluator, entry.scores.info.version): entry.scores
                for entry in measurements(run)
                if (entry.sampling.prompt_set, entry.sampling_hash) == (prompt_set, sampling_hash)
            }
            folder = again.images(prompt_set, sampling_hash)
            keys = [(one.prompt_id, number) for one in prompts for number in range(sampling.num_images_per_prompt)]
            files = {key: folder / sampling.file_name(*key) for key in keys}
            same_bits = compare_images(run, files, kept.values(), found)
            images = image_set(prompts, sampling, cfg.model.resolution)
            evaluators = []
            for scores in kept.values():
                evaluator = self.evaluator(scores.info)
                reason = evaluator if isinstance(evaluator, str) else evaluator.supports(prompts.texts)
                if reason is None:
                    evaluators.append(evaluator)
                else:
                    found.told.append(f"scores by {scores.info.evaluator} were not made again: {reason}")
            if evaluators:
                score(again, images, evaluators, sampling.batch_size, self.network_pool)
            for evaluator in evaluators:
                key = evaluator.name, evaluator.version
                made = Scores.read(again.score_file(prompt_set, sampling_hash, *key))
                compare_scores(run.name, evaluator, (kept[key], made), same_bits, found)
        return found

    def _todo(
        self, run: RunFolder, cfg: DictConfig, found: Repeated
    ) -> dict[tuple[str, str], tuple[Sampling, PromptSet]]:
        """Return what is to be made again of each folder of images; say which cannot be."""
        todo = {}
        for entry in measurements(run):
            key = (entry.sampling.prompt_set, entry.sampling_hash)
            if key in todo:
                continue
            try:
                sampling = sampling_of(entry.sampling, entry.sampling_hash, cfg)
                records = chosen(list(entry.prompts.values()), sampling, self.share, [self.seed, run.name, *key])
            except UserError as error:
                if (told := f"images of {key[0]} were not made again: {error}") not in found.told:
                    found.told.append(told)
                continue
            prompts = tuple(Prompt(one.prompt_id, one.prompt, one.groups) for one in records)
            todo[key] = sampling, PromptSet(key[0], prompts, entry.sampling.full_size)
        return todo

    def _evaluator(self, how: ScoreInfo) -> Evaluator | str:
        """Return an evaluator that scores as the one of the capsule did, or why there is none."""
        if how.evaluator not in evaluator_names():
            return "this program has none of that name"
        try:
            evaluator = build_evaluator(how.evaluator, {})
            if evaluator.version != how.version:
                return f"this program has version {evaluator.version}, the capsule {how.version}"
            if other := [key for key, value in info(evaluator).record().items() if how.record().get(key) != value]:
                return f"it has another {' and '.join(other)} here"
            calibrate([evaluator], self.workspace, self.network_pool)
        except UserError as error:
            return str(error)
        return evaluator


def sampling_of(record: SamplingRecord, sampling_hash: str, cfg: DictConfig) -> Sampling:
    """Return the sampling that made the images of a folder.

    Args:
        sampling_hash: name of the folder, which the sampling has to come to.

    Raises:
        UserError: it cannot be repeated, or does not come to that name.
    """
    odd = {"control": record.control, "base_bits": record.base_bits, "strength": None if record.strength == 1 else 1}
    if set_ones := [name for name, value in odd.items() if value is not None]:
        raise UserError(f"they were made with sampling.{set_ones[0]}, which is not repeated")
    sides = [record.resolution, *(OmegaConf.select(cfg, f"model.{key}") for key in SIDES)]
    are_small = all(side is None or (isinstance(side, int) and 0 < side <= MAX_SIDE) for side in sides)
    if not 0 < record.num_inference_steps <= MAX_STEPS or not are_small:
        raise UserError(f"they took more than {MAX_STEPS} steps or {MAX_SIDE} pixels a side")
    if record.frames is not None and record.frames.num_frames > MAX_FRAMES:
        raise UserError(f"they are videos of more than {MAX_FRAMES} frames")
    if record.num_images_per_prompt < 1 or record.guidance_scale is None:
        raise UserError("sampling.json does not say how they were made")
    size: Any = OmegaConf.select(cfg, "sampling.batch_size")
    values = {name: getattr(record, name) for name in FIELDS}
    sampling = Sampling(**values, batch_size=size if isinstance(size, int) and 0 < size <= MAX_BATCH else 16)
    if sampling.hash != sampling_hash or frames_of(cfg.model) != record.frames:
        raise UserError(f"sampling.json does not describe the sampling {sampling_hash}")
    return sampling


def chosen(
    records: Sequence[PromptRecord], sampling: Sampling, share: float, seeds: Sequence[Any]
) -> list[PromptRecord]:
    """Draw prompts whose images fill whole batches of those that were made, in their order; at least one batch.

    Raises:
        UserError: prompts have different numbers of images, so that the batches are not known.
    """
    number = sampling.num_images_per_prompt
    if any(len(record.images) != number for record in records):
        raise UserError("its prompts have different numbers of images")
    width = math.lcm(sampling.batch_size, number) // number  # prompts
    groups = [records[start : start + width] for start in range(0, len(records), width)]
    wanted = math.ceil(share * len(records) / width)
    drawn = sorted(sorted(range(len(groups)), key=lambda group: keyed(*seeds, group))[:wanted])
    return [record for group in drawn for record in groups[group]]


def _model(cfg: DictConfig, run: RunFolder, policy: Path | None) -> ModelAdapter:
    """Return the model that made the images of a run.

    Raises:
        UserError: its weights are not at hand.
    """
    if cfg.model.policy is not None:
        raise UserError("it started from another policy, which a capsule does not hold")
    if trains(cfg) and policy is None:
        raise UserError("its policy is not in the capsule; give it by --policy PATH")
    path: Any = OmegaConf.select(cfg, "model.pretrained_model_name_or_path")
    if path is not None and not is_here(path, cfg.model.revision):
        raise UserError(f"the weights of {cfg.model.name} ({path}) are not on this machine, and nothing is downloaded")
    model = build_adapter(cfg.model)
    if policy is not None:
        model.load_policy(str(policy))
    return model
