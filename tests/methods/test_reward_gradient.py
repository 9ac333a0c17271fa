"""What all methods share that differentiate a reward through sampling steps: which gradient, and what it rests on."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from alignbench.batch import PromptBatch
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.method import WeightCopies
from alignbench.models.tiny_random import tiny_adapter
from alignbench.training.parallel import join
from alignbench.training.update import autocast, update
from methods.draft import DRaFT, Truncation
from methods.refl import ReFL
from methods.reward_gradient import reward_loss

SHARED = {
    "reward_weight": 1.0,
    "margins": {},
    "num_rollout_steps": 5,
    "rollout_guidance_scale": 1.0,
    "rollout_batch_size": None,
    "min_sigma": 0.0,
    "kl_weight": 0.0,
}


def draft(reward, draw="fixed", num_steps=1, num_copies=0, **changes):
    truncation = Truncation(draw, num_steps, earliest=0.0, mean=0.5, std=0.3)
    options = {"name": "draft", "reward": reward, "truncation": truncation, "num_copies": num_copies}
    return DRaFT(**SHARED | options | changes)


def refl(reward, earliest=0.4, **changes):
    return ReFL(**SHARED | {"name": "refl", "reward": reward, "earliest": earliest} | changes)


class Mixing(nn.Module):
    """A small network in float64 that is not linear: tanh of mixed channels, stronger where there is more noise."""

    def __init__(self):
        super().__init__()
        weight = 0.6 * torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        self.weight = nn.Parameter(weight)

    def forward(self, noisy_latents, timesteps):
        mixed = torch.einsum("oc,bchw->bohw", self.weight, noisy_latents.double())
        return torch.tanh(mixed) * (0.5 + timesteps / 1000)[:, None, None, None]


@pytest.fixture
def small(kit):
    """A model, a reward and prompts, all in float64."""
    model = kit.ToyModel(Mixing())
    return model, kit.ToyReward(48, torch.float64), kit.batch(PromptBatch, model)


def rolled_out(method, model, batch, context):
    """Return the micro-batches of the only update."""
    (batches,) = method.rollout(model, batch, context)
    return batches


def gradient_of(method, model, batch, context, kit):
    kit.backward(method, model, batch, context)
    return kit.gradient(model)


# ---- the loss of a reward


def test_a_reward_above_the_margin_is_not_pushed_and_one_below_is_pushed_fully():
    reward = torch.tensor([0.9, 0.7001, 0.6, -3.0], requires_grad=True)
    reward_loss(reward, margin=0.7).sum().backward()
    assert reward.grad.tolist() == [0, 0, -1, -1]
    assert reward_loss(torch.tensor([0.2]), margin=0.7).item() == pytest.approx(0.5)
    assert reward_loss(torch.tensor([0.9]), margin=None).item() == pytest.approx(-0.9)


def test_images_above_the_margin_of_their_reward_have_no_gradient_and_are_counted(small, kit):
    model, reward, batch = small
    plain = kit.backward(draft(reward), model, batch, kit.context())[0]
    gradient = kit.gradient(model)
    lowest, highest = plain["reward"].min().item(), plain["reward"].max().item()
    for margins, pushed in (({"toy": highest + 1}, 1), ({"toy": lowest - 1}, 0), ({"another": lowest - 1}, 1)):
        metrics = kit.backward(draft(reward, margins=margins), model, batch, kit.context())[0]
        torch.testing.assert_close(kit.gradient(model), pushed * gradient)
        assert metrics["hinged"].tolist() == [1 - pushed] * 4


def test_the_weight_multiplies_loss_and_gradient(small, kit):
    model, reward, batch = small
    gradient = gradient_of(draft(reward), model, batch, kit.context(), kit)
    weighted = kit.backward(draft(reward, reward_weight=1e-3), model, batch, kit.context())[0]
    torch.testing.assert_close(weighted["loss"], -1e-3 * weighted["reward"])
    torch.testing.assert_close(kit.gradient(model), 1e-3 * gradient)


# ---- which gradient it is


def detached_gradient(model, reward, batch, context, num_grad_steps, num_steps=5):
    """Return the gradient of a plain loop over all steps that detaches the predictions before the last K."""
    levels = model.noise_levels(num_steps)
    state = context.noise(batch.index, model.latent_shape, "rollout")
    for number in range(num_steps):
        prediction = model.network(state, levels.timesteps[number].expand(len(batch)))
        if number < num_steps - num_grad_steps:
            prediction = prediction.detach()
        state = model.schedule.step(state, prediction, levels.level[number], levels.level[number + 1])
    return torch.autograd.grad(-reward.reward(state, batch.prompts).mean(), model.network.weight)[0].flatten()


@pytest.mark.parametrize("num_grad_steps", [1, 3, 5])
def test_no_gradient_before_the_last_steps_is_the_same_as_detached_predictions(small, kit, num_grad_steps):
    """With all steps it is the derivative of the whole sampling."""
    model, reward, batch = small
    found = gradient_of(draft(reward, num_steps=num_grad_steps), model, batch, kit.context(), kit)
    expected = detached_gradient(model, reward, batch, kit.context(), num_grad_steps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("num_grad_steps", [1, 3, 5])
def test_the_gradient_is_that_of_finite_differences(small, kit, num_grad_steps):
    """The state where the gradient begins is held fixed; with all steps it is noise, which depends on no weight."""
    model, reward, batch = small
    method, context = draft(reward, num_steps=num_grad_steps), kit.context()
    (part,) = rolled_out(method, model, batch, context)

    def value():
        with torch.no_grad():
            return method.loss(model, part, context).values.mean().item()

    found, weight, by = gradient_of(method, model, batch, context, kit), model.network.weight.data.view(-1), 1e-5
    for entry in range(9):
        start = weight[entry].item()
        values = []
        for weight[entry] in (start + by, start - by):
            values.append(value())
        weight[entry] = start
        assert found[entry].item() == pytest.approx((values[0] - values[1]) / (2 * by), rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("kind", ["velocity", "epsilon"])
def test_the_gradient_of_the_last_step_is_the_analytic_one(kit, kind):
    """On prediction = a x: the end is keep x + move a x, so the reward changes by move (text . x) with a."""
    model, reward = kit.ToyModel(kit.Linear(0.3), kind), kit.ToyReward(48)
    batch, context = kit.batch(PromptBatch, model), kit.context()
    (part,) = rolled_out(draft(reward), model, batch, context)
    alpha, sigma = (values[0] for values in (part.level.alpha, part.level.sigma))
    move = sigma[1] - sigma[0] if kind == "velocity" else sigma[1] - alpha[1] * sigma[0] / alpha[0]
    expected = -move * (reward.embed_text(batch.prompts) * part.noisy_latents.flatten(1)).sum(1).mean()
    found = gradient_of(draft(reward), model, batch, context, kit)
    torch.testing.assert_close(found, expected.reshape(1).double(), rtol=1e-5, atol=1e-10)


def test_one_update_along_the_gradient_raises_the_reward(small, kit):
    model, reward, batch = small
    method = draft(reward, num_steps=5)
    before = kit.backward(method, model, batch, kit.context())[0]["reward"].mean()
    model.network.weight.data -= 0.1 * model.network.weight.grad
    after = kit.backward(method, model, batch, kit.context())[0]["reward"].mean()
    assert after > before


# ---- the distance from the reference


def with_reference(kit):
    """A model whose reference has other weights."""
    model = kit.ToyModel(Mixing())
    model.reference_network = Mixing()
    model.reference_network.weight.data.mul_(0.5)
    return model


@pytest.mark.parametrize("make", [lambda reward, **k: draft(reward, num_steps=3, **k), refl], ids=["draft", "refl"])
def test_the_reference_is_asked_at_the_states_of_the_policy(kit, make):
    model, reward = with_reference(kit), kit.ToyReward(48, torch.float64)
    batch, context = kit.batch(PromptBatch, model), kit.context()
    method = make(reward, kl_weight=0.7)
    (part,) = rolled_out(method, model, batch, context)
    distances, state = [], part.noisy_latents
    for number in range(part.timesteps.shape[1]):
        timesteps, before = part.timesteps[:, number], part.level[:, number]
        prediction, expected = model.network(state, timesteps), model.reference_network(state, timesteps)
        distances.append((prediction - expected).square().flatten(1).mean(1))
        state = model.schedule.step(state, prediction, before, part.level[:, number + 1])
    loss = method.loss(model, part, context)
    distance = torch.stack(distances).mean(0)
    torch.testing.assert_close(loss.metrics["kl"], distance.detach())
    torch.testing.assert_close(loss.values, -reward.reward(state, batch.prompts) + 0.7 * distance)
    assert not part.expected.requires_grad


def test_the_distance_pulls_the_policy_to_the_reference(kit):
    model = with_reference(kit)
    method = draft(kit.ToyReward(48, torch.float64), num_steps=2, kl_weight=1e6)
    kit.backward(method, model, kit.batch(PromptBatch, model), kit.context())
    apart = model.network.weight.data - model.reference_network.weight.data
    assert (model.network.weight.grad * apart).sum() > 0


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_policy_and_reference_agree_at_the_start(make_model, kit, tuning):
    model = make_model(tuning)
    method = draft(kit.ToyReward(3 * 32 * 32), num_steps=2, kl_weight=1.0)
    batch = kit.batch(PromptBatch, model, num=2)
    assert kit.backward(method, model, batch, kit.context())[0]["kl"].abs().max() == 0
    gradient = kit.gradient(model)
    assert "kl" not in kit.backward(replace(method, kl_weight=0.0), model, batch, kit.context())[0]
    assert torch.equal(gradient, kit.gradient(model))
    kit.perturb(model)
    assert kit.backward(method, model, batch, kit.context())[0]["kl"].min() > 0


def test_a_reference_is_kept_only_where_it_is_asked(kit):
    for weight, needed in ((0.0, False), (0.2, True)):
        assert draft(kit.ToyReward(48), kl_weight=weight).needs_reference == needed
        assert DRaFT.weight_copies({"kl_weight": weight}) == WeightCopies(reference=needed)


# ---- what it rests on


METHODS = {
    "refl": refl,
    "draft": lambda reward, **k: draft(reward, num_steps=2, **k),
    "draft_lv": lambda reward, **k: draft(reward, num_copies=2, **k),
    "alignprop": lambda reward, **k: draft(reward, draw="gaussian", **k),
}
all_methods = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@all_methods
def test_the_update_is_the_same_in_any_micro_batches_and_shares(small, kit, make):
    """Shares of two processes, and calls of the network that are as many in both, whatever is drawn."""
    model, reward, batch = small
    forward, calls = model.forward, []
    model.forward = lambda *inputs: calls.append(torch.is_grad_enabled()) or forward(*inputs)
    for step in range(4):
        whole = gradient_of(make(reward), model, batch, kit.context(step), kit)
        for context in (kit.context(step, micro_batch_size=1), kit.context(step, micro_batch_size=3)):
            torch.testing.assert_close(gradient_of(make(reward), model, batch, context, kit), whole)
        shares, counts = [], []
        for start in (0, 2):
            calls.clear()
            shares.append(gradient_of(make(reward), model, batch.rows(start, start + 2), kit.context(step), kit))
            counts.append(tuple(calls))
        torch.testing.assert_close(sum(shares) / 2, whole)
        assert counts[0] == counts[1]


@all_methods
def test_images_may_be_sampled_in_larger_batches_than_are_trained(small, kit, make):
    model, reward, batch = small
    forward, rows = model.forward, []
    model.forward = lambda noisy, *rest: rows.append((torch.is_grad_enabled(), len(noisy))) or forward(noisy, *rest)
    context = kit.context(micro_batch_size=1)
    alone = gradient_of(make(reward), model, batch, context, kit)
    rows.clear()
    together = gradient_of(make(reward, rollout_batch_size=4), model, batch, context, kit)
    torch.testing.assert_close(together, alone)
    assert {num for with_gradient, num in rows if not with_gradient} <= {4}
    assert {num for with_gradient, num in rows if with_gradient} == {1}


def test_steps_with_a_gradient_are_guided_as_those_before(kit):
    """On a network that reads no prompt both calls agree, so that guidance changes rows and nothing else."""
    model, reward = kit.ToyModel(Mixing()), kit.ToyReward(48, torch.float64)
    batch, forward, rows = kit.batch(PromptBatch, model), model.forward, []
    model.forward = lambda noisy, *rest: rows.append(len(noisy)) or forward(noisy, *rest)
    plain = gradient_of(draft(reward, num_steps=2), model, batch, kit.context(), kit)
    assert rows == [4] * 5
    rows.clear()
    guided = draft(reward, num_steps=2, rollout_guidance_scale=4.0)
    torch.testing.assert_close(gradient_of(guided, model, batch, kit.context(), kit), plain)
    assert rows == [8] * 5


def test_levels_below_the_smallest_sigma_are_neither_sampled_nor_trained(kit):
    """Levels of the toy with 5 steps: 1, 0.8, 0.6, 0.4, 0.2 and the end."""
    model, reward = kit.ToyModel(Mixing()), kit.ToyReward(48, torch.float64)
    batch, end = kit.batch(PromptBatch, model), model.noise_levels(5).level[-1]
    (part,) = rolled_out(draft(reward, num_steps=2, min_sigma=0.35), model, batch, kit.context())
    torch.testing.assert_close(part.level.sigma[0], torch.tensor([0.6, 0.4, end.sigma], dtype=torch.float64))
    (part,) = rolled_out(refl(reward, earliest=1.0, min_sigma=0.35), model, batch, kit.context())
    torch.testing.assert_close(part.level.sigma[0], torch.tensor([0.4, 0.0], dtype=torch.float64))
    with pytest.raises(UserError, match=r"method.min_sigma=1 leaves no noise level"):
        rolled_out(draft(reward, min_sigma=1.0), model, batch, kit.context())


@pytest.mark.parametrize("family", ["stable_diffusion", "flux"])
def test_the_reward_sees_what_the_vae_decodes_in_0_to_1(kit, family):
    """AlignProp's current code hands over 0.5 to 1."""
    model, seen = tiny_adapter(family), []

    class Watched(kit.ToyReward):
        def reward(self, pixels, prompts):
            seen.append(pixels.detach())
            return super().reward(pixels, prompts)

    model.prepare_training("full", rank=4, alpha=4.0)
    method, batch = draft(Watched(3 * 32 * 32)), kit.batch(PromptBatch, model, num=2)
    (part,) = rolled_out(method, model, batch, kit.context())
    part = replace(part, noisy_latents=30 * part.noisy_latents)  # far out, so that pixels are clamped at both ends
    method.loss(model, part, kit.context())
    assert seen[0].min() == 0
    assert seen[0].max() == 1
    assert method.reward_calls == 2


@all_methods
def test_the_gradient_under_autocast_does_not_know_of_the_rollout_before_it(kit, make):
    """Cast weights of calls without a gradient must not be used again in calls that have one."""
    model = tiny_adapter("flux")
    model.prepare_training("full", rank=4, alpha=4.0)
    method, batch = make(kit.ToyReward(3 * 32 * 32)), kit.batch(PromptBatch, model, num=2)
    accelerator, context = Accelerator(cpu=True, mixed_precision="bf16"), kit.context()
    parameters = [p for p in model.denoiser.parameters() if p.requires_grad]

    def gradients(batches):
        update(method, model, batches, context, join(accelerator), parameters, [])
        found = torch.cat([p.grad.flatten() for p in parameters])
        model.denoiser.zero_grad()
        return found

    (batches,) = list(autocast(method.rollout(model, batch, context), accelerator))
    alone = gradients(batches)
    for found in autocast(method.rollout(model, batch, context), accelerator):
        after_the_rollout = gradients(found)
    assert alone.norm() > 0
    assert torch.equal(after_the_rollout, alone)


def test_checkpointing_changes_no_bit(make_model, kit):
    model = make_model(reference=False)
    method, batch = draft(kit.ToyReward(3 * 32 * 32), num_steps=3), kit.batch(PromptBatch, model, num=2)
    plain = gradient_of(method, model, batch, kit.context(), kit)
    model.enable_checkpointing(network=True, decoder=True)
    assert torch.equal(gradient_of(method, model, batch, kit.context(), kit), plain)
    assert plain.norm() > 0


# ---- what others ask of it


def test_it_says_what_it_follows_and_what_the_loop_must_place(small):
    reward = small[1]
    method = draft(reward)
    assert method.trained_on == ("toy",)
    assert method.frozen_modules() == {}
    reward.network = nn.Linear(1, 1)
    assert method.frozen_modules() == {"reward": reward.network}
    assert method.reads_pixels
    assert method.differentiates_pixels


def test_figures_say_how_many_steps_and_from_which_noise(small, kit):
    model, reward, batch = small
    metrics = kit.backward(draft(reward, num_steps=3), model, batch, kit.context())[0]
    assert metrics["num_grad_steps"].tolist() == [3, 3, 3, 3]
    assert metrics["sigma"].tolist() == pytest.approx([0.6] * 4)
    assert not any(values.requires_grad for values in metrics.values())


def test_a_reward_without_a_gradient_is_refused():
    class Program(Evaluator):
        name, version = "program", "1"

        def encode_prompts(self, prompts):
            return prompts

        def score_features(self, features, encoded):
            return torch.zeros(len(features))

    with pytest.raises(
        ValueError, match=r"method=draft follows the gradient of its reward, and reward=program has none"
    ):
        draft(Program())
