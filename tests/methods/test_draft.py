"""DRaFT and AlignProp: how many steps have a gradient, and what copies of the last step are for."""

import pytest
import torch
from torch import nn

from alignbench.batch import PromptBatch
from alignbench.errors import UserError
from methods.draft import DRaFT, Truncation


def truncation(draw="gaussian", **changes):
    """Return AlignProp's, or another draw."""
    return Truncation(draw, **{"num_steps": 1, "earliest": 0.6, "mean": 0.84, "std": 0.1} | changes)


def draft(reward, num_copies=0, **changes):
    options = {
        "name": "draft",
        "reward_weight": 1.0,
        "margins": {},
        "truncation": truncation("fixed"),
        "num_copies": num_copies,
        "num_rollout_steps": 4,
        "rollout_guidance_scale": 1.0,
        "rollout_batch_size": None,
        "min_sigma": 0.0,
        "kl_weight": 0.0,
    }
    return DRaFT(**options | {"reward": reward} | changes)


class EachImage(nn.Module):
    """prediction = a x, with a trainable number for each image, so that each has a gradient of its own."""

    def __init__(self, num):
        super().__init__()
        self.a = nn.Parameter(torch.full((num,), 0.3))

    def forward(self, noisy_latents, timesteps):
        return self.a[:, None, None, None] * noisy_latents


def rolled_out(method, model, batch, context):
    (parts,) = method.rollout(model, batch, context)
    return parts


# ---- how many steps


def counts(chosen, num_steps, num):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([chosen.num_grad_steps(num_steps, generator) for _ in range(num)])
    return drawn, drawn.bincount(minlength=num_steps + 1)


def test_alignprops_gaussian_has_its_measured_mean_and_range():
    """The beginning is N(42, 5) rounded down, of 50 steps, drawn again outside 0..49: 9.09 steps have a gradient."""
    drawn, _ = counts(truncation(), 50, 100_000)
    assert drawn.double().mean().item() == pytest.approx(9.09, abs=0.05)
    assert [drawn.double().quantile(share).item() for share in (0.05, 0.95)] == [2, 17]
    assert drawn.min() == 1
    assert drawn.max() < 50


def test_a_uniform_beginning_has_each_number_of_steps_as_often():
    """AlignProp: from 30 to 49 of 50, so that 1 to 20 steps have a gradient."""
    _, found = counts(truncation("uniform"), 50, 20_000)
    assert found[0] == 0
    assert found[21:].sum() == 0
    assert (found[1:21] - 1000).abs().max() < 4 * (20_000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("num_steps", [7, 8, 28, 50])
def test_memory_is_estimated_for_more_steps_than_nearly_all_draws_have(num_steps):
    drawn, _ = counts(truncation(), num_steps, 5000)
    assert (drawn > truncation().most_steps(num_steps)).double().mean() < 1 / 350
    drawn, _ = counts(truncation("uniform"), num_steps, 500)
    assert drawn.max() == truncation("uniform").most_steps(num_steps)
    assert truncation("fixed", num_steps=3).most_steps(num_steps) == 3


@pytest.mark.parametrize("draw", ["uniform", "gaussian"])
@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_no_draw_is_without_a_gradient_or_longer_than_the_sampling(draw, num_steps):
    for mean in (0.0, 0.5, 1.0):
        drawn, _ = counts(truncation(draw, mean=mean, earliest=mean), num_steps, 200)
        assert drawn.min() >= 1
        assert drawn.max() <= num_steps


def test_one_draw_is_for_all_images_of_an_update_and_new_in_the_next(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    method = draft(kit.ToyReward(48), truncation=truncation("uniform", earliest=0.0))
    batch = kit.batch(PromptBatch, model)
    lengths = set()
    for step in range(12):
        parts = rolled_out(method, model, batch, kit.context(step, micro_batch_size=1))
        assert len(parts) == 4
        assert len({part.timesteps.shape[1] for part in parts}) == 1
        lengths.add(parts[0].timesteps.shape[1])
    assert lengths == {1, 2, 3, 4}


def test_a_fixed_number_is_kept_and_refused_where_there_are_not_so_many_steps():
    generator = torch.Generator()
    assert [truncation("fixed", num_steps=3).num_grad_steps(num, generator) for num in (3, 50)] == [3, 3]
    with pytest.raises(UserError, match=r"method.truncation.num_steps=3 is more than the 2 steps of the sampling"):
        truncation("fixed", num_steps=3).num_grad_steps(2, generator)


# ---- copies of the last step


def test_copies_are_the_sampled_image_at_the_last_level_under_noise_of_their_own(kit):
    model, context = kit.ToyModel(kit.Linear(0.3)), kit.context()
    batch, method = kit.batch(PromptBatch, model), draft(kit.ToyReward(48), num_copies=2)
    image, *copies = rolled_out(method, model, batch, context)
    levels = model.noise_levels(4)
    clean = model.sample(context.noise(batch.index, model.latent_shape, "rollout"), batch.conditioning, levels).latents
    noises = [(copy.noisy_latents - levels.level.alpha[3] * clean) / levels.level.sigma[3] for copy in copies]
    for number, noise in enumerate(noises):
        expected = context.noise(batch.index, model.latent_shape, f"copy{number}")
        torch.testing.assert_close(noise, expected.double(), check_dtype=False, rtol=1e-4, atol=1e-4)
    assert (noises[0] - noises[1]).abs().min() > 0
    for copy in copies:
        assert torch.equal(copy.timesteps, image.timesteps)
        assert torch.equal(copy.level.sigma, image.level.sigma)


def test_the_update_is_the_mean_over_the_image_and_its_copies(kit):
    model, context = kit.ToyModel(kit.Linear(0.3)), kit.context()
    batch, method = kit.batch(PromptBatch, model), draft(kit.ToyReward(48), num_copies=2)
    kit.backward(method, model, batch, context)
    found, each = kit.gradient(model), []
    for part in rolled_out(method, model, batch, context):
        model.network.zero_grad()
        method.loss(model, part, context).values.mean().backward()
        each.append(kit.gradient(model))
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    kit.backward(draft(kit.ToyReward(48)), model, batch, context)
    torch.testing.assert_close(kit.gradient(model), each[0])  # without copies it is DRaFT-1


@pytest.mark.parametrize("num_copies", [1, 4])
def test_the_average_over_copies_is_unbiased_and_its_variance_falls_with_their_number(kit, num_copies):
    """On prediction = a x and a linear reward, x = alpha clean + sigma noise: mean and variance are known."""
    num = 3000
    model, reward = kit.ToyModel(EachImage(num)), kit.ToyReward(48)
    context = kit.context(micro_batch_size=num)
    batch, method = kit.batch(PromptBatch, model, num=num), draft(reward, num_copies=num_copies)
    copies, levels = rolled_out(method, model, batch, context)[1:], model.noise_levels(4).level
    for copy in copies:
        method.loss(model, copy, context).values.sum().backward()
    gradients = model.network.a.grad.double() / num_copies

    clean = model.sample(
        context.noise(batch.index, model.latent_shape, "rollout"), batch.conditioning, model.noise_levels(4)
    ).latents.detach()
    text, move = reward.embed_text(batch.prompts).double(), levels.sigma[4] - levels.sigma[3]
    expected = -move * levels.alpha[3] * (text * clean.flatten(1).double()).sum(1)
    variance = (move * levels.sigma[3]) ** 2 * text.square().sum(1) / num_copies
    normal = (gradients - expected) / variance.sqrt()
    assert normal.mean().abs() < 4 / num**0.5
    assert normal.var().item() == pytest.approx(1, abs=4 * (2 / num) ** 0.5)


@pytest.mark.parametrize("chosen", [truncation("gaussian"), truncation("fixed", num_steps=2)])
def test_copies_of_more_than_one_step_are_refused(kit, chosen):
    with pytest.raises(ValueError, match=r"method.num_copies=1 repeats the last step alone"):
        draft(kit.ToyReward(48), truncation=chosen, num_copies=1)
