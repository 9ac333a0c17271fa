"""Reverse KL against worked numbers, torch's divergence, and the point where it comes to rest."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from alignbench.batch import PairBatch
from methods.dpo import dpo_loss, loser_probability
from methods.reverse_kl import ReverseKL, reverse_kl_loss

ALPHA = torch.full((1,), 0.1, dtype=torch.float64)


def reverse_kl(beta=500.0, alpha=0.1, labels="hard") -> ReverseKL:
    return ReverseKL("reverse_kl", beta, alpha, labels, error_weighting="uniform", prompt_dropout=0.0, num_draws=None)


def slope(margin, probability_l):
    margin = margin.clone().requires_grad_()
    return torch.autograd.grad(reverse_kl_loss(margin, probability_l).sum(), margin)[0]


def test_worked_numbers():
    """At 0 both are as probable: log(0.5 / 0.9) / 2 + log(0.5 / 0.1) / 2 = 0.51083."""
    margin = torch.tensor([-2.0, 0.0, 2.0, 4.0], dtype=torch.float64)
    expected = torch.tensor([1.67534, 0.51083, 0.00194, 0.05479], dtype=torch.float64)
    torch.testing.assert_close(reverse_kl_loss(margin, ALPHA), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.4, 0.5])
def test_it_is_the_divergence_of_two_coins(alpha):
    margin = torch.linspace(-6, 6, 25, dtype=torch.float64)
    coins = kl_divergence(Bernoulli(logits=margin), Bernoulli(torch.tensor(1 - alpha, dtype=torch.float64)))
    torch.testing.assert_close(reverse_kl_loss(margin, torch.full_like(margin, alpha)), coins)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.4, 0.5])
def test_a_pair_is_pulled_to_its_rest_from_both_sides(alpha):
    """The same rest as that of dpo with as much label smoothing; even odds pull the policy back to the reference."""
    rest = math.log((1 - alpha) / alpha)
    margin = torch.tensor([rest - 1, rest, rest + 1], dtype=torch.float64)
    found = slope(margin, torch.full_like(margin, alpha))
    assert found[0] < 0 < found[2]
    assert found[1].item() == pytest.approx(0, abs=1e-12)
    dpos = margin.clone().requires_grad_()
    dpo_loss(dpos, torch.ones_like(margin), alpha).sum().backward()
    assert dpos.grad[1].item() == pytest.approx(0, abs=1e-12)


def test_the_pull_is_that_of_the_formula_and_vanishes_on_both_sides():
    """s (1 - s) (margin - rest): unlike that of dpo, it gives up pairs that are ordered surely the wrong way round."""
    margin = torch.tensor([-30.0, -4.0, 0.0, 1.0, 3.0, 30.0], dtype=torch.float64)
    s = torch.sigmoid(margin)
    found = slope(margin, ALPHA)
    torch.testing.assert_close(found, s * (1 - s) * (margin - math.log(9)))
    assert found[0].abs() < 1e-10
    assert found[-1].abs() < 1e-10


def test_extreme_margins_stay_finite():
    margin = torch.tensor([-1e4, 1e4])
    expected = -torch.tensor([0.1, 0.9]).log()
    torch.testing.assert_close(reverse_kl_loss(margin, torch.full((2,), 0.1)), expected)
    assert torch.equal(slope(margin, torch.full((2,), 0.1)), torch.zeros(2))


def test_an_untrained_policy_starts_from_the_known_value_and_is_pushed(make_model, kit):
    model = make_model()
    metrics = kit.backward(reverse_kl(), model, kit.batch(PairBatch, model), kit.context())[0]
    torch.testing.assert_close(metrics["loss"], torch.full((4,), 0.51083), rtol=0, atol=1e-5)
    assert torch.equal(metrics["margin"], torch.zeros(4))
    assert kit.gradient(model).norm() > 0


def test_soft_labels_are_those_of_the_batch_and_alpha_of_them_the_wrong_way_round(make_model, kit):
    """Winner with 0.8: the loser is preferred with 0.9 * 0.2 + 0.1 * 0.8 = 0.26."""
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    batch = PairBatch(batch.index, batch.prompts, batch.conditioning, batch.latents_w, batch.latents_l,
                      torch.tensor([0.8, 0.8, 1.0, 1.0]))  # fmt: skip
    assert loser_probability(torch.tensor(0.8), 0.1).item() == pytest.approx(0.26)
    found = kit.backward(reverse_kl(20.0, labels="soft"), model, batch, kit.context())[0]
    expected = reverse_kl_loss(found["margin"], torch.tensor([0.26, 0.26, 0.1, 0.1]))
    torch.testing.assert_close(found["loss"], expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.1])
def test_labels_that_are_certain_or_say_nothing_are_refused(alpha):
    with pytest.raises(ValueError, match=f"method.alpha={alpha} must be above 0 and below 0.5"):
        reverse_kl(alpha=alpha)
