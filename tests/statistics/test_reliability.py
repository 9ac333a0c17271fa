"""Log loss, scale and calibration, on margins whose figures are known."""

import math

import numpy as np
import pytest
from scipy.special import expit

from alignbench.report.cards.reliability_picture import reliability
from alignbench.statistics.reliability import best_scale, calibration, log_loss


def votes(margins, rng, flipped=False):
    """Return margins and labels of N pairs whose first image is preferred with probability sigmoid(margin).

    `flipped`: the winner comes first, as in the data of the program.
    """
    wins = rng.random(len(margins)) < expit(margins)
    return (np.where(wins, margins, -margins), np.ones(len(margins))) if flipped else (margins, wins.astype(float))


def test_the_log_loss_of_a_guess_is_log_2_and_of_a_soft_label_its_cross_entropy():
    assert log_loss(np.zeros(3), np.array([1, 0.5, 0.7])) == pytest.approx(math.log(2))
    p, q = 0.8, expit(1.5)
    expected = -(p * math.log(q) + (1 - p) * math.log(1 - q))
    assert log_loss(np.array([1.5]), np.array([p])) == pytest.approx(expected)


def test_margins_too_large_for_a_logarithm_have_a_finite_loss():
    assert log_loss(np.array([-1000.0]), np.array([1.0])) == pytest.approx(1000)


def test_the_best_scale_undoes_one_that_was_laid_over_true_log_odds():
    rng = np.random.default_rng(0)
    margins, labels = votes(rng.normal(0, 2, 40_000), rng)
    assert best_scale(margins * 5, labels) == pytest.approx(1 / 5, rel=0.05)


def test_true_probabilities_have_the_calibration_error_of_chance():
    rng = np.random.default_rng(1)
    found = [calibration(*votes(rng.normal(0, 2, 1000), rng, flipped=True)) for _ in range(40)]
    assert np.mean([one.error for one in found]) == pytest.approx(np.mean([one.by_chance for one in found]), rel=0.1)
    assert [one.num_pairs for one in found[0].bins] == [100] * 10


def test_a_judge_that_is_too_sure_shows_by_how_much():
    rng = np.random.default_rng(2)
    margins, labels = votes(np.full(20_000, 1.0), rng)
    assert calibration(3 * margins, labels).error == pytest.approx(expit(3) - expit(1), abs=0.01)


def test_which_image_the_data_put_first_does_not_matter():
    rng = np.random.default_rng(3)
    margins, labels = votes(rng.normal(0, 1, 500), rng)
    turned = rng.random(500) < 0.5
    other = calibration(np.where(turned, -margins, margins), np.where(turned, 1 - labels, labels))
    assert other.error == pytest.approx(calibration(margins, labels).error)


def test_the_diagram_is_a_picture_and_the_same_for_the_same_figures():
    rng = np.random.default_rng(6)
    found = calibration(*votes(rng.normal(0, 1, 200), rng))
    assert reliability(found, "anna").startswith(b"\x89PNG")
    assert reliability(found, "anna") == reliability(found, "anna")
