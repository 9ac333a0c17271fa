"""DGPO: the weight of a group, its relation to Diffusion-DPO, and that groups may be cut over micro-batches."""

from dataclasses import replace

import pytest
import torch

from methods.dgpo import dgpo_loss, group_weight
from methods.dpo import dpo_loss
from tests.online_runs import keep_old_policy, method_of, prompts_in_groups

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


def rows():
    generator = torch.Generator().manual_seed(0)
    error, ref_error = torch.rand(2, 6, dtype=torch.float64, generator=generator)
    advantage = torch.tensor([1.0, 0.5, -1.5, 0.2, -0.2, 0.0], dtype=torch.float64)
    return error, ref_error, advantage


def test_the_weight_is_one_half_at_the_reference_and_falls_where_the_group_is_learned():
    error, _, advantage = rows()
    assert torch.equal(group_weight(error, error, advantage, GROUPS, 100.0, 3), torch.full_like(error, 0.5))
    learned = error - 0.1 * advantage.sign()  # good images are explained better, bad ones worse
    assert (group_weight(learned, error, advantage, GROUPS, 100.0, 3) < 0.5).all()


def test_two_images_are_a_pair_of_diffusion_dpo():
    """Gradients of the means: that of DPO divided by beta."""
    error = torch.tensor([0.30, 0.31], dtype=torch.float64, requires_grad=True)
    ref_error, advantage = torch.tensor([0.305, 0.317], dtype=torch.float64), torch.tensor([1.0, -1.0]).double()
    beta = 500.0
    weight = group_weight(error.detach(), ref_error, advantage, torch.zeros(2, dtype=torch.long), beta, 2)
    loss = dgpo_loss(error, error.detach(), advantage, weight, 1e9).mean()
    found = torch.autograd.grad(loss, error)[0]
    change = error - ref_error
    margin = -(beta / 2) * (change[0] - change[1])
    pair = dpo_loss(margin[None], torch.ones(1, dtype=torch.float64), 0.0).mean()
    torch.testing.assert_close(found, torch.autograd.grad(pair, error)[0] / beta)


def test_a_group_of_equal_rewards_teaches_nothing_and_members_may_change_places():
    error, ref_error, advantage = rows()
    weight = group_weight(error, ref_error, advantage, GROUPS, 10.0, 3)
    assert (dgpo_loss(error, error, torch.zeros(6), weight, 0.1) == 0).all()
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    again = group_weight(error[order], ref_error[order], advantage[order], GROUPS, 10.0, 3)
    torch.testing.assert_close(again, weight[order])


@pytest.mark.parametrize(
    ("advantage", "old_minus_new", "stops"),
    [(1.0, 0.1, True), (1.0, -0.1, False), (-1.0, -0.1, True), (-1.0, 0.1, False)],
)
def test_an_image_that_moved_far_enough_keeps_its_value_and_loses_its_gradient(advantage, old_minus_new, stops):
    error = torch.tensor([0.5], requires_grad=True)
    values = dgpo_loss(error, error.detach() + old_minus_new, torch.tensor([advantage]), torch.ones(1), 0.05)
    assert float(values.detach()) == pytest.approx(0.5 * advantage)
    values.sum().backward()
    assert error.grad is not None
    assert (error.grad == 0).all() == stops


def test_a_group_may_be_cut_over_micro_batches(kit, make_model):
    """Six images of two prompts at two levels: whole, two and two, and one by one."""
    found = []
    for size in (6, 2, 1):
        model, method = make_model(), method_of("dgpo", group_size=3, rollout_batch_size=6)
        kit.perturb(model)
        keep_old_policy(model)
        kit.backward(method, model, prompts_in_groups(model, 2, 3), replace(kit.context(), micro_batch_size=size))
        found.append(kit.gradient(model))
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-5 * found[0].norm()
    assert found[0].norm() > 0
