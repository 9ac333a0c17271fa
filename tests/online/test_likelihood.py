"""Stand-ins for the log-likelihood against worked numbers."""

from typing import get_args

import pytest
import torch

from alignbench.online.likelihood import LikelihoodKind, elbo

KINDS = get_args(LikelihoodKind)


def pair(difference, dtype=torch.float64):
    target = torch.randn(2, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return target + difference, target


def test_ghuber_on_a_worked_number():
    prediction, target = pair(0.2)
    found = elbo(prediction, target, torch.tensor([0.5, 0.5]), "ghuber")
    torch.testing.assert_close(found, torch.full((2,), -0.888103, dtype=torch.float64), atol=1e-6, rtol=0)


def test_ghuber_of_power_one_is_sigma():
    prediction, target = pair(0.2)
    sigma = torch.tensor([0.3, 0.8])
    torch.testing.assert_close(
        elbo(prediction, target, sigma, "ghuber", power=1.0), elbo(prediction, target, sigma, "sigma")
    )


def test_adaptive_is_as_large_as_an_absolute_error_but_has_the_gradient_of_a_square():
    prediction, target = pair(0.2)
    prediction.requires_grad_()
    found = elbo(prediction, target, torch.tensor([0.5, 1.0]), "adaptive")
    torch.testing.assert_close(found, torch.tensor([-0.1, -0.2], dtype=torch.float64))
    found.sum().backward()
    assert prediction.grad is not None
    # -2 sigma^2 (v - u) / (D sigma |v - u|) = -2 sigma / D
    torch.testing.assert_close(prediction.grad[:, 0, 0, 0], -2 * torch.tensor([0.5, 1.0], dtype=torch.float64) / 48)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_prediction_has_zero_and_a_finite_gradient(kind):
    prediction, target = pair(0.0)
    prediction.requires_grad_()
    found = elbo(prediction, target, torch.tensor([0.5, 1.0]), kind)
    found.sum().backward()
    assert found.abs().max() == 0
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_falls_with_the_distance(kind):
    sigma = torch.tensor([0.5, 0.5])
    near, far = (elbo(*pair(distance), sigma, kind) for distance in (0.1, 0.2))
    assert (near > far).all()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="likelihood=elbo is unknown; available: uniform"):
        elbo(*pair(0.1), torch.ones(2), "elbo")  # pyright: ignore[reportArgumentType]
