"""D3PO against worked numbers, and on pairs of images."""

import math

import pytest
import torch

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.online.advantages import AdvantageSettings
from alignbench.online.policy_objectives import clamped_preference_loss
from methods.d3po import D3PO


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def d3po(kit):
    """A function that makes the method, with changes to its settings."""

    def make(**changes):
        own = {
            "name": "d3po",
            "group_size": 2,
            "advantage": AdvantageSettings("sum", "none", None, 1.0, 0.05),
            "share_initial_noise": True,
            "beta": 0.1,
            "clip_range": 0.1,
        }
        return D3PO(**kit.path_settings(**own | changes))

    return make


@pytest.fixture(params=["velocity", "epsilon"])
def model(request, kit):
    model = kit.ToyModel(kit.Linear(0.3), request.param, shape=(3, 8, 8))
    model.make_reference()
    return model


def prompts_of(model, num=8):
    texts = [f"prompt {n // 2}" for n in range(num)]
    return PromptBatch(torch.arange(num), texts, model.encode_prompts(texts))


def rolled_out(method, model, micro_batch_size=4):
    (steps,) = method.rollout(model, prompts_of(model), Context(0, 0, micro_batch_size))
    return steps


def test_worked_numbers():
    """Ratios of 1.05 and 0.97: margin 0.0792, loss log(1 + exp(-0.1 * 0.0792))."""
    margin = math.log(1.05) - math.log(0.97)
    found = clamped_preference_loss(column(1.05).log(), column(0.97).log(), 0.1, 0.1)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.1 * margin)))
    assert clamped_preference_loss(column(0.0), column(0.0), 0.1, 0.1).item() == pytest.approx(math.log(2))


def test_the_logit_is_bounded_by_the_clamped_ratios():
    """With beta 0.1 the loss is all but linear: the sigmoid stays between 0.495 and 0.505."""
    best, worst = (clamped_preference_loss(column(s * 9.0), column(-s * 9.0), 0.1, 0.1).item() for s in (1, -1))
    assert -math.log(math.expm1(best)) == pytest.approx(0.020067, abs=1e-6)
    assert worst - best == pytest.approx(0.020067, abs=1e-6)


def test_a_ratio_beyond_its_range_has_no_gradient():
    ratio_w, ratio_l = column(0.2, 0.05).requires_grad_(), column(-0.05, -0.2).requires_grad_()
    clamped_preference_loss(ratio_w, ratio_l, 0.1, 0.1).sum().backward()
    assert (ratio_w.grad != 0).tolist() == [False, True]
    assert (ratio_l.grad != 0).tolist() == [True, False]
    assert ratio_w.grad[1] < 0 < ratio_l.grad[0]


def test_at_the_start_the_loss_is_log_2(d3po, model):
    for batch in rolled_out(d3po(), model):
        loss = d3po().loss(model, batch, Context(0, 0, 4))
        torch.testing.assert_close(loss.values, torch.full((2,), math.log(2)))
        assert loss.values.shape == loss.weights.shape == loss.metrics["margin"].shape


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_pairs_stay_together_and_start_alike(d3po, model, micro_batch_size):
    method = d3po(rollout_batch_size=8)
    steps = rolled_out(method, model, micro_batch_size)
    assert {len(batch) for batch in steps} == {2 if micro_batch_size < 4 else 4}
    assert all(int(batch.index[i]) % 2 == 0 for batch in steps for i in range(0, len(batch), 2))
    states = method.sample(model, prompts_of(model), Context(0, 0, 8)).noisy_latents[0]
    assert torch.equal(states[0::2], states[1::2])
    assert not torch.equal(states[0], states[2])


def test_the_order_of_a_pair_does_not_matter(d3po, model, kit):
    method = d3po()
    (batch, *_) = rolled_out(method, model)
    kit.perturb(model)
    swapped = batch.take([1, 0, 3, 2])
    values = [method.loss(model, one, Context(0, 0, 4)).values for one in (batch, swapped)]
    torch.testing.assert_close(*values)
    assert (values[0] != math.log(2)).all()


def test_a_tie_has_no_gradient(d3po, model):
    method = d3po()
    (batch, *_) = rolled_out(method, model)
    batch.advantage[:2] = 0.0
    loss = method.loss(model, batch, Context(0, 0, 4))
    assert loss.values[0] == 0
    assert loss.metrics["flat_groups"].tolist() == [1, 0]
    assert loss.metrics["margin"].isnan().tolist() == [True, False]
    loss.values[0].backward()
    assert model.network.a.grad == 0


def test_better_images_become_more_probable_than_worse_ones(d3po, model):
    method = d3po()
    for batch in rolled_out(method, model, 8):
        model.network.a.grad = None
        method.loss(model, batch, Context(0, 0, 8)).values.sum().backward()
        step = 1e-4 * model.network.a.grad.sign()
        with torch.no_grad():
            model.network.a -= step
        assert method.loss(model, batch, Context(0, 0, 8)).metrics["margin"].sum() > 0
        with torch.no_grad():
            model.network.a += step


def test_other_groups_than_pairs_are_refused(d3po):
    with pytest.raises(ValueError, match=r"method\.group_size=4 must be 2"):
        d3po(group_size=4)
