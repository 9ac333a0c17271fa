"""From votes to preferences: which raters count, and which of two runs each of them preferred."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, pairwise
from statistics import median

from alignbench.store.manifest import ResultsError
from alignbench.votes.ballots import Ballots, Rater, Vote
from alignbench.votes.record import StudyFolder

ANSWERS = {"left": 1.0, "tie": 0.5, "right": 0.0}  # share won by the left image


@dataclass(frozen=True)
class Attention:
    """How a rater voted.

    Attributes:
        votes: those that are no checks.
        checks, passed: checks answered, a question each, and how many as expected.
        left_out: whether the share passed is below what the study asks for. Who met no check counts.
        seconds: median between two votes; None with fewer than two.
    """

    rater: int
    code: str
    votes: int
    checks: int
    passed: int
    left_out: bool
    seconds: float | None


@dataclass(frozen=True)
class Preference:
    """What one rater, or comparer, said of two images of a prompt.

    Attributes:
        a, b: runs, in the order of the study.
        won: 1 where a is preferred, 0 where b is, 0.5 for no difference.
        image: number of the image within its prompt; a study shows the first.
    """

    rater: int
    question: str
    prompt_id: str
    a: str
    b: str
    won: float
    image: int = 0


@dataclass(frozen=True)
class Count:
    """All votes of a study, and what they come to.

    Attributes:
        votes: with checks and with those of raters who are left out.
        preferences: of raters who count.
    """

    folder: StudyFolder
    raters: list[Rater]
    votes: Sequence[Vote]
    attention: list[Attention]
    preferences: list[Preference]

    @property
    def counting(self) -> list[Vote]:
        """The votes that count: no checks, no raters who are left out."""
        out = {one.rater for one in self.attention if one.left_out}
        return [vote for vote in self.votes if vote.check_kind is None and vote.rater not in out]

    @property
    def voters(self) -> list[Attention]:
        """The raters who have voted, checks included; others only opened the page."""
        return [one for one in self.attention if one.votes or one.checks]

    @property
    def nobody_counts(self) -> bool:
        """Whether there are votes, and all of raters who are left out."""
        return bool(self.voters) and all(one.left_out for one in self.voters)


def count(folder: StudyFolder) -> Count:
    """Read the votes of a study."""
    if not folder.ballots.exists():
        return Count(folder, [], [], [], [])
    with closing(Ballots(folder.ballots)) as ballots:
        raters, votes = ballots.raters(), ballots.votes()
    _check_votes(folder, raters, votes)
    attention = [_attention(rater, votes, folder.study.leave_out_below) for rater in raters]
    found = Count(folder, raters, votes, attention, [])
    order = {run: place for place, run in enumerate(folder.study.runs)}
    paired = folder.study.protocol.kind == "pairs"
    found.preferences.extend((_of_pairs if paired else _of_grades)(found.counting, order))
    return found


def _check_votes(folder: StudyFolder, raters: Sequence[Rater], votes: Sequence[Vote]) -> None:
    """Refuse votes that nobody can have cast.

    Raises:
        ResultsError: naming one.
    """
    study, known = folder.study, {one.rater for one in raters}
    questions = {one.name for one in study.protocol.questions}
    answers = {one.answer for one in study.protocol.choices}
    for vote in votes:
        shown = {vote.left_run, *([vote.right_run] if study.protocol.kind == "pairs" else [])}
        is_known = vote.rater in known and vote.question in questions and vote.answer in answers
        if not (is_known and shown <= set(study.runs) and vote.prompt_id in study.prompts and _is_time(vote.cast_at)):
            raise ResultsError(
                f"{folder.ballots} holds a vote that nobody can have cast, of rater {vote.rater} on {vote.prompt_id}; "
                "restore it or move it away"
            )


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text) is not None
    except (ValueError, TypeError):
        return False


def _attention(rater: Rater, votes: Sequence[Vote], leave_out_below: float) -> Attention:
    own = [vote for vote in votes if vote.rater == rater.rater]
    checks = [vote.passed for vote in own if vote.check_kind is not None]
    times = sorted(datetime.fromisoformat(vote.cast_at) for vote in own)
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    left_out = bool(checks) and sum(map(bool, checks)) < leave_out_below * len(checks)
    counts = (len(own) - len(checks), len(checks), sum(map(bool, checks)))
    return Attention(rater.rater, rater.code, *counts, left_out, median(gaps) if gaps else None)


def _of_pairs(votes: Sequence[Vote], order: dict[str, int]) -> Iterator[Preference]:
    for vote in votes:
        left, right, won = vote.left_run, str(vote.right_run), ANSWERS[vote.answer]
        if order[left] > order[right]:
            left, right, won = right, left, 1 - won
        yield Preference(vote.rater, vote.question, vote.prompt_id, left, right, won)


def _of_grades(votes: Sequence[Vote], order: dict[str, int]) -> Iterator[Preference]:
    """Yield what the grades of one rater for two images of a prompt say: the higher wins, equal ones are a tie."""
    sheets: dict[tuple[int, str, str], dict[str, int]] = defaultdict(dict)
    for vote in votes:
        sheets[vote.rater, vote.question, vote.prompt_id][vote.left_run] = int(vote.answer)
    for (rater, question, prompt_id), grades in sheets.items():
        for a, b in combinations(sorted(grades, key=order.__getitem__), 2):
            won = 0.5 + 0.5 * ((grades[a] > grades[b]) - (grades[a] < grades[b]))
            yield Preference(rater, question, prompt_id, a, b, won)
