"""Build `leaderboard.csv`, `win_rates.csv` and `ranking.csv` from all run folders of a results root.

Figures are compared only between runs of one model on the same prompt set and sampling, by one version of an evaluator.
Runs of the same recipe with several training seeds are one row. A run whose images were made at several strengths has a
row for each, all compared with the same images of base. P-values are Holm-adjusted over all rows of one model and
prompt set. The same inputs give the same bytes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np

from alignbench.files import write_csv
from alignbench.report.columns import (
    BEST_SETTING_COLUMNS,
    COMPARER_COLUMNS,
    DIAGNOSTIC_COLUMNS,
    GUIDANCE_COLUMNS,
    LEADERBOARD_COLUMNS,
    P_VALUES,
    QUESTION_COLUMNS,
    RANKING_COLUMNS,
    SENSITIVITY_COLUMNS,
    STOPPED_AT,
    TRIED,
    WIN_RATE_COLUMNS,
    TableRow,
)
from alignbench.report.comparison import MethodComparison
from alignbench.report.conflicts.runs import comparable_runs
from alignbench.report.conflicts.scores import conflicts
from alignbench.report.contenders import Contender, Measurement
from alignbench.report.further_tables.guidance import guidance_left_out, guidance_rows, of_base_at_other_guidance
from alignbench.report.further_tables.questions import question_rows
from alignbench.report.labels import prompt_set_names, recipe_labels, strength_label
from alignbench.report.polls.comparers import ComparerPoll, comparer_polls, comparer_rows
from alignbench.report.polls.human import read_polls, uncounted_studies
from alignbench.report.polls.poll import Poll, PollComparison
from alignbench.report.published_tables.reproduced import ReproductionRecord
from alignbench.scoring.evidence import BORDERLINE, borderline_share, category_totals, read_evidence
from alignbench.statistics import intervals
from alignbench.statistics.resampling import NUM_RESAMPLES, Resamplings
from alignbench.statistics.significance import holm
from alignbench.store.cards import Card
from alignbench.store.image_records import (
    PROMPTS,
    SAMPLING,
    PromptRecord,
    SamplingRecord,
    read_prompts,
    read_sampling,
)
from alignbench.store.look_record import read_looks
from alignbench.store.manifest import Manifest, ResultsError
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.store.verdicts import VerdictFile, verdict_files
from alignbench.votes.record import StudyFolder, study_folders

SampledPrompts = tuple[SamplingRecord, dict[str, PromptRecord]]  # how its images were made, and the prompts by their id


@dataclass(frozen=True)
class Tables:
    """What the report shows.

    Attributes:
        leaderboard, win_rates, ranking: rows with the columns of `columns.LEADERBOARD_COLUMNS`, `WIN_RATE_COLUMNS` and
            `RANKING_COLUMNS`.
        evaluators: (name, version) -> direction and display scale.
        samplings: (model, prompt set) -> how the images were made.
        num_shared: (model, prompt set) -> number of prompts that medians and means are over.
        starts: (model, method) -> whether training started from a checkpoint instead of the untouched model.
        contenders: (model, prompt set, evaluator, version) -> whom the rows compare, base first, with their scores.
        over_base: (model, prompt set, evaluator, version) -> how each method compares with base on all prompts, its
            p-values as tested.
        labels: how each run is called in the tables, by the name of its folder.
        prompt_names: how each prompt set is called in texts, by its name in the tables.
        poll_remarks: (model, prompt set) -> what is said of studies of which no vote counts, and of comparers.
        guidance: rows with the columns of `columns.GUIDANCE_COLUMNS`; none where base has images at one scale only.
        left_out: why runs, scores, studies and reward models are in no table, by their path in the results; see
            `alignbench.report.readable` and `alignbench.report.conflicts`.
        diagnostics: rows with the columns of `columns.DIAGNOSTIC_COLUMNS`; see `alignbench.report.diagnostics`.
        comparers: rows with the columns of `columns.COMPARER_COLUMNS`; none where nothing was compared in pairs.
        polls: the keys of `contenders` whose win rates come from preferences.
        sensitivity, best_settings: rows with the columns of `columns.SENSITIVITY_COLUMNS` and
            `columns.BEST_SETTING_COLUMNS`; none where no method has several settings. See
            `alignbench.report.sensitivity`.
        from_capsules: names of the runs that came from capsules.
        cards: (evaluator, version) -> its card, for those that have one; see `alignbench.report.cards.beside`.
        reproductions: verdicts on rows of published tables, of the runs in these tables.
        questions: rows with the columns of `columns.QUESTION_COLUMNS`; none where no evaluator asked any of a category.
    """

    leaderboard: list[TableRow]
    win_rates: list[TableRow]
    ranking: list[TableRow]
    evaluators: dict[tuple[str, str], ScoreInfo]
    samplings: dict[tuple[str, str], SamplingRecord]
    num_shared: dict[tuple[str, str], int]
    starts: dict[tuple[str, str], bool]
    contenders: dict[tuple[str, str, str, str], list[Contender]]
    over_base: dict[tuple[str, str, str, str], dict[str, intervals.Comparison]]
    labels: dict[str, str]
    prompt_names: dict[str, str]
    poll_remarks: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    guidance: list[TableRow] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    diagnostics: list[TableRow] = field(default_factory=list)
    comparers: list[TableRow] = field(default_factory=list)
    polls: set[tuple[str, str, str, str]] = field(default_factory=set)
    sensitivity: list[TableRow] = field(default_factory=list)
    best_settings: list[TableRow] = field(default_factory=list)
    from_capsules: frozenset[str] = frozenset()
    cards: dict[tuple[str, str], Card] = field(default_factory=dict)
    questions: list[TableRow] = field(default_factory=list)
    reproductions: list[ReproductionRecord] = field(default_factory=list)

    @property
    def left_out_told(self) -> list[str]:
        """A sentence for each folder or file that is in no table."""
        return [f"{name} is left out of this report: {reason}" for name, reason in self.left_out.items()]

    def where(self, model: str, prompt_set: str) -> str:
        """Name a model and a prompt set in words."""
        return f"{model}, {self.prompt_names[prompt_set]}"

    def borderline_told(self, model: str, prompt_set: str) -> list[str]:
        """Say for each evaluator with thresholds how many images another machine could score otherwise."""
        found = []
        for (*where, evaluator, _), contenders in self.contenders.items():
            shares = [run.borderline for one in contenders for run in one.runs if run.borderline is not None]
            if where == [model, prompt_set] and shares:
                found.append(
                    f"{evaluator} has thresholds: of no run are more than {100 * max(shares):.1f} % of the images "
                    f"within {BORDERLINE:g} of one that decides their score; another machine may score these otherwise"
                )
        return found

    def capsules_told(self, model: str, prompt_set: str) -> list[str]:
        """Say which rows of a section stand on runs that were not made here."""
        found = {
            one.label: None
            for (*where, _, _), contenders in self.contenders.items()
            for one in contenders
            if where == [model, prompt_set] and not self.from_capsules.isdisjoint(run.manifest.run for run in one.runs)
        }
        if not found:
            return []
        return [
            f"from capsules: {', '.join(found)}; they were made and scored elsewhere, and have thumbnails for images"
        ]

    def write(self, root: Path) -> None:
        """Write the tables under the results root; those that few results have only where there are rows."""
        write_csv(Path(root) / "leaderboard.csv", _columns(LEADERBOARD_COLUMNS, self.leaderboard), self.leaderboard)
        write_csv(Path(root) / "win_rates.csv", _columns(WIN_RATE_COLUMNS, self.win_rates), self.win_rates)
        write_csv(Path(root) / "ranking.csv", RANKING_COLUMNS, self.ranking)
        write_csv(Path(root) / "diagnostics.csv", DIAGNOSTIC_COLUMNS, self.diagnostics)
        for name, columns, rows in (
            ("guidance", GUIDANCE_COLUMNS, self.guidance),
            ("comparers", COMPARER_COLUMNS, self.comparers),
            ("questions", QUESTION_COLUMNS, self.questions),
            ("sensitivity", SENSITIVITY_COLUMNS, self.sensitivity),
            ("best_settings", BEST_SETTING_COLUMNS, self.best_settings),
        ):
            if rows:
                write_csv(Path(root) / f"{name}.csv", columns, rows)


def _columns(columns: Sequence[str], rows: Sequence[TableRow]) -> list[str]:
    """Return the columns of a table: with those that few results have, where a row has something in them."""
    few = [name for name in (TRIED, STOPPED_AT) if any(row.get(name) not in (None, "") for row in rows)]
    return [*columns, *few]


class ScoreReader:
    """Reads the finished scores of run folders: those of each folder once, and equal lists of prompts once for all."""

    def __init__(self) -> None:
        self._read: dict[Path, list[Measurement]] = {}
        self._prompts: dict[str | None, dict[str, PromptRecord]] = {}  # by the sha256 of their file

    def measurements(self, folder: RunFolder) -> list[Measurement]:
        """Return all finished scores of one run, each checked against the run's ledger, with its present manifest."""
        manifest = folder.manifest
        if folder.path not in self._read:
            self._read[folder.path] = list(self._measurements(folder, manifest))
        return [replace(one, manifest=manifest) for one in self._read[folder.path]]

    def _measurements(self, folder: RunFolder, manifest: Manifest) -> Iterator[Measurement]:
        image_folders: dict[Path, SampledPrompts] = {}
        for name in sorted(manifest.files):
            parts = PurePosixPath(name).parts
            if len(parts) != 4 or parts[0] != "scores" or not name.endswith(".parquet"):
                continue
            images = folder.images(parts[1], parts[2])
            if images not in image_folders:
                image_folders[images] = self._image_folder(folder, images)
            sampling, prompts = image_folders[images]
            scores = Scores.read(folder.verified(folder.path / name))
            unknown = set(scores.prompt_id.tolist()) - set(prompts)
            if unknown:
                raise ResultsError(
                    f"{folder.path / name} scores prompts without images: {sorted(unknown)[:3]}; score again"
                )
            evidence = read_evidence(folder.path / name, scores, sampling.num_frames)
            of_evidence = borderline_share(evidence), category_totals(evidence)
            looks = read_looks(folder, parts[1], parts[2])
            yield Measurement(manifest, sampling, parts[2], prompts, scores, *of_evidence, looks)

    def _image_folder(self, folder: RunFolder, images: Path) -> SampledPrompts:
        for file in (PROMPTS, SAMPLING):
            folder.verified(images / file)
        digest = folder.recorded(images / PROMPTS)
        if digest not in self._prompts:
            self._prompts[digest] = {record.prompt_id: record for record in read_prompts(images)}
        return read_sampling(images), self._prompts[digest]


def measurements(folder: RunFolder) -> list[Measurement]:
    """Read all finished scores of one run, each checked against the run's ledger."""
    return ScoreReader().measurements(folder)


def build(
    root: Path,
    num_resamples: int = NUM_RESAMPLES,
    folders: Sequence[RunFolder] | None = None,
    studies: Sequence[StudyFolder] | None = None,
    verdicts: Sequence[VerdictFile] | None = None,
    reader: ScoreReader | None = None,
) -> Tables:
    """Build the tables of runs under a results root; what a stage has not finished yet is left out.

    Args:
        folders, studies, verdicts: those that count; None for all. The runs must be comparable, see `comparable_runs`.
        reader: that may have read their scores before.
    """
    reader = reader or ScoreReader()
    folders = comparable_runs(run_folders(root))[0] if folders is None else folders
    studies = study_folders(root) if studies is None else studies
    verdicts = verdict_files(root) if verdicts is None else verdicts
    labels = recipe_labels(folders)
    scored = [entry for folder in folders for entry in reader.measurements(folder)]
    of_comparers = comparer_polls(verdicts, folders, scored)
    counted = [*read_polls(studies), *(poll for poll in of_comparers if not poll.bias.fails_often)]
    polls: dict[tuple[str, str, str, str, str], Poll] = {poll.key: poll for poll in counted}
    of_polls = {key: poll.measurements for key, poll in polls.items()}
    contradicting = conflicts([*scored, *chain.from_iterable(of_polls.values())])
    cells: dict[tuple[str, str, str, str, str], list[Measurement]] = defaultdict(list)
    for entry in (entry for entry in scored if entry not in contradicting):
        info = entry.scores.info
        key = (entry.manifest.model, entry.sampling.prompt_set, entry.compared_sampling)
        cells[(*key, info.evaluator, info.version)].append(entry)
    for key, entries in of_polls.items():
        if comparable := [entry for entry in entries if entry not in contradicting]:
            cells[key] += comparable
    contenders_of = {key: _contenders(entries, labels) for key, entries in sorted(cells.items())}
    unvoted = {key: contenders for key, contenders in contenders_of.items() if key not in polls}
    shown_by_guidance = of_base_at_other_guidance(unvoted)
    compared = [key for key in contenders_of if key not in shown_by_guidance]
    sampling_hashes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for model, prompt_set, sampling_hash, *_ in compared:
        sampling_hashes[model, prompt_set].add(sampling_hash)
    of_runs = {one.name: labels[one.manifest.model, one.manifest.recipe_hash] for one in folders}
    names = prompt_set_names(folders, {prompt_set for _, prompt_set, *_ in cells})
    tables = Tables([], [], [], {}, {}, {}, {}, {}, {}, of_runs, {}, _poll_remarks(studies, of_comparers))
    tables = replace(
        tables,
        left_out=contradicting.left_out() | guidance_left_out(unvoted),
        from_capsules=frozenset(one.name for one in folders if one.is_from_capsule),
    )
    resamplings = Resamplings(num_resamples)
    at_sampling = {}
    for key in compared:
        model, prompt_set, sampling_hash, *_ = key
        sampled_once = len(sampling_hashes[model, prompt_set]) == 1
        at = "" if sampled_once else f"@{sampling_hash}"
        name = at_sampling[key[:3]] = f"{prompt_set}{at}"
        tables.prompt_names[name] = f"{names[prompt_set]}{at}"
        contenders, entries = contenders_of[key], cells[key]
        if key in polls:
            methods = PollComparison(name, contenders, resamplings, polls[key])
            tables.polls.add((model, name, methods.info.evaluator, methods.info.version))
        else:
            methods = MethodComparison(name, contenders, resamplings)
        tables.evaluators[methods.info.evaluator, methods.info.version] = methods.info
        tables.samplings[model, name] = min((entry.sampling for entry in entries), key=lambda one: one.strength != 1)
        if key not in polls:
            tables.num_shared[model, name] = len({prompt_id for prompt_id, _ in methods.common})
        tables.contenders[model, name, methods.info.evaluator, methods.info.version] = methods.contenders
        for contender in methods.contenders:
            starts = (run.manifest.start_weights for run in contender.runs)
            tables.starts[model, contender.label] = any("policy" in start for start in starts)
        for table, rows in zip((tables.leaderboard, tables.win_rates, tables.ranking), methods.rows(), strict=True):
            table.extend(rows)
        tables.over_base[model, name, methods.info.evaluator, methods.info.version] = methods.over_base
        tables.questions.extend(question_rows(model, name, methods.contenders, resamplings))
    tables.guidance.extend(guidance_rows(unvoted, at_sampling, resamplings))
    for poll in of_comparers:
        name = at_sampling.get(poll.key[:3], poll.file.prompt_set)
        tables.comparers.extend(comparer_rows(poll, name, of_runs, num_resamples))
    _adjust(tables.leaderboard)
    _adjust(tables.win_rates)
    return tables


def _poll_remarks(
    studies: Sequence[StudyFolder], of_comparers: Sequence[ComparerPoll]
) -> dict[tuple[str, str], list[str]]:
    """Return what is said of polls below the tables, by model and prompt set."""
    found = defaultdict(list, uncounted_studies(studies))
    for poll in of_comparers:
        found[poll.model, poll.file.prompt_set].append(poll.remark)
    return dict(found)


def _contenders(entries: list[Measurement], labels: dict[tuple[str, str], str]) -> list[Contender]:
    """Join the repetitions of each recipe at each strength."""
    recipes: dict[str, list[Measurement]] = defaultdict(list)
    for entry in entries:
        at_strength = strength_label(entry.sampling.strength, entry.sampling.strength_kind)
        recipes[labels[entry.manifest.model, entry.manifest.recipe_hash] + at_strength].append(entry)
    for runs in recipes.values():
        runs.sort(key=lambda run: -1 if run.manifest.seed is None else run.manifest.seed)
    return [Contender(label, tuple(runs)) for label, runs in recipes.items()]


def _adjust(rows: list[TableRow]) -> None:
    """Replace the p-values by Holm's, each kind over all rows of one model and prompt set."""
    families: dict[tuple[str, str], list[TableRow]] = defaultdict(list)
    for row in rows:
        families[row["model"], row["prompt_set"]].append(row)
    for family in families.values():
        for name in P_VALUES:
            raw = [np.nan if row[name] is None else row[name] for row in family]
            for row, p in zip(family, holm(raw), strict=True):
                row[name] = float(p)
