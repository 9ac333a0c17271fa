"""How often a judge agrees with people: our protocol, the rules of the publications, and calibration."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.card import rules
from alignbench.card.human.records import HumanPairs, Pairs, Record, digest
from alignbench.pairwise.orders import JudgedPair, position_bias
from alignbench.statistics.intervals import compare
from alignbench.statistics.reliability import best_scale, calibration
from alignbench.statistics.resampling import Estimate, Resampling
from alignbench.store.cards import (
    PROTOCOL,
    CalibrationBin,
    CardCalibration,
    DataAccuracy,
    Interval,
    PartFigure,
    PositionFigures,
    RuleFigure,
)
from alignbench.text import is_held_out

Floats = NDArray[np.float64]
NUM_THIRDS = 3


def accuracy(
    data: HumanPairs,
    records: Sequence[Record],
    pairs: Pairs,
    margins: Floats,
    lineage: Sequence[str],
    scores: Sequence[Floats] | None = None,
    judged: Sequence[JudgedPair] | None = None,
) -> DataAccuracy | None:
    """Return what a judge reaches on a data set; None where people preferred no image of its pairs.

    Args:
        pairs: those that were judged.
        margins: what the judge says of the first image minus the second, [P]; above 0 it prefers the first. NaN where
            it failed; these pairs are left out.
        lineage: the judge and those whose judgement it learned from, by name.
        scores: of the images of each record, the higher the better; None for a comparer.
        judged: what a comparer said in both orders, [P].
    """
    everything, answered = pairs, np.isfinite(margins)
    pairs, margins = pairs.some(answered), margins[answered]
    decided = pairs.worth != 0
    if not decided.any():
        return None
    prompts = np.array([records[number].prompt for number in pairs.record], dtype=object)
    toward = np.sign(pairs.worth[decided])
    won = toward * margins[decided]  # above 0: the judge prefers what people prefer
    chance = np.where(toward > 0, pairs.chance[decided], 1 - pairs.chance[decided])
    names = prompts[decided].tolist()
    half = np.array([is_held_out(name, 0.5) for name in prompts])
    log_odds = scaled(won, chance, half[decided])
    all_odds = np.zeros(len(margins))
    all_odds[decided] = toward * log_odds
    ties_scale = float(np.median(np.abs(log_odds[won != 0]) / np.abs(won[won != 0]))) if won.any() else 0.0
    all_odds[~decided] = ties_scale * margins[~decided]
    found = calibration(log_odds, chance)
    groups = [records[number].group for number in pairs.record[decided]]
    return DataAccuracy(
        data=data.name,
        published=data.published,
        is_of_people=data.is_of_people,
        digest=digest(records),
        protocol=PROTOCOL,
        num_pairs=len(won),
        num_prompts=len(set(names)),
        num_ties=int((~decided).sum()),
        in_domain=data.is_in_domain(lineage),
        accuracy=interval(_share_right(won, names)),
        mean_of_prompts=_mean_of_prompts(won, names),
        own_rule=data.own_rule,
        rules=[
            *_by_rules(records, pairs, margins, all_odds, half, scores),
            _by_both_orders(everything, margins, judged),
        ],
        by_margin=_by_margin(won, np.abs(pairs.worth[decided]), names),
        by_group=[
            PartFigure(group, *_part(won, names, np.array([one == group for one in groups])))
            for group in dict.fromkeys(groups)
            if group
        ],
        calibration=CardCalibration(
            found.error,
            found.by_chance,
            [CalibrationBin(one.confidence, one.agreement, one.num_pairs) for one in found.bins],
        ),
        position=None if judged is None else _position(judged),
    )


def scaled(won: Floats, chance: Floats, half: NDArray[np.bool_]) -> Floats:
    """Return margins as log-odds: each half of the prompts by the scale that fits the other half best.

    Args:
        won: margin of the image that people prefer, [P].
        chance: probability that a person prefers it, [P].
    """
    found = np.zeros(len(won))
    unit = float(np.abs(won).mean()) or 1.0  # scales of scorers differ by orders of magnitude
    for mine in (half, ~half):
        others = ~mine if (~mine).any() else mine
        if mine.any():
            found[mine] = won[mine] / unit * best_scale(won[others] / unit, chance[others])
    return found


def interval(estimate: Estimate) -> Interval:
    """Return an estimate as cards hold it."""
    ends = [None if np.isnan(end) else float(end) for end in (estimate.low, estimate.high)]
    return Interval(float(estimate.value), *ends)


def _share_right(won: Floats, prompts: Sequence[str]) -> Estimate:
    return compare(won, np.zeros_like(won), Resampling(prompts)).win_rate


def _mean_of_prompts(won: Floats, prompts: Sequence[str]) -> float:
    _, number = np.unique(np.array(prompts, dtype=object), return_inverse=True)
    right = 0.5 + np.sign(won) / 2
    return float((np.bincount(number, weights=right) / np.bincount(number)).mean())


def _part(won: Floats, prompts: Sequence[str], chosen: NDArray[np.bool_]) -> tuple[int, Interval]:
    names = [name for name, keep in zip(prompts, chosen, strict=True) if keep]
    return int(chosen.sum()), interval(_share_right(won[chosen], names))


def _by_margin(won: Floats, apart: Floats, prompts: Sequence[str]) -> list[PartFigure]:
    """Return the accuracy by thirds of how far apart people see two images; pairs equally far apart stay together."""
    if len(np.unique(apart)) < NUM_THIRDS:
        return []
    bounds = np.unique(np.quantile(apart, [1 / 3, 2 / 3]))
    number = np.searchsorted(bounds, apart, side="left")
    names = {0: f"up to {bounds[0]:.3g}"} | {len(bounds): f"above {bounds[-1]:.3g}"}
    if len(bounds) > 1:
        names[1] = f"up to {bounds[1]:.3g}"
    thirds = [third for third in sorted(names) if (number == third).any()]
    return [PartFigure(names[third], *_part(won, prompts, number == third)) for third in thirds]


def _by_rules(
    records: Sequence[Record],
    pairs: Pairs,
    margins: Floats,
    log_odds: Floats,
    half: NDArray[np.bool_],
    scores: Sequence[Floats] | None,
) -> list[RuleFigure]:
    found = [rules.without_human_ties(pairs.worth, margins), rules.with_predicted_ties(pairs.worth, log_odds, half)]
    if scores is not None:
        found.append(rules.ranks_of_groups(pairs.worth, margins, pairs.record))
        worth = np.concatenate([record.worth for record in records])
        if len(worth) <= rules.MAX_SET_IMAGES:
            found.append(rules.all_pairs_of_set(worth, np.concatenate(scores)))
    votes = [records[number].vote for number in pairs.record]
    if all(votes):
        found.append(rules.four_votes(votes, margins))
    return [_figure(one) for one in found if one.num]


def _by_both_orders(pairs: Pairs, margins: Floats, judged: Sequence[JudgedPair] | None) -> RuleFigure:
    """Return the accuracy over answers; a scorer, which sees one image at a time, answers the same in both orders."""
    if judged is None:
        won = (0.5 + np.sign(margins) / 2).tolist()
        return _figure(rules.both_orders(pairs.worth, won, [1 - one for one in won]))
    first = [None if one.a_first is None else one.a_first.won for one in judged]
    second = [None if one.b_first is None else one.b_first.won for one in judged]
    return _figure(rules.both_orders(pairs.worth, first, second))


def _figure(one: rules.RuleAccuracy) -> RuleFigure:
    return RuleFigure(one.rule, one.value, one.num, one.told)


def _position(judged: Sequence[JudgedPair]) -> PositionFigures:
    bias = position_bias(judged)
    shares = [
        None if np.isnan(share) else float(share)
        for share in (bias.first_rate, bias.consistent, bias.always_first, bias.always_second, bias.log_odds.value)
    ]
    return PositionFigures(bias.calls, bias.pairs, bias.failures, bias.ties, *shares, is_biased=bias.is_biased)
