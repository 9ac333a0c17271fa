"""Advantage weighted matching: what its loss is at the policy itself, and where the ratio stops it."""

import pytest
import torch

from alignbench.online.likelihood import elbo
from methods.awm import awm_loss

SIGMA = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
ADVANTAGE = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)


def rows():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 3, 4, 4, dtype=torch.float64, generator=generator)
    return prediction.requires_grad_(), target


def test_on_its_own_ratio_the_value_is_minus_the_advantage_and_the_gradient_that_of_weighted_matching():
    prediction, target = rows()
    likelihood = elbo(prediction, target, SIGMA, "ghuber")
    values = awm_loss(likelihood, likelihood, ADVANTAGE, 1.0)
    assert torch.equal(values, -ADVANTAGE)
    found = torch.autograd.grad(values.sum(), prediction, retain_graph=True)[0]
    expected = torch.autograd.grad(-(ADVANTAGE * likelihood).sum(), prediction)[0]
    torch.testing.assert_close(found, expected)


def test_a_good_image_is_pulled_to_and_a_bad_one_pushed_away():
    prediction, target = rows()
    likelihood = elbo(prediction, target, SIGMA, "uniform")
    gradient = torch.autograd.grad(awm_loss(likelihood, likelihood, ADVANTAGE, 1.0).sum(), prediction)[0]
    towards = (-gradient * (target - prediction)).flatten(1).sum(1)
    assert towards[0] > 0
    assert towards[1] == 0
    assert towards[2] < 0


@pytest.mark.parametrize(("moved", "advantage", "stops"), [(1.2, 1.0, True), (1.2, -1.0, False), (0.8, -1.0, True)])
def test_the_ratio_stops_a_push_that_went_far_enough(moved, advantage, stops):
    likelihood = torch.tensor([moved], dtype=torch.float64).log().requires_grad_()
    old, pushed = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    awm_loss(likelihood, old, pushed, 0.1).sum().backward()
    assert likelihood.grad is not None
    assert (likelihood.grad == 0).all() == stops
