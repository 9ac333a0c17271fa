"""Boundaries of repeated looks are those of the literature, and their p-values and intervals keep what they promise."""

import math

import numpy as np
import pytest
from scipy import special, stats

from alignbench.statistics.sequential import Boundaries, exit_probabilities, spent

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)
OBF, POCOCK = Boundaries("obrien_fleming", FIVE), Boundaries("pocock", FIVE)
PLANS = {
    "obf": OBF,
    "pocock": POCOCK,
    "obf, spent": Boundaries("obrien_fleming", (0.1, 0.45, 1.0), by_spending=True),
    "pocock, spent": Boundaries("pocock", (0.1, 0.45, 1.0), by_spending=True),
    "unequal": Boundaries("obrien_fleming", (0.3, 0.35, 1.0)),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))


def two_sided(z):
    return 2 * float(special.ndtr(-z))


def test_five_equal_looks_have_the_constants_of_jennison_and_turnbull():
    np.testing.assert_allclose(OBF.critical(), [4.562, 3.226, 2.634, 2.281, 2.040], atol=6e-4)  # their table 2.3
    np.testing.assert_allclose(POCOCK.critical(), 2.413, atol=5e-4)  # table 2.1
    assert Boundaries("obrien_fleming", (0.5, 1.0)).critical()[1] == pytest.approx(1.977, abs=5e-4)
    assert Boundaries("pocock", (0.5, 1.0)).critical()[0] == pytest.approx(2.178, abs=5e-4)


def test_the_level_is_spent_as_lan_and_demets_say():
    np.testing.assert_allclose(spent("obrien_fleming", FIVE), [0.00001, 0.0019, 0.0114, 0.0284, 0.05], atol=6e-5)
    np.testing.assert_allclose(spent("pocock", [0.5, 1.0]), [0.05 * math.log((1 + math.e) / 2), 0.05])
    plan = Boundaries("obrien_fleming", FIVE, by_spending=True)
    assert np.cumsum(exit_probabilities(plan.critical(), FIVE)) == pytest.approx(spent("obrien_fleming", FIVE))
    # boundaries printed by ldbounds (Casper & Perez), which spends 0.025 on each side by itself
    found = exit_probabilities([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], FIVE).cumsum()
    np.testing.assert_allclose(found, 2 * spent("obrien_fleming", FIVE, level=0.025), rtol=5e-4)


@every_plan
def test_all_looks_together_have_the_size_that_is_asked_for(plan):
    for level in (0.05, 0.01):
        assert exit_probabilities(plan.critical(level), plan.fractions).sum() == pytest.approx(level, abs=1e-8)


def test_one_look_is_the_plain_test():
    for rule in ("obrien_fleming", "pocock"):
        plan = Boundaries(rule, (1.0,))
        assert plan.critical()[0] == pytest.approx(stats.norm.isf(0.025))
        assert plan.widening(0) == pytest.approx(1)
        assert plan.repeated_p(0, 0.0123) == pytest.approx(0.0123)
        assert plan.stagewise_p(0, 0.0123) == pytest.approx(0.0123)


def test_exit_probabilities_are_those_of_the_two_dimensional_normal_distribution():
    bounds, share, drift = (1.5, 1.2), 0.3, 0.8
    found = exit_probabilities(bounds, (share, 1.0), drift)
    means = np.array([drift * math.sqrt(share), drift])
    covariance = np.array([[1, math.sqrt(share)], [math.sqrt(share), 1]])
    inside = stats.multivariate_normal.cdf(bounds, means, covariance, lower_limit=[-1.5, -1.2])
    first = stats.norm.cdf(-1.5 - means[0]) + stats.norm.sf(1.5 - means[0])
    assert found == pytest.approx([first, 1 - first - inside], abs=1e-5)


def test_looking_five_times_at_the_plain_boundary_errs_in_14_of_100_cases():
    assert exit_probabilities([1.96] * 5, FIVE).sum() == pytest.approx(0.142, abs=5e-4)


@every_plan
def test_a_repeated_p_value_is_the_level_whose_boundary_is_just_reached(plan):
    for look in range(len(plan.fractions)):
        for level in (0.05, 0.3):
            z = plan.critical(level)[look]
            if z < 8:
                assert plan.repeated_p(look, two_sided(z)) == pytest.approx(level, rel=1e-4)
    assert math.isnan(plan.repeated_p(0, math.nan))
    assert plan.repeated_p(0, 1.0) == 1


@every_plan
def test_p_values_rise_with_that_of_the_single_test_and_are_never_below_it(plan):
    singles = [1e-12, 0.001, 0.2]
    for look in range(len(plan.fractions)):
        for function in (plan.repeated_p, plan.stagewise_p):
            found = [function(look, single) for single in singles]
            assert found == sorted(found)
            assert all(p >= 0.999 * single for p, single in zip(found, singles, strict=True) if single > 1e-10)
            assert max(found) <= 1


def test_a_rule_that_stopped_has_a_p_value_of_5_per_cent_at_most():
    for plan in PLANS.values():
        for look in range(len(plan.fractions)):
            level = plan.nominal_level(look)
            if level > 1e-15:
                assert plan.stagewise_p(look, 0.9 * level) < 0.05
    last = OBF.nominal_level(4)
    assert OBF.stagewise_p(4, last) == pytest.approx(0.05)
    assert OBF.stagewise_p(4, 1.1 * last) > 0.05
    first = two_sided(4.0)
    assert POCOCK.stagewise_p(0, first) == pytest.approx(first)


def test_intervals_of_the_first_looks_are_the_widest_by_obrien_fleming():
    assert OBF.widening(0) == pytest.approx(4.562 / 1.960, abs=1e-3)
    assert [POCOCK.widening(look) for look in range(5)] == pytest.approx([2.413 / 1.960] * 5, abs=1e-3)
    assert OBF.widening(4, level=0.025) > OBF.widening(4)


@pytest.mark.parametrize("fractions", [(), (0.5,), (0.5, 0.5, 1.0), (0.6, 0.4, 1.0), (0.0, 1.0)])
def test_looks_that_do_not_rise_to_the_whole_are_refused(fractions):
    with pytest.raises(ValueError, match="rise from above 0 to 1"):
        Boundaries("pocock", fractions)


# ---- simulated, as in the design


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("plan", "size", "power", "prompts"), [(OBF, 0.053, 0.789, 1285), (POCOCK, 0.051, 0.708, 1128)]
)
def test_win_rates_of_1600_prompts_have_the_size_and_the_power_of_the_rule(plan, size, power, prompts):
    counts = np.array([320, 640, 960, 1280, 1600])
    found = {}
    for rate in (0.5, 0.535):
        won = np.random.default_rng(1).binomial(320, rate, (20_000, 5)).cumsum(axis=1)
        z = (won / counts - 0.5) / np.sqrt(won * (counts - won) / counts**2 / (counts - 1))
        exact = np.minimum(2 * stats.binom.cdf(np.minimum(won, counts - won), counts, 0.5), 1)
        by_z, by_test = np.abs(z) >= plan.critical(), exact <= [plan.nominal_level(look) for look in range(5)]
        found[rate] = by_z.any(axis=1).mean(), by_test.any(axis=1).mean()
        last = np.where(by_z.any(axis=1), by_z.argmax(axis=1), 4)
    assert found[0.5] == (pytest.approx(size, abs=0.01), pytest.approx(0.05, abs=0.01))
    assert found[0.5][1] <= 0.052  # the exact test, which the program takes, never errs more often than it says
    assert found[0.535] == (pytest.approx(power, abs=0.01), pytest.approx(power, abs=0.012))
    assert counts[last].mean() == pytest.approx(prompts, abs=15)
    drift = 0.035 / math.sqrt(0.535 * 0.465 / 1600)
    assert exit_probabilities(plan.critical(), FIVE, drift).sum() == pytest.approx(power, abs=0.01)


@pytest.mark.matrix
@every_plan
def test_repeated_intervals_hold_the_truth_at_every_look_and_stagewise_p_values_are_uniform(plan):
    """Also after a stop by the rule, for which the plain interval misses far more often than 5 %."""
    shares, drift = np.array(plan.fractions), 1.0
    rng = np.random.default_rng(2)
    steps = np.sqrt(np.diff(shares, prepend=0))
    z = (rng.normal(size=(20_000, len(shares))) * steps).cumsum(axis=1) / np.sqrt(shares)
    critical = plan.critical()
    misses = (np.abs(z) > critical).any(axis=1).mean()
    assert misses == pytest.approx(0.05, abs=0.006)
    shifted = z + drift * np.sqrt(shares)
    stops = np.abs(shifted) >= critical
    at = np.where(stops.any(axis=1), stops.argmax(axis=1), len(shares) - 1)
    assert (np.abs(z[np.arange(len(z)), at]) > critical[at]).mean() <= 0.05
    stops = np.abs(z) >= critical
    at = np.where(stops.any(axis=1), stops.argmax(axis=1), len(shares) - 1)[:1000]
    p = [plan.stagewise_p(int(k), two_sided(abs(one[k]))) for k, one in zip(at, z, strict=False)]
    assert stats.kstest(p, "uniform").statistic < 0.05
