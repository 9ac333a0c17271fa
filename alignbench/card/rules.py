"""Accuracy on human pairs by the rule of each publication, all from the same pairs, so that they stand side by side.

A pair is two images of one prompt. Its worth is what people said, first image minus second: 0 is a tie. Its margin is
what a judge said, in the same sense. Rules differ in what they make of ties, and over what they take the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

THRESHOLDS = np.arange(11) / 10  # differences of probability below which PickScore's script predicts a tie
FIRST, SECOND, BOTH_GOOD, BOTH_BAD = "first", "second", "both good", "both bad"  # votes of GenAI-Bench
MAX_SET_IMAGES = 12_000  # of which all pairs fit into a few GiB


@dataclass(frozen=True)
class RuleAccuracy:
    """What a judge reaches by one rule.

    Attributes:
        rule: its name.
        value: 0..1.
        num: what it is a mean over: pairs, groups of images, or answers.
        told: what the rule does that others do not.
    """

    rule: str
    value: float
    num: int
    told: str


def without_human_ties(worth: Floats, margin: Floats) -> RuleAccuracy:
    """Return the share of pairs with a human preference that a judge orders as people do; its own ties are wrong.

    Source: THUDM/ImageReward, test script; RE-N-Y/imscore leaves human ties out as well.
    """
    decided = worth != 0
    right = np.sign(margin[decided]) == np.sign(worth[decided])
    return RuleAccuracy(
        "imagereward", _mean(right), len(right), "over pairs; human ties are left out, predicted ties are wrong"
    )


def ranks_of_groups(worth: Floats, margin: Floats, record: Integers) -> RuleAccuracy:
    """Return the mean over groups of the share of pairs that are not inverted. Human ties are never inverted.

    Args:
        record: which group of images each pair is of; its first image stands before its second.

    Source: tgxs002/HPSv2, hpsv2/evaluation.py (evaluate_rank) and inversion_score. Predicted ties fall as the sort
        leaves them; here the earlier image counts as the better one.
    """
    predicted = np.where(margin >= 0, 1, -1)
    right = predicted * worth >= 0
    groups, number = np.unique(record, return_inverse=True)
    shares = np.bincount(number, weights=right) / np.bincount(number) if len(groups) else np.zeros(0)
    return RuleAccuracy("hpsv2", _mean(shares), len(groups), "mean over groups of images; human ties count as right")


def with_predicted_ties(worth: Floats, margin: Floats, half: NDArray[np.bool_]) -> RuleAccuracy:
    """Return the mean of 1 for the same answer, 1/2 where one of the two is a tie, and 0.

    A tie is predicted where the two probabilities differ by at most t. The script chooses the best t of 0, 0.1, ... 1
    on a validation split; here each half of the prompts takes the t of the other half.

    Args:
        margin: log-odds of the first image.
        half: which half of the prompts a pair is of.

    Source: yuvalkirstain/PickScore, trainer/scripts/eval_preference_predictor.py (calc_score, get_pred).
    """
    points = np.zeros(len(worth))
    chosen = []
    for mine in (half, ~half):
        by_threshold = [_with_ties(worth[~mine], margin[~mine], threshold).sum() for threshold in THRESHOLDS]
        threshold = float(THRESHOLDS[int(np.argmax(by_threshold))])
        points[mine] = _with_ties(worth[mine], margin[mine], threshold)
        chosen.append(f"{threshold:g}")
    return RuleAccuracy(
        "pickscore", _mean(points), len(points), f"one tie of two counts 1/2; ties are predicted up to t = "
        f"{' and '.join(dict.fromkeys(chosen))}, each half of the prompts with the t of the other",
    )  # fmt: skip


def _with_ties(worth: Floats, margin: Floats, threshold: float) -> Floats:
    probability = expit(margin)
    difference = probability - (1 - probability)
    predicted = np.where(np.abs(difference) <= threshold, 0.0, np.sign(difference))
    return 1 - np.abs(predicted - np.sign(worth)) / 2


def all_pairs_of_set(worth: Floats, score: Floats) -> RuleAccuracy:
    """Return the share of all pairs of a set of images, whatever their prompts, with the same order or both a tie.

    A difference of scores of at most e is a predicted tie; e is the best one on the same data.

    Args:
        worth, score: of each image, [N].

    Source: linzhiqiu/t2v_metrics (calc_metric, pairwise_acc_with_tie_optimization), after Deutsch et al. 2023.
    """
    first, second = np.triu_indices(len(worth), 1)
    human = np.sign(worth[first] - worth[second])
    difference = score[first] - score[second]
    if not len(human):
        return RuleAccuracy("genai_bench_li", float("nan"), 0, "")
    order = np.argsort(np.abs(difference), kind="stable")
    size, human, difference = np.abs(difference)[order], human[order], difference[order]
    concordant = (human != 0) & (np.sign(difference) == human)
    # with e at the k-th smallest difference the first k pairs are predicted ties
    right_as_ties = np.concatenate([[0], np.cumsum(human == 0)])
    right_as_orders = concordant.sum() - np.concatenate([[0], np.cumsum(concordant)])
    ends = np.concatenate([[size[0] > 0], size[1:] > size[:-1], [True]])  # equal differences go together
    both = np.where(ends, right_as_ties + right_as_orders, -1)
    best = int(np.argmax(both))
    epsilon = size[best - 1] if best else 0.0
    return RuleAccuracy(
        "genai_bench_li", float(both[best] / len(human)), len(human),
        f"all pairs of the set, whatever their prompts; differences up to {epsilon:.3g} are ties, chosen on these data",
    )  # fmt: skip


def four_votes(votes: Sequence[str], margin: Floats) -> RuleAccuracy:
    """Return the share of pairs whose vote a judge meets exactly; a predicted tie meets both kinds of human ties.

    Source: TIGER-AI-Lab/GenAI-Bench, inference.py (parse_response), for an answer that a tie is a tie.
    """
    expected = np.array([{FIRST: 1, SECOND: -1}.get(vote, 0) for vote in votes])
    return RuleAccuracy(
        "genai_bench_jiang", _mean(np.sign(margin) == expected), len(expected),
        "exact matches of four votes; a scorer meets human ties only by equal scores",
    )  # fmt: skip


def both_orders(worth: Floats, first_won: Sequence[float | None], second_won: Sequence[float | None]) -> RuleAccuracy:
    """Return the share of right answers, each order of a pair one answer; answers that are missing are left out.

    Args:
        first_won: what was said of the image that was shown first, in the order of the data: 1, 0, 0.5 or None.
        second_won: the same when the images were shown the other way round.

    Source: facebookresearch/MMRB2, evaluate/compute_scores/compute_accuracy.py.
    """
    points: list[float] = []
    for human, first, second in zip(np.sign(worth), first_won, second_won, strict=True):
        if human == 0:
            continue
        for won, sign in ((first, 1), (second, -1)):
            if won is not None:
                points.append(0.5 + sign * human * (won - 0.5))
    return RuleAccuracy("mmrb2", _mean(np.array(points)), len(points), "each order of a pair is one answer")


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else float("nan")
