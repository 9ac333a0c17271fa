"""The old policy: it follows by the published schedules, copies bit for bit, and gives the policy back as it was."""

import pytest
import torch
from torch import nn

from alignbench.models.lagged_weights import Lag, LaggedWeights


def weights(dtype=torch.float32):
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 4, dtype=dtype)), nn.Parameter(torch.randn(5, dtype=dtype))]


def test_the_published_schedules():
    """DiffusionNFT: type 1 is 0.1 at 100 and 0.5 from 500; type 2 is 0 until 75 and 0.999 from 209."""
    first = Lag(start=0.0, slope=0.001, cap=0.5, delay=0)
    assert [first.decay(k) for k in (0, 100, 500, 5000)] == pytest.approx([0, 0.1, 0.5, 0.5])
    second = Lag(start=0.0, slope=0.0075, cap=0.999, delay=75)
    assert [second.decay(k) for k in (74, 75, 209, 1000)] == pytest.approx([0, 0, 0.999, 0.999])
    assert Lag(start=0.25, slope=0.005, cap=0.999, delay=10).decay(9) == 0


def test_a_decay_of_zero_copies_bit_for_bit():
    parameters = weights()
    lagged = LaggedWeights(parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) / 3)
    lagged.follow(0.0)
    assert all(torch.equal(value, p) for value, p in zip(lagged.values, parameters, strict=True))


def test_equal_weights_stay_equal():
    parameters = weights()
    lagged = LaggedWeights(parameters)
    for _ in range(2000):
        lagged.follow(0.9999)
    assert all(torch.equal(value, p) for value, p in zip(lagged.values, parameters, strict=True))


def test_it_is_put_in_place_and_taken_away_bit_for_bit():
    parameters = weights()
    start = [p.detach().clone() for p in parameters]
    lagged = LaggedWeights(parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1)
    moved = [p.detach().clone() for p in parameters]
    with lagged.in_place():
        assert all(torch.equal(p, value) for p, value in zip(parameters, start, strict=True))
    assert all(torch.equal(p, value) for p, value in zip(parameters, moved, strict=True))


@pytest.mark.parametrize("gradient", [False, True])
def test_half_precision_copies_of_one_policy_are_not_used_for_the_other(gradient):
    """Within one autocast: weights of 2 and, in their place, of 1."""
    layer, ones = nn.Linear(3, 1, bias=False), torch.ones(1, 3)
    nn.init.ones_(layer.weight)
    lagged = LaggedWeights([layer.weight])
    nn.init.constant_(layer.weight, 2)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradient):
        before = layer(ones)
        with torch.no_grad(), lagged.in_place():
            old = layer(ones)
        after = layer(ones)
    assert [float(one) for one in (before, old, after)] == [6, 3, 6]


def test_small_steps_of_half_precision_weights_are_not_lost():
    """At a decay of 0.999 the step is below what bfloat16 can tell near 1."""
    parameters = [nn.Parameter(torch.ones(1, dtype=torch.bfloat16))]
    lagged = LaggedWeights(parameters)
    with torch.no_grad():
        parameters[0].fill_(1.5)
    for _ in range(100):
        lagged.follow(0.999)
    assert float(lagged.values[0]) == pytest.approx(1.5 - 0.5 * 0.999**100, abs=1e-5)


def test_it_goes_on_from_its_state():
    lagged, other = LaggedWeights(weights()), LaggedWeights(weights())
    with torch.no_grad():
        lagged.parameters[0].add_(1)
    lagged.follow(0.3)
    other.load_state_dict(lagged.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(lagged.values, other.values, strict=True))
