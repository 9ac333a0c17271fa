"""Which interval of a win rate of votes holds at every moment of a study, however often people look at it?

It goes by the first vote on each prompt. Later votes on a prompt say partly the same again, so that nobody knows what
to expect of them, and a bet on them would not be fair.
"""

from alignbench.statistics.always_valid import with_ties
from alignbench.statistics.resampling import Estimate
from alignbench.votes.preferences import Count, Preference


def any_time(counted: Count, votes: list[Preference], a: str) -> Estimate:
    """Return the win rate of the first votes on each prompt, with an interval that holds at any time.

    Args:
        votes: on one question about two runs.
        a: the run whose win rate it is.
    """
    cast = {(one.rater, one.question, one.prompt_id, one.left_run, one.right_run): one for one in counted.counting}
    first: dict[str, tuple[tuple[str, int, int], float]] = {}
    for one in votes:
        asked = (one.rater, one.question, one.prompt_id)
        pairs = [(one.a, one.b), (one.b, one.a)]  # shown side by side, either on the left; or graded one by one
        shown = [cast[*asked, *pair] for pair in pairs if (*asked, *pair) in cast]
        shown = shown or [cast[*asked, run, None] for run in (one.a, one.b)]
        moment = max((vote.cast_at, vote.rater, vote.task) for vote in shown)
        text, won = counted.folder.text(one.prompt_id), one.won if one.a == a else 1 - one.won
        first[text] = min(first.get(text, (moment, won)), (moment, won))
    return with_ties([won for _, won in first.values()]).win_rate
