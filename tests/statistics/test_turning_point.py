import numpy as np
import pytest

from alignbench.statistics.turning_point import turning_point


def curve(rates, num_images=400, num_seeds=3, seed=0):
    """Return outcomes whose probability of a win at each point is given, [S, L, N]."""
    rng = np.random.default_rng(seed)
    return (rng.random((num_seeds, len(rates), num_images)) < np.array(rates)[None, :, None]).astype(float)


def names(wins):
    return [f"prompt {n}" for n in range(wins.shape[-1])]


def test_a_curve_that_rises_and_falls_turns_at_its_peak():
    wins = curve([0.5, 0.7, 0.9, 0.6, 0.4])
    found = turning_point(wins, names(wins))
    assert (found.peak, found.first, found.last) == (2, 2, 2)
    assert found.drop.value == pytest.approx(0.5, abs=0.05)
    assert found.drop.low < found.drop.value < found.drop.high
    assert found.turned


def test_a_curve_that_rises_to_its_end_has_not_turned():
    wins = curve([0.5, 0.6, 0.7, 0.8])
    found = turning_point(wins, names(wins))
    assert found.peak == 3
    assert found.drop.value == 0
    assert not found.turned


def test_flat_curves_turn_as_seldom_as_chance_allows():
    """A peak that is chosen and measured on the same prompts would fall in every one of them."""
    found = [turning_point(wins, names(wins), 200) for wins in (curve([0.6] * 6, 64, 3, seed) for seed in range(60))]
    assert sum(one.turned for one in found) <= 6
    assert abs(np.mean([one.drop.value for one in found])) < 0.02
    assert np.mean([one.last - one.first for one in found]) > 2, "nobody can say where a flat curve has its peak"


def test_images_of_one_prompt_are_one_draw():
    wins = curve([0.5, 0.7, 0.6], 30)
    alone = turning_point(wins, names(wins))
    copied = turning_point(np.repeat(wins, 10, axis=-1), np.repeat(names(wins), 10).tolist())
    for end in ("value", "low", "high"):
        assert getattr(copied.drop, end) == pytest.approx(getattr(alone.drop, end))
    assert (copied.first, copied.last) == (alone.first, alone.last)


def test_seeds_that_disagree_widen_the_interval():
    rates = np.array([[0.5, 0.9, 0.9, 0.9], [0.5, 0.9, 0.7, 0.5], [0.5, 0.9, 0.7, 0.3]])
    unlike = np.concatenate([curve(row, num_seeds=1, seed=n) for n, row in enumerate(rates)])
    alike = curve(rates.mean(axis=0))
    widths = [
        found.drop.high - found.drop.low
        for found in (turning_point(wins, names(wins)) for wins in (unlike, alike))
    ]  # fmt: skip
    assert widths[0] > 2 * widths[1]


@pytest.mark.parametrize("shape", [(3, 1, 8), (3, 4, 1)])
def test_one_point_or_one_prompt_has_no_turning_point(shape):
    with pytest.raises(ValueError, match="expected two points and two prompts"):
        turning_point(np.zeros(shape), [f"p{n}" for n in range(shape[-1])])
