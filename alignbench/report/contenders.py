"""What is compared: the scores of one run, and the repetitions of a recipe with other training seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from alignbench.report.columns import BUDGET_COLUMNS
from alignbench.scoring.evidence import Counted
from alignbench.statistics import intervals
from alignbench.store.image_records import ImageKey, PromptRecord, SamplingRecord
from alignbench.store.look_record import LookRecord
from alignbench.store.manifest import DATA, Manifest
from alignbench.store.scores import Scores


@dataclass(frozen=True)
class Measurement:
    """One run, scored on one prompt set under one sampling by one evaluator.

    Attributes:
        borderline, categories: see `borderline_share` and `category_totals` of `alignbench.scoring.evidence`.
        looks: those at its win rate over base, where it was measured look by look.
    """

    manifest: Manifest
    sampling: SamplingRecord
    sampling_hash: str
    prompts: dict[str, PromptRecord]
    scores: Scores
    borderline: float | None = None
    categories: Mapping[str, Mapping[str, Counted]] = field(default_factory=dict)
    looks: LookRecord | None = None

    @property
    def compared_sampling(self) -> str:
        """Hash of the sampling of the images that these are compared with: their own, or base's at strength 1."""
        return self.sampling.base_sampling or self.sampling_hash

    @cached_property
    def keys(self) -> list[ImageKey]:
        """What was scored, in the order of the scores."""
        return list(zip(self.scores.prompt_id.tolist(), self.scores.image.tolist(), strict=True))

    @property
    def summary(self) -> float:
        """The figure of all its images that the evaluator is shown by."""
        info, by_group = self.scores.info, None
        if info.overall == "groups":
            by_group = [self.prompts[prompt_id].groups[:1] for prompt_id in self.scores.prompt_id]
        return intervals.summary(self.scores.score, info.summary, by_group)

    @cached_property
    def by_image(self) -> dict[ImageKey, float]:
        return dict(zip(self.keys, self.scores.score.tolist(), strict=True))


@dataclass(frozen=True)
class Contender:
    """The repetitions of one recipe with different training seeds, in the order of their seeds."""

    label: str
    runs: tuple[Measurement, ...]

    @cached_property
    def image_set(self) -> set[ImageKey]:
        """The images that all repetitions have a score for."""
        return set.intersection(*(set(run.by_image) for run in self.runs))

    def scores(self, images: Sequence[ImageKey]) -> np.ndarray:
        """Scores of these images, [S, N]; NaN where an image has none."""
        return np.array([[run.by_image.get(image, np.nan) for image in images] for run in self.runs])

    @property
    def is_limited(self) -> bool:
        """Whether fewer prompts than the full set were asked for, as by `prompts.limit`."""
        return any(run.sampling.subset for run in self.runs)

    @property
    def is_data(self) -> bool:
        """Whether these are real images, which exist of some of the prompts only."""
        return any(run.manifest.method == DATA for run in self.runs)

    @property
    def trained(self) -> bool:
        """Whether it came out of training, so that another seed would have given another one."""
        return any(run.manifest.seed is not None for run in self.runs)

    @cached_property
    def mean_budget(self) -> dict[str, float]:
        """What its training cost, by column: the mean over the repetitions; the largest for memory."""
        budgets = [vars(run.manifest.budget) for run in self.runs]
        means = {name: float(np.mean([budget[name] for budget in budgets])) for name in BUDGET_COLUMNS}
        return {**means, "peak_memory_gib": max(budget["peak_memory_gib"] for budget in budgets)}


def with_equal_scores_of_equal_images(contenders: Sequence[Contender]) -> list[Contender]:
    """Return the contenders with one score for copies of an image file, the first one's.

    A network's rounding depends on the images beside it in a batch, so that copies would beat each other by the last
    digit.
    """
    known: dict[tuple[ImageKey, str], float] = {}

    def run_with_known_scores(run: Measurement) -> Measurement:
        files = zip(run.keys, run.scores.digest.tolist(), strict=True)
        pairs = zip(files, run.scores.score.tolist(), strict=True)
        scores = [known.setdefault((image, digest), score) if digest else score for (image, digest), score in pairs]
        return replace(run, scores=replace(run.scores, score=np.array(scores, dtype=run.scores.score.dtype)))

    return [replace(one, runs=tuple(map(run_with_known_scores, one.runs))) for one in contenders]
