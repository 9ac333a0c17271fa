"""The images of one run, with all that is known of them: their scores, statistics and feature vectors."""

import os
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from alignbench.report.contenders import Measurement
from alignbench.scoring.feature_rows import FeatureInfo, feature_rows
from alignbench.statistics.image_statistics import MEASURES, ImageStatistics
from alignbench.store.image_records import ImageKey, PromptRecord
from alignbench.store.image_statistics_table import ImageToMeasure, measured
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores, digest_of

Vectors = dict[ImageKey, np.ndarray]


@dataclass(frozen=True)
class Taken:
    """The images of one run on one prompt set and sampling, with all scores of them.

    Attributes:
        folder: that holds the images: of the run, or of a look at it.
    """

    folder: RunFolder
    scored: tuple[Measurement, ...]

    @cached_property
    def shown(self) -> dict[ImageKey, ImageToMeasure]:
        """The file of each image that was scored, and its digest then."""
        images = self.folder.images(*self._location)
        digests: dict[ImageKey, set[str]] = defaultdict(set)
        for entry in self.scored:
            for key, digest in zip(entry.keys, entry.scores.digest.tolist(), strict=True):
                noted = digests[key]
                if digest:  # people note none of what they were shown
                    noted.add(digest)
        prompts = self.prompts
        # text, as a `Path` takes ten times as long and there may be a hundred thousand
        paths = {(name, number): os.path.join(images, prompts[name].images[number]) for name, number in digests}
        return {key: ImageToMeasure(path, _digest(path, digests[key])) for key, path in paths.items()}

    @cached_property
    def statistics(self) -> dict[ImageKey, ImageStatistics]:
        """What was measured of each image that was scored and is, or was then, there."""
        return measured(self.folder.statistics_file(*self._location), self.shown)

    @cached_property
    def features(self) -> dict[FeatureInfo, Vectors]:
        """By the features that were computed, the vector of each image that has one, [D]."""
        found: dict[FeatureInfo, Vectors] = {}
        for rows in feature_rows(self.folder):
            vectors = rows.read([shown.digest for shown in self.shown.values()])
            of_images = zip(self.shown, vectors, strict=True)
            found[rows.info] = {key: vector for key, vector in of_images if vector is not None}
        return found

    @property
    def _location(self) -> tuple[str, str]:
        return self.scored[0].sampling.prompt_set, self.scored[0].sampling_hash

    @property
    def prompts(self) -> dict[str, PromptRecord]:
        """The prompts of all evaluators; some score only a part."""
        return {name: record for entry in self.scored for name, record in entry.prompts.items()}

    def measurement(self, measure: str) -> Measurement | None:
        """Return one statistic as if it were a score; None where an image has none."""
        column = list(MEASURES).index(measure)
        keys = list(self.statistics)
        values = [self.statistics[key].figures[column] for key in keys]
        if not keys or not np.isfinite(values).all():
            return None
        ids, numbers = zip(*keys, strict=True)
        scores = Scores.of(ScoreInfo(measure, MEASURES[measure]), ids, numbers, values, [""] * len(keys))
        return replace(self.scored[0], scores=scores, prompts=self.prompts)


def _digest(path: str, noted: set[str]) -> str:
    """Return the digest of an image as it was scored; where evaluators saw different files, of that which is there."""
    if len(noted) == 1 or not os.path.exists(path):
        return min(noted, default="")
    found = digest_of(Path(path))
    return found if found in noted or not noted else min(noted)
