"""Images of finished runs, paired by their scores, so that methods for pairs can learn from any evaluator."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Unpack, cast

import numpy as np

from alignbench.data.existing_images.folders import ImageFolder, read_image_folders
from alignbench.data.source import GeneratedPairSample, Kind, PairSource, PromptSample, View
from alignbench.data.sources.local import ranked
from alignbench.data.sources.pair_table_source import PairOptions, PairTableSource
from alignbench.data.sources.row_filters import check_choice
from alignbench.data.sources.sample_table import SampleTableBuilder
from alignbench.data.sources.table_source import Contents
from alignbench.data.storage.image_store import Files
from alignbench.diffusion.initial_noise import InitialNoise
from alignbench.errors import UserError, did_you_mean
from alignbench.models.schedulers import STOCHASTIC
from alignbench.settings.sampling import NoiseMode
from alignbench.settings.section import FrameCount, Positive
from alignbench.store.scores import Scores
from alignbench.videos import frame_spec

Which = Literal["best_worst", "all"]
WHICH = ("best_worst", "all")


class ScoredRuns(PairTableSource):
    """Pairs of images of one prompt, from one or several runs; the image with the better score is preferred.

    Args:
        name: as typed in `data=`.
        path: one or several run folders, or image folders of runs, with images and scores for the same prompts.
        evaluator: name of the evaluator whose scores decide; results mark it as trained on.
        which: `best_worst` pairs the best image of each prompt with the worst; `all` uses all pairs.
        temperature: score difference, in the published scale, at which the better image is preferred with probability
            73 % (Bradley-Terry model); None: the better image is always preferred.
        num_frames, fps: see `alignbench.settings.data.VideoSettings`.
        options: see `alignbench.settings.data.PairSettings`.
    """

    provides = PairSource.provides | {"generated_pairs"}

    def __init__(
        self,
        name: str,
        path: str | Sequence[str],
        evaluator: str,
        which: Which,
        temperature: float | None,
        num_frames: FrameCount = 1,
        fps: Positive | None = None,
        **options: Unpack[PairOptions],
    ) -> None:
        super().__init__(name, options)
        self.frames = frame_spec(num_frames, fps)
        check_choice("which", which, WHICH)
        if temperature is not None and not temperature > 0:
            raise UserError(f"data.temperature={temperature} must be a number above 0, or null")
        self.paths = [path] if isinstance(path, str) else list(path)
        if missing := [one for one in self.paths if not Path(one).is_dir()]:
            raise UserError(
                f"data.path={missing[0]} is not a folder; expected a run, such as results/dpo-sd15_mini-0123456789"
            )
        self.evaluator, self.which, self.temperature = evaluator, which, temperature
        self.labelled_by = (evaluator,)

    @cached_property
    def folders(self) -> list[ImageFolder]:
        """The image folders of the runs."""
        return read_image_folders(self.paths)

    def check_noise(self, model: str) -> None:
        """Refuse images whose initial noise does not lead to them along the path of the model that is trained.

        Args:
            model: its name.

        Raises:
            UserError: naming the folder and the reason.
        """
        for folder in self.folders:
            scheduler = folder.sampling.scheduler
            if folder.model is None:
                reason = "are not in the folder of a run, which would tell the model that made them"
            elif folder.model != model:
                reason = f"were made by model={folder.model}, and model={model} is trained"
            elif scheduler in STOCHASTIC:
                reason = f"were sampled by {scheduler}, which adds noise in each step"
            elif folder.sampling.control is not None:
                reason = "follow the maps of a ControlNet"
            elif folder.sampling.frames != self.frames:
                reason = f"have {folder.sampling.frames or 'one frame'}, and the model has {self.frames or 'one'}"
            else:
                continue
            raise UserError(f"the images of {folder.path} cannot be trained on with their initial noise: they {reason}")

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        if kind != "generated_pairs":
            return super().view(kind)
        return View(range(len(self.kept)), self._generated_pair, self.blocks(self.kept.images))

    def _generated_pair(self, row: int) -> GeneratedPairSample:
        pair = self.pair_sample(row)
        noise_w, noise_l = (self._noise[image.key] for image in (pair.image_w, pair.image_l))
        return GeneratedPairSample(pair.prompt, pair.image_w, pair.image_l, pair.probability_w, noise_w, noise_l)

    @cached_property
    def _noise(self) -> dict[str, InitialNoise]:
        """The initial noise of each image, by its key."""
        root = cast(Files, self.contents.store).folder
        return {
            _key(image, root): InitialNoise(
                record.prompt_id, number, folder.sampling.seed, cast(NoiseMode, folder.sampling.noise)
            )
            for folder in self.folders
            for record in folder.records
            for number, image in enumerate(record.images)
        }

    def read(self) -> Contents:
        folders = self.folders
        scored: dict[str, dict[str, float]] = {}  # by prompt, and then by path of the image
        found_scores = [self._scores(folder) for folder in folders]
        if any(scores.info != found_scores[0].info for scores in found_scores):
            raise UserError(
                f"the scores of data.evaluator={self.evaluator} in {' and '.join(self.paths)} have different "
                "versions or settings and cannot be compared; score one of them again"
            )
        for folder, scores in zip(folders, found_scores, strict=True):
            for prompt, image, score in _by_image(folder, scores):
                scored.setdefault(prompt, {})[image] = score

        low_is_best = not found_scores[0].info.higher_is_better
        root = _common([image for images in scored.values() for image in images])
        store, rows = Files(root, self.frames), SampleTableBuilder(2)
        for prompt, found in scored.items():
            finite = {image: score for image, score in found.items() if math.isfinite(score)}
            if without := len(found) - len(finite):
                self.num_filtered["no score"] += without
            images, values = list(finite), list(finite.values())
            if self.which == "best_worst":
                order = np.argsort(values, kind="stable")
                chosen = [int(order[0]), int(order[-1])] if len(order) > 1 else []
                images, values = [images[i] for i in chosen], [values[i] for i in chosen]
            by_image = dict(zip(images, values, strict=True))
            for pair, label in ranked(images, values, low_is_best):
                names = (_key(image, root) for image in pair)
                rows.add(prompt, map(store.add, names), self._probability(label, *(by_image[image] for image in pair)))
        return Contents(rows.table(), store)

    def _probability(self, label: float, score_0: float, score_1: float) -> float:
        """Return the probability that the first image is preferred, given its label, 1 if it is the better one."""
        if self.temperature is None or label == 0.5:
            return label
        certainty = 1.0 / (1.0 + np.exp(-abs(score_0 - score_1) / self.temperature))
        return float(certainty if label == 1.0 else 1.0 - certainty)

    def _scores(self, folder: ImageFolder) -> Scores:
        score_folder = folder.path.parents[2] / "scores" / folder.path.parent.name / folder.path.name
        files = sorted(score_folder.glob("*@*.parquet"))
        found = [file for file in files if file.name.split("@")[0] == self.evaluator]
        if not found:
            names = sorted({file.name.split("@")[0] for file in files})
            raise UserError(
                f"{score_folder} holds no scores of data.evaluator={self.evaluator};"
                f"{did_you_mean(self.evaluator, names)}"
            )
        if len(found) > 1:
            raise UserError(f"{score_folder} holds scores of several versions of {self.evaluator}; delete all but one")
        return Scores.read(found[0])


def _by_image(folder: ImageFolder, scores: Scores) -> Iterator[tuple[str, str, float]]:
    """Yield prompt, image and score of every scored image of a folder.

    Raises:
        UserError: an image has changed since it was scored.
    """
    records = {record.prompt_id: record for record in folder.records}
    columns = (scores.prompt_id, scores.image, scores.score, scores.digest)
    for prompt_id, number, score, digest in zip(*columns, strict=True):
        record = records[prompt_id]
        image = record.images[int(number)]
        if hashlib.sha256(Path(image).read_bytes()).hexdigest()[: len(digest)] != digest:
            raise UserError(f"{image} has changed since it was scored; score the run again with stages=[score]")
        yield record.prompt, image, float(score)


def _key(image: str, root: Path) -> str:
    """Return how the store of a folder names a file in it."""
    return Path(image).relative_to(root).as_posix()


def _common(images: list[str]) -> Path:
    """Return the innermost folder that holds all files."""
    return Path(os.path.commonpath([str(Path(image).parent) for image in images]))
