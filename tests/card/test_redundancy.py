"""How many scorers several scorers are worth, where it is known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from alignbench.card.redundancy import effective_number, redundancy, spearman_of_differences


def test_copies_are_worth_one_and_scorers_that_share_nothing_their_number():
    assert effective_number(np.ones((5, 5))) == pytest.approx(1)
    assert effective_number(np.eye(5)) == pytest.approx(5)
    differences = np.random.default_rng(0).normal(size=500)
    found = redundancy({"a": differences, "b": 2 * differences, "c": differences**3}, np.sign(differences))
    assert found.effective == pytest.approx(1)
    assert str(found) == "3 scorers are worth 1.0"


def test_the_number_of_two_scorers_follows_from_their_correlation():
    half = np.array([[1, 0.5], [0.5, 1]])  # eigenvalues 1.5 and 0.5
    assert effective_number(half) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def test_which_image_of_a_pair_comes_first_does_not_matter():
    rng = np.random.default_rng(1)
    one, noise = rng.normal(size=200), rng.normal(size=200)
    values, turn = np.stack([one, one + noise]), np.where(rng.random(200) < 0.5, -1, 1)
    found = spearman_of_differences(values)
    assert spearman_of_differences(values * turn) == pytest.approx(found)
    assert found[0, 1] == pytest.approx(spearmanr(np.r_[one, -one], np.r_[one + noise, -one - noise])[0])


def test_kappa_and_phi_are_those_of_a_table_by_hand():
    worth = np.array([1.0, 1, 1, 1, 0])
    found = redundancy({"a": np.array([1.0, 1, 1, -1, 1]), "b": np.array([1.0, 1, -1, -1, 0])}, worth)
    assert found.kappa[0, 1] == pytest.approx(2 * 3 / 4 - 1)  # pair 5 is a tie for b
    a, b = np.array([1, 1, 1, 0]), np.array([1, 1, 0, 0])
    assert found.phi[0, 1] == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_a_scorer_that_calls_everything_a_tie_is_left_out_and_named():
    found = redundancy({"a": np.array([1.0, -1]), "dead": np.zeros(2)}, np.array([1.0, 1]))
    assert (found.names, found.left_out) == (["a"], ["dead"])
    assert "dead calls every pair a tie" in str(found)
    assert redundancy({"dead": np.zeros(2)}, np.ones(2)) is None
