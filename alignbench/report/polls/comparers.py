"""Verdicts of comparers as one more evaluator each, called by the comparer's name: a poll with one rater.

An image's own score is the share of its comparisons that it wins, ties half. Both orders of a pair are one comparison.
All intervals and p-values are over prompts, and hold for this comparer.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alignbench.pairwise.orders import JudgedPair, PositionBias, position_bias
from alignbench.report.columns import TableRow
from alignbench.report.contenders import Measurement
from alignbench.report.polls.poll import Poll
from alignbench.statistics.resampling import NUM_RESAMPLES, Resampling
from alignbench.store.image_records import ImageKey, PromptRecord, SamplingRecord, read_prompts, read_sampling
from alignbench.store.look_record import LookRecord, read_looks
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.store.verdicts import Judged, PairKey, VerdictFile, judged_pairs
from alignbench.votes.preferences import Preference

ImageFile = tuple[str, str, str, str, int]  # run, prompt set, sampling, prompt id and number
PAIRS = "pairs of images"  # what a comparer's figures are of, in the place of a preprocessing


@dataclass(frozen=True)
class ComparedRun:
    """A run whose images were compared."""

    manifest: Manifest
    sampling: SamplingRecord
    records: dict[str, PromptRecord]
    looks: LookRecord | None


@dataclass(frozen=True)
class ComparerPoll(Poll):
    """What one comparer said of the runs of one model."""

    file: VerdictFile
    model: str
    runs: Mapping[str, ComparedRun]
    pairs: Mapping[PairKey, JudgedPair]

    @property
    def evaluator(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.file.comparer

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        return self.model, self.file.prompt_set, self.file.sampling_hash, self.evaluator, self.file.version

    @cached_property
    def preferences(self) -> list[Preference]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of each pair that did not fail."""
        return [
            Preference(0, "", prompt_id, a, b, won, image)
            for (a, b, prompt_id, image), pair in self.pairs.items()
            if (won := pair.won) is not None
        ]

    @property
    def measurements(self) -> list[Measurement]:
        info = ScoreInfo(self.evaluator, self.file.version, preprocess=PAIRS, display_scale=100.0, summary="mean")
        won: dict[str, dict[ImageKey, list[float]]] = defaultdict(lambda: defaultdict(list))
        for one in self.preferences:
            won[one.a][one.prompt_id, one.image].append(one.won)
            won[one.b][one.prompt_id, one.image].append(1 - one.won)
        found = []
        for name in sorted(won):
            prompt_ids, images = zip(*won[name], strict=True)
            shares = [np.mean(each) for each in won[name].values()]
            run, scores = self.runs[name], Scores.of(info, prompt_ids, images, shares, [""] * len(shares))
            run_and_images = run.manifest, run.sampling, self.file.sampling_hash, run.records
            found.append(Measurement(*run_and_images, scores, looks=run.looks))
        return found

    def resampling(self, preferences: Sequence[Preference], num_resamples: int) -> Resampling:
        """Return the resamples over prompts; another sample would have the same comparer."""
        text = {prompt_id: pair.prompt for (_, _, prompt_id, _), pair in self.pairs.items()}
        return Resampling((text[one.prompt_id] for one in preferences), num_resamples)

    @cached_property
    def bias(self) -> PositionBias:
        """How far the position decided, and how much failed, over all pairs."""
        return position_bias(self.pairs.values())

    @property
    def remark(self) -> str:
        """What is said of the comparer below the tables."""
        told = f"{self.evaluator}: {self.bias}"
        if self.bias.fails_often:
            return f"{told}; that is too many, so its figures are in no table"
        return "; ".join(filter(None, (told, self.bias.warning)))


def compared_runs(file: VerdictFile, lines: Sequence[Judged], folders: Iterable[RunFolder]) -> dict[str, ComparedRun]:
    """Return those of the runs that verdicts are about, by name.

    Raises:
        UserError: what a run says of its images cannot be read.
    """
    named, found = {name for line in lines for name in (line.a, line.b)}, {}
    for folder in (folder for folder in folders if folder.name in named):
        images = folder.images(file.prompt_set, file.sampling_hash)
        records = {record.prompt_id: record for record in read_prompts(images)}
        looks = read_looks(folder, file.prompt_set, file.sampling_hash)
        found[folder.name] = ComparedRun(folder.manifest, read_sampling(images), records, looks)
    return found


def comparer_polls(
    files: Iterable[VerdictFile], folders: Iterable[RunFolder], scored: Iterable[Measurement]
) -> list[ComparerPoll]:
    """Return what comparers said of these runs, model by model.

    Verdicts on images that have changed since, as far as their scores know it, do not count.

    Args:
        scored: scores of the runs, which name the image files that they are of.
    """
    digests: dict[ImageFile, set[str]] = defaultdict(set)
    for one in scored:
        for key, digest in zip(one.keys, one.scores.digest.tolist(), strict=True):
            if digest:  # early versions noted none
                digests[one.manifest.run, one.sampling.prompt_set, one.sampling_hash, *key].add(digest)
    folders, polls = list(folders), []
    for file in files:
        lines = file.read_latest()
        runs = compared_runs(file, lines, folders)
        by_model: dict[str, list[Judged]] = defaultdict(list)
        for line in (line for line in lines if {line.a, line.b} <= runs.keys()):
            if all(_shows(run, line) for run in (runs[line.a], runs[line.b])) and not _is_stale(line, file, digests):
                by_model[runs[line.a].manifest.model].append(line)
        polls += [ComparerPoll(file, model, runs, judged_pairs(of)) for model, of in sorted(by_model.items())]
    return polls


def comparer_rows(
    poll: ComparerPoll, prompt_set: str, labels: Mapping[str, str], num_resamples: int = NUM_RESAMPLES
) -> list[TableRow]:
    """Return the rows of `comparers.csv`: one over all pairs, and one for each two methods.

    Args:
        prompt_set: how tables call it.
        labels: how tables call each run.
    """
    by_methods: dict[tuple[str, str], list[JudgedPair]] = defaultdict(list)
    for (a, b, *_), pair in poll.pairs.items():
        by_methods[labels[b], labels[a]].append(pair)  # a is base, which tables compare the others with
    where = {"model": poll.model, "prompt_set": prompt_set, "evaluator": poll.evaluator, "version": poll.file.version}
    rows = [where | {"method_a": "", "method_b": ""} | _bias_cells(poll.bias) | _win_cells([])]
    for (method_a, method_b), pairs in sorted(by_methods.items()):
        cells = _bias_cells(position_bias(pairs, num_resamples)) | _win_cells(pairs)
        rows.append(where | {"method_a": method_a, "method_b": method_b} | cells)
    return rows


def _bias_cells(bias: PositionBias) -> TableRow:
    names = ("calls", "pairs", "failures", "ties", "first_rate", "consistent", "always_first", "always_second")
    position = bias.log_odds
    return {name: getattr(bias, name) for name in names} | {
        "position": position.value,
        "position_ci_low": position.low,
        "position_ci_high": position.high,
        "tokens_read": bias.tokens[0],
        "tokens_written": bias.tokens[1],
        "seconds": bias.seconds,
    }


def _win_cells(pairs: Sequence[JudgedPair]) -> TableRow:
    """Return the share won by the second run, and between which shares it lies whatever failed pairs would say."""
    won = [1 - one for pair in pairs if (one := pair.won) is not None]
    if not won:
        return {"win_rate": None, "win_rate_least": None, "win_rate_most": None}
    rate, failed = float(np.mean(won)), 1 - len(won) / len(pairs)
    least = rate * (1 - failed)
    return {"win_rate": rate, "win_rate_least": least, "win_rate_most": least + failed}


def _shows(run: ComparedRun, line: Judged) -> bool:
    """Say whether a run has the image that a verdict is about, for the same prompt."""
    record = run.records.get(line.prompt_id)
    return record is not None and record.prompt == line.prompt and line.image < len(record.images)


def _is_stale(line: Judged, file: VerdictFile, digests: Mapping[ImageFile, Set[str]]) -> bool:
    """Say whether an image was scored with other content than a verdict is about."""
    where = (file.prompt_set, file.sampling_hash, line.prompt_id, line.image)
    shown = {(line.a, *where): line.digest_a, (line.b, *where): line.digest_b}
    return any(digest not in digests.get(image, {digest}) for image, digest in shown.items())
