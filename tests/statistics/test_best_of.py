"""The best of several settings: chosen and measured on the same prompts it is too good, on other prompts it is not."""

import numpy as np
import pytest

from alignbench.statistics.best_of import best_of
from alignbench.statistics.resampling import Resampling


def test_the_setting_that_wins_most_is_the_best():
    wins = [np.array([[0.0, 1.0, 0.0, 1.0]]), np.array([[1.0, 1.0, 0.5, 1.0]])]
    assert best_of(wins, Resampling("abcd", 50)).best == 1


def test_the_first_of_equal_settings_is_the_best():
    assert best_of([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])], Resampling("ab", 50)).best == 0


def test_each_half_of_the_prompts_measures_what_the_other_half_chose():
    # prompts a and c choose the first setting, which wins 1 of b and d; b and d choose the second, which wins 0 of a, c
    wins = [np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([[0.0, 1.0, 0.0, 1.0]])]
    assert best_of(wins, Resampling("abcd", 50)).on_other_prompts.value == (0.5 + 0.0) / 2


def test_one_setting_wins_on_other_prompts_what_it_wins():
    wins = np.random.default_rng(0).integers(0, 2, (2, 60)).astype(float)
    found = best_of([wins], Resampling(range(60), 400))
    assert found.on_other_prompts.value == pytest.approx(wins.mean())
    assert found.on_other_prompts.low < wins.mean() < found.on_other_prompts.high


def test_of_many_settings_without_effect_only_the_same_prompts_show_a_gain():
    rng = np.random.default_rng(1)
    highest, crossed = [], []
    for _ in range(60):
        wins = [rng.integers(0, 2, (1, 40)).astype(float) for _ in range(20)]
        found = best_of(wins, Resampling(range(40), 2))
        highest.append(wins[found.best].mean())
        crossed.append(found.on_other_prompts.value)
    assert np.mean(highest) > 0.6
    assert np.mean(crossed) == pytest.approx(0.5, abs=0.03)


def test_training_seeds_that_differ_widen_the_interval():
    same = np.tile(np.tile([0.0, 1.0], 30), (3, 1))
    unlike = np.stack([np.zeros(60), np.tile([0.0, 1.0], 30), np.ones(60)])
    narrow, wide = (best_of([wins], Resampling(range(60), 400)).on_other_prompts for wins in (same, unlike))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("wins", "texts"), [([], "ab"), ([np.ones((1, 2))], "aa")])
def test_nothing_to_choose_from_is_refused(wins, texts):
    with pytest.raises(ValueError, match="expected a setting and two prompts"):
        best_of(wins, Resampling(texts, 50))
