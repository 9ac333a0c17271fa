"""ReFL: where it stops, what it guesses from there, and its published loss."""

import pytest
import torch
from torch import nn

from alignbench.batch import PromptBatch
from methods.refl import ReFL, stop_steps


def refl(reward, **changes):
    """Return the published values with few rollout steps."""
    options = {
        "name": "refl",
        "reward_weight": 1e-3,
        "margins": {"toy": 2.0},
        "num_rollout_steps": 8,
        "rollout_guidance_scale": 1.0,
        "rollout_batch_size": None,
        "earliest": 0.75,
        "min_sigma": 0.0,
        "kl_weight": 0.0,
    }
    return ReFL(**options | {"reward": reward} | changes)


class Constant(nn.Module):
    """A network that says the same whatever it is asked."""

    def __init__(self):
        super().__init__()
        self.output = nn.Parameter(torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(5)))

    def forward(self, noisy_latents, timesteps):
        return self.output.expand(len(noisy_latents), -1, -1, -1)


def rolled_out(method, model, batch, context):
    ((part,),) = method.rollout(model, batch, context)
    return part


# ---- where it stops


def test_the_published_stops_are_the_last_ten_of_forty_each_as_often(kit):
    uniform = kit.context().uniform(torch.arange(20_000), "stop")
    stops, counts = stop_steps(uniform, 40, 0.75).unique(return_counts=True)
    assert stops.tolist() == list(range(30, 40))
    assert (counts - 2000).abs().max() < 4 * (20_000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize(
    ("num_steps", "earliest", "expected"), [(8, 0.75, [6, 7]), (1, 0.75, [0]), (4, 1.0, [3]), (3, 0.0, [0, 1, 2])]
)
def test_there_is_a_stop_however_few_steps_there_are(num_steps, earliest, expected):
    uniform = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    assert stop_steps(uniform, num_steps, earliest).unique().tolist() == expected


def test_each_image_is_stopped_at_a_step_of_its_own_where_its_sampling_had_come(kit):
    model, context = kit.ToyModel(kit.Linear(0.3)), kit.context(micro_batch_size=16)
    batch, method = kit.batch(PromptBatch, model, num=16), refl(kit.ToyReward(48), earliest=0.0)
    part = rolled_out(method, model, batch, context)
    noise, levels = context.noise(batch.index, model.latent_shape, "rollout"), model.noise_levels(8)
    states = model.sample(noise, batch.conditioning, levels, keep_states=True).noisy_latents
    stops = [levels.timesteps.tolist().index(timestep) for timestep in part.timesteps[:, 0].tolist()]
    assert len(set(stops)) > 4
    for row, stop in enumerate(stops):
        torch.testing.assert_close(part.noisy_latents[row], states[stop][row])
        assert part.level.sigma[row].tolist() == [levels.level.sigma[stop], 0]
        assert part.level.alpha[row].tolist() == [levels.level.alpha[stop], 1]


def test_a_stop_belongs_to_the_sample_of_a_run_and_not_to_the_update(kit):
    model, method = kit.ToyModel(kit.Linear(0.3)), refl(kit.ToyReward(48), earliest=0.0)
    batch = kit.batch(PromptBatch, model, num=8)
    contexts = (kit.context(step, 8, seed) for step, seed in ((0, 0), (1, 0), (0, 1)))
    first, again, other = (rolled_out(method, model, batch, context).timesteps for context in contexts)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---- what it guesses


@pytest.mark.parametrize("kind", ["velocity", "epsilon", "v_prediction"])
def test_the_guess_of_a_perfect_network_is_the_clean_image(kit, kind):
    """The reward then sees the image, from whatever level."""
    model = kit.ToyModel(nn.Identity(), kind)
    method, batch = refl(kit.ToyReward(48), margins={}), kit.batch(PromptBatch, model)
    clean, noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model.forward = lambda noisy, *rest: noisy
    part = rolled_out(method, model, batch, kit.context())
    level = model.schedule.level(part.timesteps[:, 0])
    part.noisy_latents.copy_(model.schedule.add_noise(clean, noise, level))
    model.forward = lambda *inputs: model.schedule.target(clean, noise, level)
    metrics = method.loss(model, part, kit.context()).metrics
    torch.testing.assert_close(metrics["reward"], method.reward.reward(clean, batch.prompts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["velocity", "epsilon"])
def test_the_gradient_of_the_network_is_the_analytic_one(kit, kind):
    """The clean image is x - sigma v, or (x - sigma noise) / alpha."""
    model, reward = kit.ToyModel(Constant(), kind), kit.ToyReward(48)
    batch, context = kit.batch(PromptBatch, model), kit.context()
    method = refl(reward, margins={}, reward_weight=1.0)
    part = rolled_out(method, model, batch, context)
    alpha, sigma = part.level.alpha[:, 0], part.level.sigma[:, 0]
    slope = sigma if kind == "velocity" else sigma / alpha
    expected = (slope[:, None] * reward.embed_text(batch.prompts)).mean(0)  # of minus the reward
    kit.backward(method, model, batch, context)
    torch.testing.assert_close(model.network.output.grad.flatten(), expected.float())


# ---- the published loss


def test_the_slope_is_a_thousandth_below_two_and_nothing_above(kit):
    model = kit.ToyModel(Constant())
    for shift, slope in ((1.0, -1e-3), (3.0, 0.0)):  # moves all rewards below and above the margin

        class Shifted(kit.ToyReward):
            def reward(self, pixels, prompts, shift=shift):
                scores = super().reward(pixels, prompts)
                return scores - scores.detach() + shift

        metrics = kit.backward(refl(Shifted(48)), model, kit.batch(PromptBatch, model), kit.context())[0]
        assert metrics["loss"].tolist() == pytest.approx([max(1e-3 * (2 - shift), 0)] * 4)
        plain = kit.gradient(model)
        kit.backward(
            refl(kit.ToyReward(48), margins={}, reward_weight=1.0), model, kit.batch(PromptBatch, model), kit.context()
        )
        torch.testing.assert_close(plain, -slope * kit.gradient(model))
