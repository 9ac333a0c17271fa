"""Preferences between two images of a prompt as one more evaluator: win rates and strengths come from them directly.

An image's own score is what the poll makes of it, such as the share of its comparisons that it wins; medians and means
of these stand in the leaderboard.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from alignbench.report.comparison import ALL, GroupComparison, MethodComparison
from alignbench.report.contenders import Contender, Measurement
from alignbench.statistics import bradley_terry, intervals
from alignbench.statistics.resampling import Resamplings
from alignbench.votes.preferences import Preference


class Poll(ABC):
    """What was said of pairs of images of one model, prompt set and sampling.

    Attributes:
        evaluator: how tables call it.
    """

    evaluator: str

    @property
    @abstractmethod
    def key(self) -> tuple[str, str, str, str, str]:
        """Model, prompt set, sampling, evaluator and version: a key unlike that of all other scores."""

    @property
    @abstractmethod
    def preferences(self) -> list[Preference]:
        """All that was said, each about two runs."""

    @property
    @abstractmethod
    def measurements(self) -> list[Measurement]:
        """The scores of the images that were compared, run by run."""

    @abstractmethod
    def resampling(self, preferences: Sequence[Preference], num_resamples: int) -> intervals.Resampling:
        """Return the resamples of some preferences."""


class PollComparison(MethodComparison):
    """All contenders of one poll, compared preference by preference."""

    def __init__(self, name: str, contenders: list[Contender], resamplings: Resamplings, poll: Poll) -> None:
        super().__init__(name, contenders, resamplings)
        self.poll = poll
        label_of = {run.manifest.run: contender.label for contender in contenders for run in contender.runs}
        self.votes: dict[tuple[str, str], list[Preference]] = defaultdict(list)
        for one in poll.preferences:
            if one.a in label_of and one.b in label_of:  # votes against a run that is left out give no win rate
                self.votes[label_of[one.a], label_of[one.b]].append(one)

    def within(self, group: str) -> "GroupPoll":
        return GroupPoll(self, group)

    def won_by(self, a: Contender, b: Contender, group: str) -> tuple[list[Preference], np.ndarray]:
        """Return the votes between two contenders in a group of prompts, and the share of each that a won, [N]."""
        forth, back = (
            [one for one in self.votes.get(labels, []) if self.belongs((one.prompt_id, one.image), group)]
            for labels in ((a.label, b.label), (b.label, a.label))
        )
        return [*forth, *back], np.array([*(one.won for one in forth), *(1 - one.won for one in back)])

    def shown(self, contender: Contender) -> int:
        """Return the images of this contender that have votes, which need not be those of others."""
        return self.shared(contender)

    def shared_texts(self, a: Contender, b: Contender) -> set[str]:
        """Return the prompts that both have images of: which of these the poll saw was not decided by any look."""
        return set.intersection(*({one.prompt for one in run.prompts.values()} for run in (*a.runs, *b.runs)))

    def meet(self, a: Contender, b: Contender) -> bool:
        return (a.label, b.label) in self.votes or (b.label, a.label) in self.votes

    def strengths(self, ranked: Sequence[Contender]) -> bradley_terry.Ranking:
        """Fit strengths to the votes: each is a thing that only its two contenders have a score of."""
        index = {contender.label: number for number, contender in enumerate(ranked)}
        pairs = [(pair, one) for pair, votes in self.votes.items() if set(pair) <= index.keys() for one in votes]
        scores = np.full((len(ranked), len(pairs)), np.nan)
        for number, ((a, b), one) in enumerate(pairs):
            scores[index[a], number] = one.won
            scores[index[b], number] = 1 - one.won
        votes = [one for _, one in pairs]
        resampling = self.poll.resampling(votes, self.resamplings.num_resamples)
        return bradley_terry.rank(list(scores), resampling, self.widening(ranked))


class GroupPoll(GroupComparison):
    """Compares by votes; the scores of the images are for medians and means alone."""

    comparison: PollComparison

    def compare(self, a: Contender, b: Contender) -> intervals.Comparison | None:
        """Compare on the votes between the two; None where there are none."""
        votes, won = self.comparison.won_by(a, b, self.group)
        if not votes:
            return None
        resampling = self.comparison.poll.resampling(votes, self.comparison.resamplings.num_resamples)
        single = intervals.compare(won, 1 - won, resampling, (a.trained, b.trained))
        looks = self.comparison.looks(a, b)
        return single if looks is None else looks.result(single, is_whole=self.group == ALL)
