"""Compare the runs of one model on one prompt set by one evaluator: the rows of every table."""

from collections.abc import Sequence, Set
from itertools import combinations

import numpy as np

from alignbench.report.columns import P_VALUES, STOPPED_AT, TableRow
from alignbench.report.contenders import Contender, with_equal_scores_of_equal_images
from alignbench.report.looks import LooksOfPair
from alignbench.statistics import bradley_terry, intervals
from alignbench.statistics.resampling import Estimate, Resampling, Resamplings
from alignbench.store.image_records import ImageKey, PromptRecord
from alignbench.store.manifest import BASE

ALL = "all"
CIRCLES = "; "  # between circles of methods, whose names may have blanks


class MethodComparison:
    """All contenders of one model on one prompt set and sampling by one evaluator.

    Their scores were made in one way, of prompts that read alike; see `alignbench.report.conflicts.scores`.

    Attributes:
        full_size: number of prompts of the whole prompt set.
        common: the images that medians and means are over: those that all contenders have. Contenders that were limited
            to fewer prompts on purpose, and real images, do not count here; theirs are over what they have of these.
        over_base: how each method compares with base on all prompts; filled by `rows`.
    """

    def __init__(self, name: str, contenders: list[Contender], resamplings: Resamplings):
        self.prompt_set = name
        contenders = with_equal_scores_of_equal_images(contenders)
        self.contenders = sorted(contenders, key=lambda contender: (contender.label != BASE, contender.label))
        made = [contender for contender in contenders if not contender.is_data] or contenders
        whole = [contender for contender in made if not contender.is_limited] or made
        self.common = set.intersection(*(contender.image_set for contender in whole))
        self.full_size = max(contender.runs[0].sampling.full_size for contender in contenders)
        self.resamplings = resamplings
        self.info = contenders[0].runs[0].scores.info
        self.model = contenders[0].runs[0].manifest.model
        self.prompts: dict[str, PromptRecord] = {}
        for run in (run for contender in self.contenders for run in contender.runs):
            self.prompts = run.prompts | self.prompts
        self.image_lists: list[list[ImageKey]] = []
        self._image_sets: list[Set[ImageKey]] = []  # the same, as they are looked up
        self._num_prompts: list[int] = []  # of each of them
        self.over_base: dict[str, intervals.Comparison] = {}
        self._all: dict[str, int] = {}
        self._shared: dict[tuple[str, ...], int] = {}
        self._shown: dict[str, int] = {}

    @property
    def groups(self) -> list[str]:
        return [ALL, *sorted({group for record in self.prompts.values() for group in record.groups} - {ALL})]

    def belongs(self, image: ImageKey, group: str) -> bool:
        return group == ALL or group in self.prompts[image[0]].groups

    def shared(self, *contenders: Contender) -> int:
        """Return the index in `image_lists` of the images that all of these have, sorted."""
        labels = tuple(contender.label for contender in contenders)
        if labels not in self._shared:
            sets = {self._all_of(one): one.image_set for one in contenders}
            self._shared[labels] = (
                next(iter(sets)) if len(sets) == 1 else self._number_of(set.intersection(*sets.values()))
            )
        return self._shared[labels]

    def _all_of(self, contender: Contender) -> int:
        """Return the index in `image_lists` of all images of this contender."""
        if contender.label not in self._all:
            self._all[contender.label] = self._number_of(contender.image_set)
        return self._all[contender.label]

    def shown(self, contender: Contender) -> int:
        """Return the index in `image_lists` of the images that figures of this contender alone are over."""
        if contender.label not in self._shown:
            self._shown[contender.label] = self._number_of(contender.image_set & self.common)
        return self._shown[contender.label]

    def _number_of(self, images: Set[ImageKey]) -> int:
        for number, known in enumerate(self._image_sets):
            if images == known:
                return number
        self._image_sets.append(images)
        self.image_lists.append(sorted(images))
        self._num_prompts.append(len({prompt_id for prompt_id, _ in images}))
        return len(self.image_lists) - 1

    def resampling(self, images: Sequence[ImageKey]) -> Resampling:
        return self.resamplings.of(self.prompts[prompt_id].prompt for prompt_id, _ in images)

    def scores(self, contender: Contender, images: Sequence[ImageKey]) -> np.ndarray:
        """Scores of these images, [S, N], turned so that the higher is the better."""
        return contender.scores(images) if self.info.higher_is_better else -contender.scores(images)

    def published(self, estimate: Estimate) -> Estimate:
        """Turn a figure of `scores` back into the evaluator's own direction."""
        if self.info.higher_is_better:
            return estimate
        return Estimate(-estimate.value, -estimate.high, -estimate.low)

    def rows(self) -> tuple[list[TableRow], list[TableRow], list[TableRow]]:
        """Return the rows of leaderboard, win rates and ranking."""
        leaderboard, win_rates = [], []
        for group in self.groups:
            comparisons = self.within(group)
            over_base = {}
            for b, a in combinations(self.contenders, 2):  # base comes first, so it is never a
                result = comparisons.compare(a, b)
                if result is not None:
                    win_rates.append(self._win_rate_row(group, a, b, result))
                    if b.label == BASE:
                        over_base[a.label] = result
            rows = (comparisons.row(contender, over_base.get(contender.label)) for contender in self.contenders)
            leaderboard += [row for row in rows if row is not None]
            if group == ALL:
                self.over_base = over_base
        return leaderboard, win_rates, self.ranking()

    def within(self, group: str) -> "GroupComparison":
        """Return the comparisons within one group of prompts."""
        return GroupComparison(self, group)

    def meet(self, a: Contender, b: Contender) -> bool:
        """Say whether two contenders can be compared."""
        return bool(a.image_set & b.image_set)

    def looks(self, a: Contender, b: Contender) -> LooksOfPair | None:
        """Return the looks that decided which prompts two contenders have in common; None where nobody looked."""
        records = [run.looks for one in (a, b) for run in one.runs]
        decided_by = self.info if b.label == BASE and len(a.runs) == 1 else None
        return LooksOfPair.of(records, len(self.shared_texts(a, b)), decided_by) if any(records) else None

    def stopped_at(self, a: Contender, b: Contender) -> str | None:
        """Write which of its looks a comparison shows, as in `2 of 5`."""
        looks = self.looks(a, b)
        return None if looks is None else " of ".join(map(str, looks.look))

    def shared_texts(self, a: Contender, b: Contender) -> set[str]:
        """Return the prompts that both have."""
        return {self.prompts[prompt_id].prompt for prompt_id, _ in a.image_set & b.image_set}

    def widening(self, ranked: Sequence[Contender]) -> list[list[float]]:
        """Return how many times as wide as plain intervals those of each pair of contenders are, [M, M]."""
        looks = [[self.looks(a, b) for b in ranked] for a in ranked]
        return [[1.0 if one is None else one.widening for one in row] for row in looks]

    def strengths(self, ranked: Sequence[Contender]) -> bradley_terry.Ranking:
        """Fit the strengths of contenders of which the first meets all others."""
        images = sorted(set.union(*(contender.image_set for contender in ranked)))
        scores = [self.scores(one, images) for one in ranked]
        return bradley_terry.rank(scores, self.resampling(images), self.widening(ranked))

    def ranking(self) -> list[TableRow]:
        """Return the strength of each method that shares images with base; nothing where there is none, or no base."""
        base = self.contenders[0]
        ranked = [contender for contender in self.contenders if contender is base or self.meet(contender, base)]
        if base.label != BASE or len(ranked) < 2:
            return []
        found = self.strengths(ranked)
        ranks = found.ranks([not self.trained_on(contender) for contender in ranked])
        circles = [(circle, ">".join(ranked[i].label for i in (*circle, circle[0]))) for circle in found.intransitive]
        return [
            {
                "model": self.model,
                "prompt_set": self.prompt_set,
                "group": ALL,
                "evaluator": self.info.evaluator,
                "version": self.info.version,
                "method": contender.label,
                "rank": ranks[index],
                **_estimate("strength", "ci", found.strengths[index]),
                "fit_gap": float(np.nanmax(np.abs(np.delete(found.gaps[index], index)))),
                "intransitive": CIRCLES.join(text for circle, text in circles if index in circle),
            }
            for index, contender in enumerate(ranked)
        ]

    def is_subset(self, contender: Contender) -> bool:
        """Whether figures of this contender are over fewer prompts than the full set has."""
        return self._num_prompts[self.shown(contender)] < self.full_size

    def trained_on(self, contender: Contender) -> bool:
        """Whether a run of it saw this evaluator, or prompts of this set."""
        return any(
            self.info.evaluator in run.manifest.trained_on
            or self.prompt_set.partition("@")[0] in run.manifest.trained_prompt_sets
            for run in contender.runs
        )

    def start_of(self, contender: Contender) -> Contender | None:
        """Return the contender whose weights the training of another started from; None if that is not compared."""
        starts = {run.manifest.start_run for run in contender.runs} - {None}
        as_trained = [one for one in self.contenders if one.runs[0].sampling.strength == 1]
        return next((one for one in as_trained if starts & {run.manifest.run for run in one.runs}), None)

    def _win_rate_row(self, group: str, a: Contender, b: Contender, result: intervals.Comparison) -> TableRow:
        return {
            "model": self.model,
            "prompt_set": self.prompt_set,
            "group": group,
            "evaluator": self.info.evaluator,
            "version": self.info.version,
            "method_a": a.label,
            "method_b": b.label,
            "n": result.n,
            "wins": result.wins,
            "ties": result.ties,
            **_estimate("win_rate", "ci", result.win_rate),
            **{name: getattr(result, name) for name in P_VALUES},
            STOPPED_AT: self.stopped_at(a, b),
        }


class GroupComparison:
    """Comparisons within one group of prompts; contenders with the same images share one pass over the resamples."""

    def __init__(self, comparison: MethodComparison, group: str) -> None:
        self.comparison = comparison
        self.group = group
        self._paired: dict[int, tuple[list[Contender], intervals.PairedScores | None, list[ImageKey]]] = {}

    def compare(self, a: Contender, b: Contender) -> intervals.Comparison | None:
        """Compare on the images that both have; None where they share none."""
        contenders, paired, _ = self._paired_scores(self.comparison.shared(a, b))
        if paired is None:
            return None
        looks, single = self.comparison.looks(a, b), paired.compare(contenders.index(a), contenders.index(b))
        return single if looks is None else looks.result(single, is_whole=self.group == ALL)

    def mean(self, contender: Contender, *others: Contender) -> tuple[int, Estimate] | None:
        """Return the mean score on the images that all of these have, and how many scores it is of; None for none."""
        contenders, paired, images = self._paired_scores(self.comparison.shared(contender, *others))
        if paired is None:
            return None
        return len(images) * len(contender.runs), self.comparison.published(
            self._mean(paired, images, contenders.index(contender))
        )

    def row(self, contender: Contender, over_base: intervals.Comparison | None) -> TableRow | None:
        """Return the leaderboard row of one contender; None where it has no image of the group."""
        contenders, paired, images = self._paired_scores(self.comparison.shown(contender))
        if paired is None:
            return None
        comparison, index = self.comparison, contenders.index(contender)
        start = comparison.start_of(contender)
        manifests = [run.manifest for run in contender.runs]
        nothing = Estimate(float("nan"), float("nan"), float("nan"))
        return {
            "model": comparison.model,
            "method": contender.label,
            "run": " ".join(manifest.run for manifest in manifests),
            "num_seeds": len(manifests),
            "seed_sd": self._seed_sd(paired.scores[index], images) if len(manifests) > 1 else None,
            "prompt_set": comparison.prompt_set,
            "group": self.group,
            "evaluator": comparison.info.evaluator,
            "version": comparison.info.version,
            "n": len(images) * len(manifests),
            "subset": comparison.is_subset(contender),
            "summary": comparison.info.summary,
            **_estimate("median", "median_ci", comparison.published(paired.median(index))),
            **_estimate("mean", "mean_ci", comparison.published(self._mean(paired, images, index))),
            **_estimate("win_rate_vs_base", "win_ci", over_base.win_rate if over_base else nothing),
            **{name: getattr(over_base, name) if over_base else None for name in P_VALUES},
            "trained_on": comparison.trained_on(contender),
            "start": None if start is None else start.label,
            **contender.mean_budget,
            STOPPED_AT: comparison.stopped_at(contender, comparison.contenders[0]) if over_base else None,
        }

    def _mean(self, paired: intervals.PairedScores, images: Sequence[ImageKey], index: int) -> Estimate:
        """Return the mean score: over images, or over the first groups of their prompts if the evaluator says so."""
        groups = self._groups(images)
        return paired.mean(index) if groups is None else paired.mean_of_groups(index, groups)

    def _seed_sd(self, scores: np.ndarray, images: Sequence[ImageKey]) -> float:
        """Return the spread over training seeds, [S, N], of the figure that the evaluator is shown by."""
        kind, groups = self.comparison.info.summary, self._groups(images)
        return float(np.std([intervals.summary(of_seed, kind, groups) for of_seed in scores], ddof=1))

    def _groups(self, images: Sequence[ImageKey]) -> list[tuple[str, ...]] | None:
        """Return the group of each image whose means are averaged; None where a mean is over images."""
        if self.comparison.info.overall == "images" or self.group != ALL:
            return None
        return [self.comparison.prompts[prompt_id].groups[:1] for prompt_id, _ in images]

    def _paired_scores(self, number: int) -> tuple[list[Contender], intervals.PairedScores | None, list[ImageKey]]:
        """Return the scores on a list of images, of all contenders that have them; None where the group has none."""
        if number not in self._paired:
            comparison = self.comparison
            images = [image for image in comparison.image_lists[number] if comparison.belongs(image, self.group)]
            contenders = [contender for contender in comparison.contenders if contender.image_set.issuperset(images)]
            scores = [comparison.scores(contender, images) for contender in contenders]
            trained = [contender.trained for contender in contenders]
            paired = intervals.PairedScores(scores, comparison.resampling(images), trained) if images else None
            self._paired[number] = contenders, paired, images
        return self._paired[number]


def _estimate(name: str, interval: str, estimate: Estimate) -> TableRow:
    return {name: estimate.value, f"{interval}_low": estimate.low, f"{interval}_high": estimate.high}
