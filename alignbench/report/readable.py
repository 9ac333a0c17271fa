"""Which runs, studies, verdicts and reward models of a results folder can be read and compared.

Damage takes out what it is in, and no more: a damaged file of one run must not cost the report of all others. So
everything that the report reads is read once for each of them before anything is compared, and what cannot be read is
left out and named. So are runs that cannot stand beside the others; see `alignbench.report.conflicts.runs`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignbench.errors import UserError
from alignbench.report.conflicts.runs import comparable_runs
from alignbench.report.curves.read import read_curves, read_profile, read_validation
from alignbench.report.image_measures.taken import Taken
from alignbench.report.labels import settings
from alignbench.report.polls.comparers import compared_runs
from alignbench.report.tables import Measurement, ScoreReader
from alignbench.store.cards import Card, read_cards
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.store.training_data import RewardModelData, data_of_run, readable_reward_models
from alignbench.store.verdicts import VerdictFile, verdict_files
from alignbench.votes.preferences import count
from alignbench.votes.record import StudyFolder, study_folders


@dataclass(frozen=True)
class Readable:
    """What of a results folder can be read.

    Attributes:
        cards: of judges, by name and version.
        left_out: why each other run, study, file of verdicts, reward model or card is left out, by its path in the
            results: a sentence that names the file and says what to do.
        reader: has read the scores of the runs, which need not be read again.
    """

    runs: list[RunFolder] = field(default_factory=list)
    studies: list[StudyFolder] = field(default_factory=list)
    verdicts: list[VerdictFile] = field(default_factory=list)
    reward_models: list[RewardModelData] = field(default_factory=list)
    cards: dict[tuple[str, str], Card] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    reader: ScoreReader = field(default_factory=ScoreReader)


def readable(root: Path, with_images: bool = False) -> Readable:
    """Read everything under a results root, and return what can be read and compared.

    Args:
        with_images: whether images are looked at, too. Their statistics are measured on the way.
    """
    found = Readable()
    for run in run_folders(root):
        try:
            check_run(run, with_images, found.reader)
        except UserError as error:
            found.left_out[run.name] = str(error)
        else:
            found.runs.append(run)
    found.runs[:], contradicting = comparable_runs(found.runs)
    found.left_out.update(contradicting)
    names = {run.name for run in found.runs}
    for study in study_folders(root):
        name = study.path.relative_to(root).as_posix()
        try:
            compared = count(study).folder.study.runs
            assert study.records
        except UserError as error:
            found.left_out[name] = str(error)
            continue
        if absent := [run for run in compared if run not in names]:
            found.left_out[name] = f"{study.path} compares {absent[0]}, which is left out or gone; bring it back"
        else:
            found.studies.append(study)
    for file in verdict_files(root):
        try:
            compared_runs(file, file.read(), found.runs)
        except UserError as error:
            found.left_out[file.path.relative_to(root).as_posix()] = str(error)
        else:
            found.verdicts.append(file)
    found.cards.update(read_cards(root, found.left_out))
    damaged: dict[Path, str] = {}
    found.reward_models.extend(readable_reward_models(root, damaged))
    found.left_out.update({folder.relative_to(root).as_posix(): reason for folder, reason in damaged.items()})
    return found


def check_run(run: RunFolder, with_images: bool, reader: ScoreReader) -> None:
    """Read whatever the report reads of a run.

    Raises:
        UserError: a file is damaged or has changed.
    """
    assert run.manifest
    settings(run)
    data_of_run(run)
    if run.train_log.exists():
        read_curves(run.train_log)
    read_profile(run)
    if run.validation_table.exists():
        read_validation(run.validation_table)
    for folder in (run, *map(RunFolder, run.validation_folders)):
        measured = reader.measurements(folder)
        for entries in by_images(measured) if with_images else ():
            taken = Taken(folder, tuple(entries))
            assert taken.statistics is not None
            assert taken.features is not None


def by_images(measured: Sequence[Measurement]) -> list[list[Measurement]]:
    """Group what was scored of a run by the folder of its images."""
    found: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for entry in measured:
        found[entry.sampling.prompt_set, entry.sampling_hash].append(entry)
    return list(found.values())
