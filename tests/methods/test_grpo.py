"""GRPO on sampling steps: what is drawn is what is scored, ratios begin at 1, and the gradient is that of REINFORCE."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from alignbench.batch import Conditioning, PromptBatch
from alignbench.context import Context
from alignbench.diffusion.flow_matching import flow_levels
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.samplers import TransitionKernel
from alignbench.diffusion.schedule import Level
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.online.advantages import AdvantageSettings
from alignbench.online.path_policy import StepComparison
from alignbench.online.step_window import StepWindow
from methods.grpo import GRPO, grpo_loss

KERNELS = [
    TransitionKernel("flow", 0.7),
    TransitionKernel("dance", 0.3),
    TransitionKernel("ddim", 1.0),
    TransitionKernel("cps", 0.8),
]


class Mixing(nn.Module):
    """A convolution of the noisy latents, less of it at noisy levels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, noisy_latents, timesteps):
        return self.layer(noisy_latents) * (1 - timesteps / 2000).to(noisy_latents)[:, None, None, None]


@pytest.fixture(params=["velocity", "epsilon"])
def toy(request, kit):
    """A model with a small network of each kind of prediction."""
    torch.manual_seed(0)
    model = kit.ToyModel(Mixing(), request.param, shape=(3, 8, 8))
    model.make_reference()
    return model


@pytest.fixture
def grpo(kit):
    """A function that makes the method, with changes to its settings."""

    def make(**changes):
        own = {
            "name": "grpo",
            "group_size": 4,
            "advantage": AdvantageSettings("sum", "group", 5.0, 1.0, 0.05),
            "kl_weight": 0.0,
            "kl_form": "paper",
            "gate": "ratio",
            "limit": 1e-4,
        }
        return GRPO(**kit.path_settings(**own | changes))

    return make


def window(first=1, size=3, **changes):
    values = {"stop": None, "choice": "fixed", "rounds_per_position": 1, "num_trained": None}
    return StepWindow(first=first, size=size, **values | changes)


def prompts_of(model, num=8, first=16):
    texts = [f"prompt {n // 4}" for n in range(num)]
    return PromptBatch(torch.arange(num) + first, texts, model.encode_prompts(texts))


def context(step=0, micro_batch_size=4):
    return Context(step, 0, micro_batch_size)


def rolled_out(method, model, batch=None, **changes):
    return list(method.rollout(model, batch or prompts_of(model), context(**changes)))


def joined(updates):
    return [batch for batches in updates for batch in batches]


def compared(method, model, batch):
    return method.comparison(model, batch, method.predict(model, batch))


# ---- the sampling


def check_that_what_is_asked_was_drawn(method, model):
    batches = joined(rolled_out(method, model))
    assert [int(batch.step[0]) for batch in batches] == [1, 1, 2, 2, 3, 3]  # level by level, two micro-batches each
    for batch in batches:
        noise = context().noise(batch.index, model.latent_shape, f"step{int(batch.step[0])}")
        with torch.no_grad():
            transition = method.transition(model, batch, method.predict(model, batch))
        assert torch.equal(transition.draw(noise), batch.next_latents)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.kind)
def test_what_training_asks_about_is_what_was_drawn(toy, kernel, grpo):
    """The mean that the policy has in training plus the noise that was drawn are the next latents, bit for bit."""
    check_that_what_is_asked_was_drawn(grpo(kernel=kernel), toy)


def test_it_is_so_with_the_guidance_of_each_family(make_model, grpo):
    check_that_what_is_asked_was_drawn(grpo(rollout_guidance_scale=3.0, detach_unconditional=False), make_model())


def test_outside_of_the_window_the_sampling_is_the_models_own(toy, grpo):
    model, method = toy, grpo()
    batch = prompts_of(model, 4)
    states = (path := method.sample(model, batch, context())).noisy_latents
    noise = context().noise(batch.index, model.latent_shape, "rollout")
    plain = model.sample(noise, batch.conditioning, model.noise_levels(6), keep_states=True).noisy_latents
    assert [torch.equal(one, other) for one, other in zip(states, plain, strict=True)] == [True] * 2 + [False] * 4
    levels = model.noise_levels(6)
    rest = NoiseLevels(levels.timesteps[4:], levels.level[4:])
    assert torch.equal(path.latents, model.sample(states[4], batch.conditioning, rest).latents)


def test_a_window_of_all_steps_but_the_last_leaves_no_other_to_the_models_sampler(toy, grpo):
    model, method = toy, grpo(window=window(first=0, size=None))
    batch = prompts_of(model, 4)
    states = method.sample(model, batch, context()).noisy_latents
    for number in range(5):
        level = model.noise_levels(6).level
        with torch.no_grad():
            prediction = model.predict(
                states[number], model.noise_levels(6).timesteps[number].expand(4), batch.conditioning
            )
        assert not torch.equal(
            states[number + 1], model.schedule.step(states[number], prediction, level[number], level[number + 1])
        )


def test_images_of_a_prompt_start_alike_if_asked_and_then_part(toy, grpo):
    model = toy
    for share in (False, True):
        states = grpo(share_initial_noise=share).sample(model, prompts_of(model), context()).noisy_latents
        assert torch.equal(states[0][0], states[0][3]) == share
        assert not torch.equal(states[0][3], states[0][4])
        assert not torch.equal(states[2][0], states[2][3])


def test_paths_do_not_depend_on_how_many_images_are_sampled_at_once(toy, grpo):
    model = toy
    one, other = (joined(rolled_out(grpo(rollout_batch_size=size), model)) for size in (1, 8))
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first.next_latents, second.next_latents, rtol=1e-4, atol=1e-4)


def test_levels_of_a_flow_model_are_shifted_if_asked(grpo):
    model = tiny_adapter("flux")
    levels = grpo(rollout_shift=3.0).noise_levels(model)
    torch.testing.assert_close(levels.level.sigma[3], torch.tensor(0.75, dtype=torch.float64))  # of one half
    with pytest.raises(UserError, match=r"method\.rollout_shift=3"):
        grpo(rollout_shift=3.0).noise_levels(tiny_adapter("stable_diffusion"))


@pytest.mark.parametrize(("guidance", "calls"), [(None, 1), (3.0, 2)])
def test_passes_are_those_of_the_sampling_and_of_the_trained_steps(toy, guidance, calls, grpo):
    """8 images: 6 steps to sample, 3 trained at 3 passes each; twice with guidance."""
    method = grpo(rollout_guidance_scale=guidance, detach_unconditional=False)
    for batch in joined(rolled_out(method, toy)):
        method.loss(toy, batch, context())
    assert toy.network_passes == calls * 8 * (6 + 3 * 3)
    assert method.reward_calls == 8


def test_a_step_with_hardly_any_noise_is_refused(toy, grpo):
    with pytest.raises(UserError, match=r"lower method\.window\.stop"):
        rolled_out(grpo(kernel=TransitionKernel("dance", 0.01)), toy)


# ---- the first update of a round


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.kind)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_first_update_has_ratios_of_one_and_the_gradient_of_reinforce(toy, kit, kernel, reduction, grpo):
    model, method = toy, grpo(kernel=kernel, log_prob_reduction=reduction, rollout_batch_size=3)
    batches = joined(rolled_out(method, model))
    metrics = kit.backward(method, model, prompts_of(model), context())
    assert all(torch.equal(row["ratio_deviation"], torch.zeros(4, dtype=torch.float64)) for row in metrics)
    advantage = torch.cat([batch.advantage for batch in batches])
    assert advantage.abs().min() > 0
    torch.testing.assert_close(torch.cat([row["loss"] for row in metrics]), -advantage)
    found = kit.gradient(model)

    model.denoiser.zero_grad()
    levels = method.noise_levels(model).level
    for batch in batches:
        number = int(batch.step[0])
        at = kernel.transition(
            model.schedule, batch.noisy_latents, method.predict(model, batch), levels[number], levels[number + 1]
        )
        density = Independent(Normal(at.mean.double(), at.std), 3).log_prob(batch.next_latents.double())
        if reduction == "mean":
            density = density / batch.next_latents[0].numel()
        (-(batch.advantage * density).sum() / 24).backward()
    torch.testing.assert_close(found, kit.gradient(model), rtol=1e-3, atol=1e-6 * float(found.abs().max()))
    assert found.norm() > 0


def test_ratios_of_later_updates_are_one_until_the_policy_is_changed(make_model, kit, grpo):
    """They are taken in the micro-batches of the update, whatever the sampling had; half precision would tell."""
    model, method = make_model(), grpo(updates_per_round=2, rollout_batch_size=8)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = rolled_out(method, model, micro_batch_size=2)
        assert all(batch.old is None for batch in first)
        assert all(batch.old is not None for batch in second)
        for batch in second:
            assert torch.equal(compared(method, model, batch).log_ratio, torch.zeros(2, dtype=torch.float64))
        kit.perturb(model)
        steps = [compared(method, model, batch) for batch in second]
    assert all((one.log_ratio != 0).all() for one in steps)
    assert all((one.divergence > 0).all() for one in steps)


def test_the_ratio_of_a_changed_policy_is_that_of_the_two_densities(toy, kit, grpo):
    model, method = toy, grpo(updates_per_round=2, log_prob_reduction="sum")
    _, (batch, *_) = rolled_out(method, model)

    def density():
        with torch.no_grad():
            at = method.transition(model, batch, method.predict(model, batch))
        std = at.std[:, None, None, None]
        return Independent(Normal(at.mean.double(), std), 3).log_prob(batch.next_latents.double())

    before = density()
    kit.perturb(model)
    torch.testing.assert_close(compared(method, model, batch).log_ratio.detach(), density() - before)


def test_updates_are_made_of_whole_prompts_that_take_turns(toy, grpo):
    """So that an update has the same images, however the round is shared out."""
    first, second = rolled_out(grpo(updates_per_round=2), toy, prompts_of(toy, 16))
    assert {int(i) // 4 for batch in first for i in batch.index} == {4, 6}
    assert {int(i) // 4 for batch in second for i in batch.index} == {5, 7}
    for batch in (*first, *second):
        assert batch.prompts == [f"prompt {int(i) // 4 - 4}" for i in batch.index]


def test_each_process_needs_prompts_for_every_update(toy, grpo):
    with pytest.raises(UserError, match=r"a process has 3 prompts in a round.* a multiple of 8 for each process"):
        rolled_out(grpo(updates_per_round=2), toy, prompts_of(toy, 12))


def test_micro_batches_of_one_give_the_gradient_of_one_of_all(toy, kit, grpo):
    model, found = toy, []
    for size in (1, 8):
        kit.backward(grpo(rollout_batch_size=8), model, prompts_of(model), context(micro_batch_size=size))
        found.append(kit.gradient(model))
    assert (found[0] - found[1]).norm() < 1e-4 * found[1].norm()


# ---- the distance from the reference


@pytest.mark.parametrize("form", ["paper", "flow_grpo", "prediction"])
def test_the_distance_from_the_reference_is_zero_at_the_start_and_pulls_back(toy, kit, form, grpo):
    no_reward = AdvantageSettings("sum", "none", 1e-12, 1.0, 0.05)
    method = grpo(kl_weight=1.0, kl_form=form, advantage=no_reward)
    metrics = kit.backward(method, toy, prompts_of(toy), context())
    assert all(torch.equal(row["kl"].double(), torch.zeros(4, dtype=torch.float64)) for row in metrics)
    kit.perturb(toy)
    distances = []
    for _ in range(2):
        metrics = kit.backward(method, toy, prompts_of(toy), context())
        distances.append(torch.cat([row["kl"] for row in metrics]).double())
        step = 1e-3 / kit.gradient(toy).norm()
        with torch.no_grad():
            for parameter in toy.denoiser.parameters():
                parameter -= step * parameter.grad
    assert (distances[0] > 0).all()
    assert distances[1].mean() < distances[0].mean()


def test_without_its_adapters_the_policy_is_the_reference(make_model, grpo):
    model, method = make_model("lora"), grpo(kl_weight=1.0)
    batch = joined(rolled_out(method, model))[0]
    assert method.loss(model, batch, context()).metrics["kl"].abs().max() == 0


def test_the_forms_of_the_distance(toy, kit, grpo):
    model = toy
    kit.perturb(model)
    batch = joined(rolled_out(grpo(kl_weight=1.0, kernel=TransitionKernel("flow", 0.7)), model))[0]

    def distance(form, reduction):
        method = grpo(kl_weight=1.0, kl_form=form, log_prob_reduction=reduction)
        return method.distance(model, batch, method.predict(model, batch), batch.expected).detach()

    method, levels = grpo(), grpo().noise_levels(model).level
    gaussians = []
    for prediction in (method.predict(model, batch).detach(), batch.expected):
        at = method.transition(model, batch, prediction)
        gaussians.append(Independent(Normal(at.mean.double(), at.std[:, None, None, None]), 3))
    true = kl_divergence(*gaussians)
    torch.testing.assert_close(distance("paper", "sum"), true)
    torch.testing.assert_close(distance("paper", "mean"), true / batch.next_latents[0].numel())
    length = float(levels.tau[1] - levels.tau[2])
    torch.testing.assert_close(distance("flow_grpo", "mean") * batch.next_latents[0].numel() / length, true)
    squared = (method.predict(model, batch).detach() - batch.expected).square().mean((1, 2, 3))
    torch.testing.assert_close(distance("prediction", "mean"), squared)


# ---- guidance


class TwoNumbers(nn.Module):
    """One number for calls with a prompt, one for calls without."""

    def __init__(self):
        super().__init__()
        self.full, self.empty = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.2))

    def forward(self, noisy_latents, has_prompt):
        return torch.where(has_prompt[:, None, None, None], self.full, self.empty) * noisy_latents


@pytest.mark.parametrize("detach", [True, False])
def test_the_unconditional_call_has_a_gradient_if_asked(kit, detach, grpo):
    class Model(kit.ToyModel):
        def forward(self, noisy_latents, timesteps, conditioning, guidance):
            return self.policy(noisy_latents, conditioning.prompt_embeds[:, 0, 0] > 0)

        def encode_prompts(self, prompts):
            return Conditioning(torch.tensor([float(prompt != "") for prompt in prompts])[:, None, None])

    model, method = Model(TwoNumbers(), shape=(3, 8, 8)), grpo(rollout_guidance_scale=3.0, detach_unconditional=detach)
    kit.backward(method, model, prompts_of(model), context())
    assert model.network.full.grad.abs() > 0
    assert (model.network.empty.grad == 0) == detach


# ---- a policy whose gradient is known


class Bandit(nn.Module):
    """Velocity noisy_latents - number, so that the one step from pure noise leads to the number."""

    def __init__(self, number):
        super().__init__()
        self.number = nn.Parameter(torch.tensor(number, dtype=torch.float64))

    def forward(self, noisy_latents, timesteps):
        return noisy_latents - self.number


def bandit(kit, grpo, number):
    class Model(kit.ToyModel):
        def noise_levels(self, num_inference_steps):
            sigma = torch.tensor([1.0, 0.0], dtype=torch.float64)
            return NoiseLevels(torch.tensor([1000.0], dtype=torch.float64), Level(1 - sigma, sigma))

    method = grpo(
        num_rollout_steps=1,
        window=window(first=0, size=None, stop=1),
        kernel=TransitionKernel("flow", 0.05),
        log_prob_reduction="sum",
        advantage=AdvantageSettings("sum", "none", None, 1.0, 0.05),
        rollout_batch_size=1024,
        limit=0.5,
    )
    return Model(Bandit(number), shape=(3, 8, 8)), method


def test_the_gradient_of_a_policy_of_one_step_is_the_analytic_one(kit, grpo):
    """Brightness x of mean 0.3; the reward is -(x - 0.6)^2, so the gradient of minus its mean is 2 (0.3 - 0.6).

    The baseline, the mean of four images with the own among them, takes a quarter of it away.
    """
    model, method = bandit(kit, grpo, 0.3)
    estimates = []
    for step in range(8):
        kit.backward(method, model, prompts_of(model, 512, 512 * step), context(step, 512))
        estimates.append(float(model.network.number.grad))
    estimates = torch.tensor(estimates)
    error = float(estimates.std()) / 8**0.5
    assert error < 0.05
    assert abs(float(estimates.mean()) - 0.75 * 2 * (0.3 - 0.6)) < 3 * error


def test_training_brings_the_policy_to_what_is_wanted(kit, grpo):
    model, method = bandit(kit, grpo, 0.3)
    for step in range(40):
        kit.backward(method, model, prompts_of(model, 128, 128 * step), context(step, 128))
        with torch.no_grad():
            model.network.number -= 0.1 * model.network.number.grad
    assert model.network.number.item() == pytest.approx(0.6, abs=0.02)


# ---- gates


def steps_of(kernel, model, levels, prediction, moved, noise):
    """Return the comparison of two predictions at each step between two of the levels."""
    level, next_level = levels[:-1], levels[1:]
    rows = torch.ones(len(level), 1, 1, 1, dtype=torch.float64)
    noisy = 0.3 * rows.expand(-1, *noise.shape[1:])
    old, new = (kernel.transition(model.schedule, noisy, one, level, next_level) for one in (prediction, moved))
    drawn = old.draw(noise)
    change = (new.mean - old.mean).flatten(1)
    density = [
        ((drawn - one.mean) / one.std[:, None, None, None]).square().flatten(1).mean(1) / -2 for one in (new, old)
    ]
    return StepComparison(
        log_ratio=density[0] - density[1],
        divergence=change.square().mean(1) / (2 * old.std**2),
        std=old.std,
        sensitivity=kernel.sensitivity(model.schedule, level, next_level),
        advantage=torch.ones(len(level), dtype=torch.float64),
    )


def test_with_the_centred_ratio_every_step_moves_the_velocity_alike(kit):
    """Flow-GRPO weighs the last trained step of SD 3.5 26 times the first, by |d mean / d velocity| / std."""
    model, kernel = kit.ToyModel(kit.Linear(0.1)), TransitionKernel("flow", 0.7)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    levels = flow_levels(scheduler).level[:10]  # all steps but the last
    noise = torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).expand(
        9, -1, -1, -1
    )
    prediction = torch.zeros(9, 3, 4, 4, dtype=torch.float64)
    gradients = {}
    for gate in ("ratio", "centred_ratio"):
        moved = prediction.clone().requires_grad_()
        values, stopped = grpo_loss(steps_of(kernel, model, levels, prediction, moved, noise), gate, 1e-4)
        assert not stopped.any()
        gradients[gate] = torch.autograd.grad(values.sum(), moved)[0]
    centred, plain = gradients["centred_ratio"], gradients["ratio"]
    torch.testing.assert_close(centred, noise / 48)  # a higher velocity leads to a lower mean
    weight = plain.flatten(1).norm(dim=1) / centred.flatten(1).norm(dim=1)
    assert float(weight[-1] / weight[0]) == pytest.approx(26, rel=0.03)
    steps = steps_of(kernel, model, levels, prediction, prediction, noise)
    torch.testing.assert_close(weight, steps.sensitivity / steps.std)
    by_length = steps.sensitivity / -levels.sigma.diff()  # what the code of GRPO-Guard divides by instead
    torch.testing.assert_close(by_length[1:], torch.full_like(by_length[1:], 1.245))
    assert float(by_length[0]) == pytest.approx(1)


def comparison(log_ratio, divergence, advantage):
    rows = [torch.tensor(values, dtype=torch.float64) for values in (log_ratio, divergence, advantage)]
    return StepComparison(rows[0], rows[1], torch.full_like(rows[0], 0.5), torch.full_like(rows[0], 0.1), rows[2])


def test_each_gate_stops_by_its_own_measure():
    """The second row has gone far by its ratio, the third by its divergence."""
    steps = comparison([0.05, 0.2, 0.05], [0.0, 0.0, 0.5], [1.0, 1.0, 1.0])
    assert grpo_loss(steps, "ratio", 0.1)[1].tolist() == [False, True, False]
    assert grpo_loss(steps, "divergence", 0.1)[1].tolist() == [False, False, True]
    # centred: (0.05 + 0) / 2, (0.2 + 0) / 2, (0.05 + 0.5) / 2
    assert grpo_loss(steps, "centred_ratio", 0.11)[1].tolist() == [False, False, True]
    values = grpo_loss(steps, "centred_ratio", 0.11)[0]
    assert float(values[0]) == pytest.approx(-torch.tensor(0.025).exp() / 0.1)


def test_the_centred_ratio_and_the_divergence_need_densities(grpo):
    for gate in ("centred_ratio", "divergence"):
        with pytest.raises(ValueError, match=rf"method\.gate={gate} needs method\.log_prob_scale=gaussian"):
            grpo(gate=gate, log_prob_scale="unscaled")


def test_the_share_of_stopped_steps_is_logged_apart_for_good_and_bad_images(toy, kit, grpo):
    model, method = toy, grpo(updates_per_round=2, limit=1e-9)
    _, (batch, *_) = rolled_out(method, model)
    kit.perturb(model)
    metrics = method.loss(model, batch, context()).metrics
    up, down = metrics["stopped_up"], metrics["stopped_down"]
    assert torch.equal(up.isnan(), batch.advantage <= 0)
    assert torch.equal(down.isnan(), batch.advantage >= 0)
    log_ratio = compared(method, model, batch).log_ratio.detach()
    expected = torch.where(batch.advantage > 0, log_ratio > 0, log_ratio < 0).double()
    torch.testing.assert_close(torch.where(batch.advantage > 0, up, down), expected)
