"""Objectives of policy gradients on worked numbers: values, and where there is no gradient."""

from itertools import product

import pytest
import torch

from alignbench.online.policy_objectives import (
    centred_log_ratio,
    clamped_loss,
    divergence_gated_loss,
    is_clipped,
    is_too_far,
    ppo_loss,
    surrogate_loss,
)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def value_and_gradient(loss, log_ratio):
    log_ratio = log_ratio.clone().requires_grad_()
    values = loss(log_ratio)
    return values.detach(), torch.autograd.grad(values.sum(), log_ratio)[0]


def test_ppo_on_worked_numbers():
    """A ratio of 1.2 is beyond the range: a good image is not pushed further, a bad one is pushed back."""
    ratio, advantage = column(1.2, 1.2, 0.8, 0.8), column(1.0, -1.0, 1.0, -1.0)
    values, gradient = value_and_gradient(lambda r: ppo_loss(r, advantage, 0.1), ratio.log())
    torch.testing.assert_close(values, column(-1.1, 1.2, -0.8, 0.9))
    torch.testing.assert_close(gradient, column(0.0, 1.2, -0.8, 0.0))
    assert is_clipped(ratio.log(), advantage, 0.1).tolist() == [True, False, False, True]


def test_a_clamped_ratio_is_not_even_brought_back():
    ratio, advantage = column(1.2, 1.2, 1.05), column(1.0, -1.0, -1.0)
    values, gradient = value_and_gradient(lambda r: clamped_loss(r, advantage, 0.1), ratio.log())
    torch.testing.assert_close(values, column(-1.1, 1.1, 1.05))
    torch.testing.assert_close(gradient, column(0.0, 0.0, 1.05))


def test_two_of_eight_cases_are_too_far():
    cells = list(product((1.0, -1.0), (1.1, 0.9), (0.5, 2.0)))
    advantage, ratio, divergence = (column(*values) for values in zip(*cells, strict=True))
    far = is_too_far(ratio.log(), advantage, divergence, 1.0)
    assert [cell for cell, one in zip(cells, far, strict=True) if one] == [(1.0, 1.1, 2.0), (-1.0, 0.9, 2.0)]
    values, gradient = value_and_gradient(lambda r: divergence_gated_loss(r, advantage, divergence, 1.0), ratio.log())
    torch.testing.assert_close(values, torch.where(far, 0, -advantage * ratio))
    torch.testing.assert_close(gradient, torch.where(far, 0, -advantage * ratio))


def random_rows(num=64):
    generator = torch.Generator().manual_seed(0)
    log_ratio, advantage, divergence = torch.randn(3, num, dtype=torch.float64, generator=generator)
    return 0.1 * log_ratio, advantage, divergence.abs()


def test_without_a_limit_the_gate_is_always_open():
    log_ratio, advantage, divergence = random_rows()
    found = divergence_gated_loss(log_ratio, advantage, divergence, float("inf"))
    assert torch.equal(found, surrogate_loss(log_ratio, advantage))


def test_at_a_limit_of_zero_the_gradient_is_that_of_ppo_with_no_range():
    log_ratio, advantage, divergence = random_rows()
    gated = value_and_gradient(lambda r: divergence_gated_loss(r, advantage, divergence, 0.0), log_ratio)[1]
    clipped = value_and_gradient(lambda r: ppo_loss(r, advantage, 0.0), log_ratio)[1]
    torch.testing.assert_close(gated, clipped, rtol=1e-12, atol=0)
    assert 0 < float((gated == 0).double().mean()) < 1


@pytest.mark.parametrize(
    "loss", [surrogate_loss, lambda r, a: ppo_loss(r, a, 0.1), lambda r, a: clamped_loss(r, a, 0.1)]
)
def test_where_the_policies_are_one_all_have_the_gradient_of_reinforce(loss):
    advantage = column(1.0, -2.0, 0.0)
    values, gradient = value_and_gradient(lambda r: loss(r, advantage), column(0.0, 0.0, 0.0))
    assert torch.equal(values, -advantage)
    assert torch.equal(gradient, -advantage)


def test_the_centred_log_ratio_is_the_noise_times_the_change_of_the_mean():
    """What was drawn is old_mean + std z. The plain log-ratio is below 0 by the divergence on average."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20000, 6, dtype=torch.float64, generator=generator)
    change, std = torch.randn(6, dtype=torch.float64, generator=generator), column(0.3).expand(20000)
    divergence = change.square().mean() / (2 * std**2)
    plain = ((std[:, None] * z).square() - (std[:, None] * z - change).square()).mean(1) / (2 * std**2)
    centred = centred_log_ratio(plain, divergence, std)
    torch.testing.assert_close(centred, (z * change).mean(1), rtol=0, atol=1e-12)
    for values, mean in ((centred, 0.0), (plain, -float(divergence[0]))):
        assert abs(float(values.mean()) - mean) < 3 * float(values.std()) / 20000**0.5
    assert float(centred.std()) == pytest.approx(float(change.norm()) / 6, rel=0.03)
