"""PEPG, EPG and PAR: how they are related, and where they come to rest."""

import pytest
import torch

from alignbench.online.policy_objectives import surrogate_loss
from methods.pepg import pepg_loss

ADVANTAGE = torch.tensor([0.3, -0.2, 0.0, 1.0], dtype=torch.float64)
OLD = torch.tensor([-1.0, -0.5, -0.2, -0.1], dtype=torch.float64)


def gradient(variant, importance, difference):
    likelihood = (OLD + difference).requires_grad_()
    pepg_loss(likelihood, OLD, ADVANTAGE, variant, importance).sum().backward()
    assert likelihood.grad is not None
    return likelihood.grad


@pytest.mark.parametrize("importance", [True, False])
def test_par_has_the_gradient_of_pepg(importance):
    difference = torch.tensor([0.5, -0.3, 0.1, -2.0], dtype=torch.float64)
    one, other = (gradient(variant, importance, difference) for variant in ("par", "pepg"))
    torch.testing.assert_close(one, other, atol=1e-16, rtol=1e-14)
    assert one.norm() > 0.1


@pytest.mark.parametrize("variant", ["pepg", "epg", "par"])
@pytest.mark.parametrize("importance", [True, False])
def test_at_the_old_policy_all_are_minus_advantage_times_the_gradient_of_the_likelihood(variant, importance):
    torch.testing.assert_close(gradient(variant, importance, torch.zeros(4)), -ADVANTAGE)


@pytest.mark.parametrize("variant", ["pepg", "par"])
def test_they_rest_where_the_ratio_explains_the_advantage(variant):
    assert gradient(variant, True, ADVANTAGE).abs().max() < 1e-15
    if variant == "par":
        assert pepg_loss(OLD + ADVANTAGE, OLD, ADVANTAGE, "par", True).abs().max() < 1e-30


def test_epg_with_importance_is_the_unclipped_surrogate():
    difference = torch.tensor([0.5, -0.3, 0.1, -2.0], dtype=torch.float64)
    log_ratio = difference.clone().requires_grad_()
    surrogate_loss(log_ratio, ADVANTAGE).sum().backward()
    assert log_ratio.grad is not None
    torch.testing.assert_close(gradient("epg", True, difference), log_ratio.grad)
