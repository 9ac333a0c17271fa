"""Votes of people as one more evaluator: `human` for the question `overall`, `human_<question>` for the others.

Votes compare two images, or are read so where they are grades. An image's own score is the share of its votes that it
wins, ties half, or the mean of its grades from 1 to 4. Intervals of win rates and strengths, and p-values, are over
prompts and raters; intervals of medians and means are over prompts alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignbench.report.contenders import Measurement
from alignbench.report.polls.poll import Poll
from alignbench.statistics import intervals
from alignbench.statistics.resampling import NUM_RESAMPLES
from alignbench.store.image_records import read_sampling
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.votes.agreement import crossed
from alignbench.votes.preferences import Count, Preference, count
from alignbench.votes.record import StudyFolder
from alignbench.votes.resampling import CrossedResampling

HUMAN = "human"
IMAGE = 0  # a study shows the first image of each prompt


@dataclass(frozen=True)
class StudyPoll(Poll):
    """The votes on one question of a study; its name is with the study's where two ask the same of the same images."""

    count: Count
    question: str
    evaluator: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """Model, prompt set, sampling, evaluator and version: a key unlike that of all other scores."""
        study = self.count.folder.study
        return study.model, study.prompt_set, study.sampling_hash, self.evaluator, study.name

    @property
    def preferences(self) -> list[Preference]:
        return [one for one in self.count.preferences if one.question == self.question]

    def resampling(self, preferences: Sequence[Preference], num_resamples: int) -> CrossedResampling:
        """Return the resamples of some votes, over prompts and raters."""
        return crossed(self.count, preferences, num_resamples)

    @property
    def measurements(self) -> list[Measurement]:
        """The scores of the images that have votes, run by run."""
        folder = self.count.folder
        graded = folder.study.protocol.kind == "grades"
        info = ScoreInfo(self.evaluator, folder.study.name, display_scale=1.0 if graded else 100.0, summary="mean")
        scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        if graded:
            for vote in self.count.counting:
                if vote.question == self.question:
                    scores[vote.left_run][vote.prompt_id].append(float(vote.answer))
        else:
            for one in self.preferences:
                scores[one.a][one.prompt_id].append(one.won)
                scores[one.b][one.prompt_id].append(1 - one.won)
        found = []
        for run in sorted(scores):
            of = scores[run]
            values = Scores.of(
                info, list(of), [IMAGE] * len(of), [np.mean(each) for each in of.values()], [""] * len(of)
            )
            sampling = read_sampling(folder.image_folder(run))
            manifest, hash_ = folder.manifests[run], folder.study.sampling_hash
            found.append(Measurement(manifest, sampling, hash_, folder.records[run], values))
        return found


def read_polls(studies: Sequence[StudyFolder]) -> list[StudyPoll]:
    """Read the studies that have votes which count."""
    polls = []
    for folder in studies:
        counted = count(folder)
        for question in folder.study.protocol.questions:
            if any(one.question == question.name for one in counted.preferences):
                polls.append(StudyPoll(counted, question.name, evaluator_name(question.name)))
    keys = [poll.key[:4] for poll in polls]
    return [
        poll if keys.count(key) == 1 else replace(poll, evaluator=f"{poll.evaluator}@{poll.count.folder.study.name}")
        for poll, key in zip(polls, keys, strict=True)
    ]


def uncounted_studies(studies: Sequence[StudyFolder]) -> dict[tuple[str, str], list[str]]:
    """Say of each study whose raters are all left out that no vote counts, by model and prompt set."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for folder in studies:
        counted = count(folder)
        if counted.nobody_counts:
            study, num = folder.study, len(counted.voters)
            raters = f"all {num} raters" if num > 1 else "its only rater"
            told = f"people: no vote of the study {study.name} counts, as {raters} passed too few attention checks"
            found[study.model, study.prompt_set].append(told)
    return dict(found)


def evaluator_name(question: str) -> str:
    """Return what tables call the answers to a question."""
    return HUMAN if question == "overall" else f"{HUMAN}_{question}"


def of_people(evaluator: str) -> bool:
    """Say whether an evaluator of the tables is a question to people.

    >>> of_people("human_alignment"), of_people("human@study"), of_people("humans_clip")
    (True, True, False)
    """
    return evaluator.partition("@")[0].partition("_")[0] == HUMAN


def compare_votes(
    counted: Count,
    votes: Sequence[Preference],
    won: np.ndarray,
    num_resamples: int = NUM_RESAMPLES,
    trained: Sequence[bool] | None = None,
) -> intervals.Comparison:
    """Compare two methods by votes; intervals and tests are over prompts and, where there are several, raters.

    Args:
        won: share of each vote that the first won, [N].
        trained: whether the two came out of training; see `intervals.PairedScores`.
    """
    return intervals.compare(won, 1 - won, crossed(counted, votes, num_resamples), trained)
