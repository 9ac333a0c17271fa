"""How far raters agree with each other, and evaluators with raters."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from alignbench.statistics.intervals import compare
from alignbench.statistics.resampling import NUM_RESAMPLES, Estimate, Floats, Resampling
from alignbench.votes.preferences import Count, Preference
from alignbench.votes.resampling import CrossedResampling

NOTHING = Estimate(float("nan"), float("nan"), float("nan"))
PromptScores = Mapping[str, Mapping[str, float]]  # run -> prompt id -> score, the higher the better


@dataclass(frozen=True)
class RaterAgreement:
    """How far raters agree on one question, beyond what equal shares of answers would give by chance.

    Attributes:
        n: comparisons, or images, that at least two raters answered.
        share: of pairs of answers to the same that are equal.
        alpha: Krippendorff's, ordinal: 1 is full agreement, 0 that of chance.
    """

    question: str
    raters: int
    n: int
    share: Estimate
    alpha: Estimate


@dataclass(frozen=True)
class EvaluatorAgreement:
    """How often an evaluator prefers the image that a rater prefers.

    Attributes:
        n: votes for one of two images that the evaluator has scores of.
        rater_ties: votes for neither, which are left out.
        evaluator_ties: equal scores, which count half.
    """

    n: int
    rater_ties: int
    evaluator_ties: int
    share: Estimate


def between_raters(count: Count, question: str, num_resamples: int = NUM_RESAMPLES) -> RaterAgreement:
    """Return how far raters agree; intervals are over prompts, the raters as given.

    Krippendorff's alpha, since raters may be many, answer different comparisons, and answers have an order. In pairs
    every comparison is counted in both directions, as neither of two images is the first one: alpha is then the same
    whichever way they are put, and a method that wins nearly always does not lower it.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    """
    paired = count.folder.study.protocol.kind == "pairs"
    units: dict[tuple[str, ...], list[int]] = defaultdict(list)
    if paired:
        for one in count.preferences:
            if one.question == question:
                units[one.prompt_id, one.a, one.b].append(int(2 * one.won))
    else:
        for vote in count.counting:
            if vote.question == question:
                units[vote.prompt_id, vote.left_run].append(int(vote.answer) - 1)
    units = {unit: answers for unit, answers in units.items() if len(answers) > 1}
    raters = len({one.rater for one in count.counting if one.question == question})
    if not units:
        return RaterAgreement(question, raters, 0, NOTHING, NOTHING)
    tables = np.array([_coincidences(answers, 3 if paired else 4) for answers in units.values()])
    if paired:
        tables = (tables + tables[:, ::-1, ::-1]) / 2
    resampling = Resampling((count.folder.text(unit[0]) for unit in units), num_resamples)
    rows = tables.reshape(len(tables), -1).T
    draws = resampling.totals(resampling.cluster_sums(rows)).T.reshape(-1, *tables.shape[1:])
    whole = tables.sum(axis=0)[None]
    figures = [
        resampling.interval(float(figure(whole)[0]), _defined(figure(draws))) for figure in (equal_share, ordinal_alpha)
    ]
    return RaterAgreement(question, raters, len(units), *figures)


def _coincidences(answers: Sequence[int], num_answers: int) -> Floats:
    """Return how often two raters gave each two answers to one unit, [K, K]; adds up to the number of answers."""
    counts = np.bincount(answers, minlength=num_answers).astype(np.float64)
    return (np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1)


def equal_share(tables: Floats) -> Floats:
    """Return the share of coincidences that are equal, [..., K, K] to [...]."""
    return np.trace(tables, axis1=-2, axis2=-1) / tables.sum(axis=(-2, -1))


def ordinal_alpha(tables: Floats) -> Floats:
    """Return Krippendorff's alpha for ordered answers.

    Args:
        tables: coincidences, [..., K, K], symmetric.

    Returns:
        [...]; NaN where all answers are the same, which leaves nothing to expect.
    """
    totals = tables.sum(axis=-1)
    # the distance of two answers: how many answers lie from the middle of the one to the middle of the other
    middle = np.cumsum(totals, axis=-1) - totals / 2
    distance = (middle[..., :, None] - middle[..., None, :]) ** 2
    num = totals.sum(axis=-1)
    observed = (tables * distance).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum(axis=(-2, -1)) / (num - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def _defined(draws: Floats) -> Floats:
    kept = draws[~np.isnan(draws)]
    return kept if len(kept) else np.full(1, np.nan)


def with_evaluator(
    count: Count, question: str, scores: PromptScores, num_resamples: int = NUM_RESAMPLES
) -> EvaluatorAgreement:
    """Return how often an evaluator prefers the image that a rater prefers; intervals over prompts and raters."""
    asked = [
        one
        for one in count.preferences
        if one.question == question and all(one.prompt_id in scores.get(run, {}) for run in (one.a, one.b))
    ]
    decided = [one for one in asked if one.won != 0.5]
    if not decided:
        return EvaluatorAgreement(0, len(asked), 0, NOTHING)
    signs = [np.sign(scores[one.a][one.prompt_id] - scores[one.b][one.prompt_id]) for one in decided]
    same = [0.5 + (one.won - 0.5) * sign for one, sign in zip(decided, signs, strict=True)]
    resampling = crossed(count, decided, num_resamples)
    ties = sum(sign == 0 for sign in signs)
    return EvaluatorAgreement(len(decided), len(asked) - len(decided), int(ties), _share(same, resampling))


def with_another_rater(count: Count, question: str, num_resamples: int = NUM_RESAMPLES) -> EvaluatorAgreement:
    """Return how often a second rater prefers the image that a rater prefers: what an evaluator is measured against.

    Both must prefer one. The interval is over prompts, the raters as given.
    """
    units: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for one in count.preferences:
        if one.question == question:
            units[one.prompt_id, one.a, one.b].append(one.won)
    same = [
        (float(first == second), count.folder.text(unit[0]))
        for unit, answers in units.items()
        for first, second in combinations([won for won in answers if won != 0.5], 2)
    ]
    ties = sum(won == 0.5 for answers in units.values() for won in answers)
    if not same:
        return EvaluatorAgreement(0, ties, 0, NOTHING)
    values, texts = zip(*same, strict=True)
    return EvaluatorAgreement(len(same), ties, 0, _share(values, Resampling(texts, num_resamples)))


def _share(same: Sequence[float], resampling: Resampling) -> Estimate:
    """Return the mean of values 0, 0.5 and 1, with the interval of a win rate."""
    values = np.asarray(same)
    return compare(values, 1 - values, resampling).win_rate


def crossed(count: Count, preferences: Sequence[Preference], num_resamples: int = NUM_RESAMPLES) -> CrossedResampling:
    """Return the resamples of these votes."""
    texts = [count.folder.text(one.prompt_id) for one in preferences]
    return CrossedResampling(texts, [one.rater for one in preferences], num_resamples)
