import math
from itertools import combinations

import numpy as np
import pytest
from scipy import optimize, stats

from alignbench.statistics.bradley_terry import ELO, log_strengths, rank
from alignbench.statistics.resampling import Resampling

TRUE = np.array([0.0, 0.4, -0.3, 0.9])


def luce_scores(rng, strengths, num_prompts):
    """Scores whose winners follow Bradley and Terry's law exactly: strength plus a Gumbel draw."""
    return strengths[:, None] + rng.gumbel(size=(len(strengths), num_prompts))


def negative_log_likelihood(free, wins):
    strengths = np.concatenate([[0.0], free])
    return (wins * np.logaddexp(0, strengths - strengths[:, None])).sum()


def minorise_maximise(wins, num_rounds):
    """The textbook rounds: strength_i <- wins_i / sum_j n_ij / (strength_i + strength_j)."""
    strengths = np.ones(len(wins))
    games = wins + wins.T
    for _ in range(num_rounds):
        strengths = wins.sum(axis=1) / (games / (strengths[:, None] + strengths)).sum(axis=1)
    return np.log(strengths / strengths[0])


@pytest.mark.parametrize("seed", range(5))
def test_strengths_agree_with_a_direct_optimisation_of_the_likelihood(seed):
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 30, size=(5, 5)) + 0.5
    np.fill_diagonal(wins, 0)
    direct = optimize.minimize(
        negative_log_likelihood, np.zeros(4), args=(wins,), method="BFGS", options={"gtol": 1e-9}
    )
    assert log_strengths(wins)[1:] == pytest.approx(direct.x, abs=1e-6)


def test_strengths_are_where_minorise_maximise_ends_but_sooner():
    """B and C lose all but a pseudo half win to A: after 1,000 rounds strengths still creep, ours have settled."""
    wins = np.array([[0, 1600.5, 1600.5], [0.5, 0, 900], [0.5, 700, 0]])
    ours = log_strengths(wins)
    assert np.abs(minorise_maximise(wins, 1000) - ours).max() > 0.1
    assert minorise_maximise(wins, 100_000) == pytest.approx(ours, abs=1e-6)


def test_many_tables_are_fitted_as_each_alone():
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 9, size=(6, 4, 4)) + 0.5
    wins[:, range(4), range(4)] = 0
    assert log_strengths(wins) == pytest.approx(np.array([log_strengths(table) for table in wins]))


def test_two_methods_have_the_closed_form():
    """7 wins, 2 ties, 1 loss: log((8 + 1/2) / (2 + 1/2)) units of 400 / ln 10."""
    found = rank([np.zeros(10), [1] * 7 + [0] * 2 + [-1]], Resampling(range(10))).strengths[1]
    assert found.value == pytest.approx(400 * math.log10(8.5 / 2.5))
    assert found.low < found.value < found.high


def test_ends_of_two_methods_are_those_of_their_win_rate():
    rng = np.random.default_rng(1)
    resampling = Resampling(range(300))
    base, other = luce_scores(rng, TRUE[:2], 300)
    wins = resampling.totals(resampling.cluster_sums((other > base)[None].astype(float)))[0]
    low, high = np.quantile(ELO * np.log((wins + 0.5) / (300 - wins + 0.5)), [0.025, 0.975])
    found = rank([base, other], resampling).strengths[1]
    assert (found.low, found.high) == pytest.approx((low, high))


def test_known_strengths_are_recovered():
    scores = luce_scores(np.random.default_rng(2), TRUE, 20_000)
    result = rank(list(scores), Resampling(range(20_000), num_resamples=200))
    assert [entry.value / ELO for entry in result.strengths] == pytest.approx(TRUE, abs=0.05)
    assert result.ranks([True] * 4) == [3, 2, 4, 1]
    assert np.nanmax(np.abs(result.gaps)) < 0.01
    assert result.intransitive == []


def test_total_dominance_is_finite_and_keeps_the_binomial_doubt():
    """All of 20 prompts won: the win rate is at least 0.025^(1/20), and at most what half a pseudo win leaves."""
    result = rank([np.zeros(20), np.ones(20), np.full(20, -1.0)], Resampling(range(20), num_resamples=20_000))
    assert np.isfinite([[entry.value, entry.low, entry.high] for entry in result.strengths]).all()
    assert result.ranks([True] * 3) == [2, 1, 3]
    alone = rank([np.zeros(20), np.ones(20)], Resampling(range(20), num_resamples=20_000)).strengths[1]
    bound = stats.binomtest(20, 20).proportion_ci(method="exact").low
    assert alone.value == alone.high == pytest.approx(ELO * math.log(20.5 / 0.5))
    assert alone.low == pytest.approx(ELO * math.log((20 * bound + 0.5) / (20 * (1 - bound) + 0.5)), rel=0.02)


def test_equal_methods_share_a_rank_and_a_strength_of_zero():
    result = rank([np.ones(30)] * 3, Resampling(range(30)))
    assert [entry.value for entry in result.strengths] == pytest.approx([0, 0, 0], abs=1e-9)
    assert result.ranks([True] * 3) == [1, 1, 1]


def test_one_prompt_has_strengths_but_no_interval_and_no_order():
    result = rank([[1, 1], [2, 2]], Resampling(["a prompt"] * 2))
    assert result.strengths[1].value == pytest.approx(ELO * math.log(5))
    assert np.isnan([result.strengths[1].low, result.strengths[1].high]).all()
    assert result.ranks([True, True]) == [1, 1]


def test_who_takes_no_part_pushes_nobody_down():
    scores = luce_scores(np.random.default_rng(3), np.array([0.0, 1.0, 3.0]), 500)
    assert rank(list(scores), Resampling(range(500))).ranks([True, True, False]) == [2, 1, None]


def test_a_circle_of_winners_is_reported_and_does_not_fit():
    """On a third of the prompts each: 1 > 2 > 0, 2 > 0 > 1, 0 > 1 > 2. Each beats the next on two thirds."""
    scores = np.tile([[0, 1, 2], [2, 0, 1], [1, 2, 0]], 100)
    result = rank(list(scores), Resampling(range(300)))
    assert result.intransitive == [(0, 1, 2)] or result.intransitive == [(0, 2, 1)]
    i, j, k = result.intransitive[0]
    assert all((scores[x] > scores[y]).mean() > 0.6 for x, y in ((i, j), (j, k), (k, i)))
    assert np.nanmax(np.abs(result.gaps)) == pytest.approx(1 / 6)


def test_methods_meet_on_the_images_that_both_have():
    """Method 1 has the first half, method 2 the second: they never meet, and each is measured against method 0."""
    scores = luce_scores(np.random.default_rng(4), TRUE[:3], 400)
    scores[1, 200:], scores[2, :200] = np.nan, np.nan
    result = rank(list(scores), Resampling(range(400)))
    wins = [(scores[1, :200] > scores[0, :200]).sum(), (scores[2, 200:] > scores[0, 200:]).sum()]
    expected = [0, *(ELO * math.log((w + 0.5) / (200.5 - w)) for w in wins)]
    assert [entry.value for entry in result.strengths] == pytest.approx(expected)
    assert np.isnan(result.gaps[1, 2])


def test_a_method_without_an_image_of_the_first_is_refused():
    with pytest.raises(ValueError, match="method 2 shares no image with method 0"):
        rank([[1.0, np.nan], [1.0, 2.0], [np.nan, 2.0]], Resampling(range(2)))


def test_copies_of_a_prompt_do_not_narrow_the_interval():
    scores = luce_scores(np.random.default_rng(5), TRUE, 60)
    once = rank(list(scores), Resampling(range(60))).strengths[3]
    copied = rank(list(np.repeat(scores, 50, axis=1)), Resampling(np.repeat(np.arange(60), 50))).strengths[3]
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)


def test_equal_seeds_give_the_interval_of_one_and_different_ones_a_wider():
    base, one = luce_scores(np.random.default_rng(6), TRUE[:2], 200)
    resampling = Resampling(range(200))
    single, equal, apart = (
        rank([base, seeds], resampling).strengths[1] for seeds in (one, [one] * 3, [one - 1, one, one + 1])
    )
    assert (equal.low, equal.high) == pytest.approx((single.low, single.high))
    assert apart.high - apart.low > 2 * (single.high - single.low)


def test_the_first_order_effect_of_a_seed_is_near_that_of_fitting_it_alone():
    """A deviation of seeds as the fit with each seed alone would give it, against the interval's widening."""
    rng = np.random.default_rng(7)
    base, *rest = luce_scores(rng, TRUE, 2000)
    seeds = rest[2] + np.array([[-0.1], [0.0], [0.1]])
    resampling = Resampling(range(2000), num_resamples=4000)
    alone = [rank([base, *rest[:2], seed], resampling).strengths[3].value for seed in seeds]
    found = rank([base, *rest[:2], seeds], resampling).strengths[3]
    # at S - 1 = 2 degrees of freedom or a few more, the half-width is about t times the deviation of the mean
    deviation = np.std(alone, ddof=1) / math.sqrt(3)
    assert stats.t.ppf(0.975, 4) * deviation < (found.high - found.low) / 2 < 1.4 * stats.t.ppf(0.975, 2) * deviation


def covered(num_worlds, num_prompts, num_seeds=1, seed_sd=0.0):
    """How often the intervals of strengths, and of the difference of the last two, hold the truth in fresh worlds."""
    hits = np.zeros(len(TRUE))
    for world in range(num_worlds):
        rng = np.random.default_rng(world)
        scores = [TRUE[0] + rng.gumbel(size=num_prompts)]
        for strength in TRUE[1:]:
            deviations = seed_sd * rng.normal(size=(num_seeds, 1))
            scores.append(strength + deviations + rng.gumbel(size=(num_seeds, num_prompts)))
        result = rank(scores, Resampling(range(num_prompts), num_resamples=400))
        hits[:3] += [
            entry.low <= ELO * x <= entry.high for entry, x in zip(result.strengths[1:], TRUE[1:], strict=True)
        ]
        hits[3] += not result.stronger[2, 3]  # a false order of methods that differ the other way
    return hits / num_worlds


def test_intervals_hold_known_strengths_as_often_as_they_claim():
    shares = covered(num_worlds=300, num_prompts=150)
    assert (shares[:3] >= 0.92).all()
    assert (shares[:3] <= 0.98).all()
    assert shares[3] == 1


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [2, *(pytest.param(n, marks=pytest.mark.matrix) for n in (3, 5))])
def test_intervals_over_few_seeds_do_not_claim_too_much(num_seeds):
    shares = covered(num_worlds=300, num_prompts=150, num_seeds=num_seeds, seed_sd=0.2)
    assert (shares[:3] >= 0.92).all()
    assert (shares[:3] <= 0.995).all()


def test_equal_methods_are_told_apart_in_at_most_about_five_percent_of_worlds():
    told = 0
    for world in range(200):
        scores = luce_scores(np.random.default_rng(world), np.zeros(3), 100)
        result = rank(list(scores), Resampling(range(100), num_resamples=400))
        told += sum(result.stronger[i, j] or result.stronger[j, i] for i, j in combinations(range(3), 2))
    assert 0.02 <= told / 600 <= 0.085
