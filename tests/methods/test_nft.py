"""DiffusionNFT against worked numbers, and against the likelihood that it stands for."""

import pytest
import torch

from alignbench.online.likelihood import elbo
from methods.nft import nft_loss

SIGMA = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
ADVANTAGES = torch.tensor([5.0, 1.0, 0.0, -2.0], dtype=torch.float64)


def column(value, num=4):
    return torch.full((num, 1, 1, 1), value, dtype=torch.float64)


def random_rows(num=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    old, target = torch.randn(2, num, 3, 4, 4, dtype=torch.float64, generator=generator)
    return old, target


def gradient(values, of):
    return torch.autograd.grad(values.sum(), of)[0]


def test_worked_numbers():
    """Image 1, noise -0.5, so the target is -1.5; the old policy says -1.2 and the policy -1.3."""
    found = nft_loss(column(-1.3), column(-1.2), column(-1.5), SIGMA, ADVANTAGES, beta=1.0, clip=5.0)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.7, 0.75, 0.85], dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_at_the_old_policy_it_is_matching_weighted_by_the_advantage(beta):
    """Whatever beta: the gradient is that of minus advantage times likelihood."""
    old, target = random_rows()
    prediction = old.clone().requires_grad_()
    found = gradient(nft_loss(prediction, old, target, SIGMA, ADVANTAGES, beta, 5.0), prediction)
    expected = gradient(-ADVANTAGES * elbo(prediction, target, SIGMA, "adaptive"), prediction)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=1e-12)


def test_an_image_that_is_neither_good_nor_bad_pulls_back_to_the_old_policy():
    old, target = random_rows()
    zero = torch.zeros(4, dtype=torch.float64)
    prediction = old.clone().requires_grad_()
    assert gradient(nft_loss(prediction, old, target, SIGMA, zero, 1.0, 5.0), prediction).abs().max() < 1e-15
    moved = (old + 0.1 * torch.randn_like(old)).requires_grad_()
    pull = -gradient(nft_loss(moved, old, target, SIGMA, zero, 1.0, 5.0), moved)
    assert ((pull * (old - moved)).flatten(1).sum(1) > 0).all()


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_with_fixed_weights_it_is_regression_to_a_target_beyond_the_old_policy(beta):
    """The divisor of `adaptive_error` taken out: v* = v_old + (2 r - 1) / beta (u - v_old), up to a constant."""
    old, target = random_rows()
    good = ADVANTAGES / 10 + 0.5

    def plain(prediction):
        positive, negative = beta * prediction + (1 - beta) * old, (1 + beta) * old - beta * prediction
        squared = [(one - target).square().flatten(1).mean(1) for one in (positive, negative)]
        return 5 / beta * SIGMA**2 * (good * squared[0] + (1 - good) * squared[1])

    def regression(prediction):
        goal = old + ((2 * good - 1) / beta)[:, None, None, None] * (target - old)
        return 5 * beta * SIGMA**2 * (prediction - goal).square().flatten(1).mean(1)

    one, other = random_rows(seed=1)
    torch.testing.assert_close(plain(one) - plain(other), regression(one) - regression(other))


def test_advantages_beyond_the_clip_count_as_the_clip():
    old, target = random_rows()
    values = [nft_loss(old + 0.1, old, target, SIGMA, advantage * torch.ones(4), 1.0, 5.0) for advantage in (5.0, 9.0)]
    assert torch.equal(*values)
