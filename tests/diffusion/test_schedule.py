"""The schedule's formulas against themselves, against diffusers' schedulers and against the oracles of Direct-Align."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.diffusion.schedule import CLEAN, Level, NoiseSchedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # of every Stable Diffusion
TYPES = ["epsilon", "v_prediction", "velocity"]


def ddim(prediction_type: str = "epsilon", **settings) -> DDIMScheduler:
    return DDIMScheduler(**BETAS, clip_sample=False, prediction_type=prediction_type, **settings)


def schedule_of(prediction_type: str) -> NoiseSchedule:
    if prediction_type == "velocity":
        return NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler())
    return NoiseSchedule.from_scheduler(ddim(prediction_type))


def gaussians(num: int, dtype: torch.dtype = torch.float64, batch: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 4, 8, 8, generator=generator, dtype=dtype) for _ in range(num))


# ---- reading a scheduler


def test_a_schedule_is_read_from_every_ddpm_relative_and_from_flow_matching():
    for scheduler in (PNDMScheduler(**BETAS), DPMSolverMultistepScheduler(**BETAS), ddim()):
        schedule = NoiseSchedule.from_scheduler(scheduler)
        assert schedule.prediction_type == "epsilon"
        assert torch.equal(schedule.alphas_cumprod, scheduler.alphas_cumprod.double())
    assert schedule_of("velocity").alphas_cumprod is None


@pytest.mark.parametrize(
    "scheduler", [ddim("sample"), FlowMatchEulerDiscreteScheduler(invert_sigmas=True)], ids=["sample", "inverted"]
)
def test_other_schedulers_are_refused_with_their_name(scheduler):
    with pytest.raises(ValueError, match=type(scheduler).__name__):
        NoiseSchedule.from_scheduler(scheduler)


def test_a_table_and_a_prediction_type_must_fit_each_other():
    with pytest.raises(ValueError, match="velocity has none"):
        NoiseSchedule("epsilon")
    with pytest.raises(ValueError, match="unknown"):
        NoiseSchedule("sample")  # pyright: ignore[reportArgumentType]


# ---- levels and timesteps


def test_flow_levels_are_exact_and_continuous():
    level = schedule_of("velocity").level(torch.tensor([0.0, 0.1, 333.3, 1000.0], dtype=torch.float64))
    assert level.sigma.tolist() == [0.0, 0.0001, 0.3333, 1.0]
    assert torch.equal(level.alpha, 1 - level.sigma)
    assert torch.equal(level.tau, level.sigma)


def test_discrete_levels_are_the_schedulers_table():
    scheduler = ddim()
    level = NoiseSchedule.from_scheduler(scheduler).level(torch.tensor([0, 500, 999]))
    table = scheduler.alphas_cumprod[[0, 500, 999]].double()
    torch.testing.assert_close(level.alpha**2, table, rtol=1e-12, atol=0)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(3).double(), rtol=1e-12, atol=0)


def test_the_noise_level_map_of_the_srpo_specification():
    level = schedule_of("epsilon").level(torch.tensor([301, 501, 701, 901, 999]))
    expected = torch.tensor([0.455, 0.62, 0.77, 0.894, 0.936]).double()
    torch.testing.assert_close(level.tau, expected, rtol=0, atol=2e-3)


def test_a_fraction_of_a_discrete_timestep_is_refused():
    with pytest.raises(ValueError, match="integer timesteps only"):
        schedule_of("epsilon").level(torch.tensor([500.5]))


@pytest.mark.parametrize(("kind", "timestep"), [("epsilon", 1000), ("epsilon", -1), ("velocity", 1000.5)])
def test_timesteps_out_of_range_are_refused(kind, timestep):
    with pytest.raises(ValueError, match="expected 0 to"):
        schedule_of(kind).level(torch.tensor([timestep]))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_timesteps_at_inverts_the_table(kind):
    schedule = schedule_of(kind)
    timesteps = torch.arange(1000)
    assert torch.equal(schedule.timesteps_at(schedule.level(timesteps).tau), timesteps.double())
    between = schedule.level(torch.tensor([500, 501])).tau
    nearer_501 = 0.4 * between[0] + 0.6 * between[1]
    assert schedule.timesteps_at(nearer_501).item() == 501


@given(st.floats(0, 1))
def test_timesteps_at_inverts_flow_levels(tau):
    schedule = schedule_of("velocity")
    found = schedule.level(schedule.timesteps_at(torch.tensor([tau], dtype=torch.float64))).tau
    assert found.item() == pytest.approx(tau, rel=1e-14, abs=1e-300)


def test_a_level_is_indexed_like_a_tensor():
    level = schedule_of("velocity").level(torch.tensor([250.0, 500.0, 750.0]))
    assert len(level) == 3
    assert level[1].sigma.item() == 0.5
    assert level[1:].alpha.tolist() == [0.5, 0.25]


def test_snr_is_signal_power_over_noise_power():
    level = schedule_of("velocity").level(torch.tensor([200.0]))
    assert NoiseSchedule.snr(level).item() == pytest.approx(16.0)


# ---- there and back


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(TYPES), st.integers(1, 999))
def test_split_undoes_add_noise_and_target(kind, timestep):
    schedule = schedule_of(kind)
    latents, noise = gaussians(2)
    level = schedule.level(torch.tensor([timestep, 1, 999]))
    split = schedule.decompose(schedule.add_noise(latents, noise, level), schedule.target(latents, noise, level), level)
    torch.testing.assert_close(split.latents, latents, rtol=0, atol=1e-12)
    torch.testing.assert_close(split.noise, noise, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(TYPES), st.integers(1, 999), st.integers(0, 999))
def test_a_step_with_the_true_target_stays_on_the_path_in_both_directions(kind, start, end):
    schedule = schedule_of(kind)
    latents, noise = gaussians(2)
    level, landing = schedule.level(torch.tensor(start)), schedule.level(torch.tensor(end))
    target = schedule.target(latents, noise, level)
    landed = schedule.step(schedule.add_noise(latents, noise, level), target, level, landing)
    torch.testing.assert_close(landed, schedule.add_noise(latents, noise, landing), rtol=0, atol=1e-12)
    clean = schedule.step(schedule.add_noise(latents, noise, level), target, level, CLEAN)
    torch.testing.assert_close(clean, latents, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(TYPES), st.integers(0, 999), st.integers(0, 999))
def test_a_prediction_of_another_level_is_split_back_into_the_same_latents_and_noise(kind, own, other):
    schedule = schedule_of(kind)
    latents, noise = gaussians(2)
    level, prediction_level = schedule.level(torch.tensor(own)), schedule.level(torch.tensor(other))
    prediction = schedule.target(latents, noise, prediction_level)
    split = schedule.decompose(schedule.add_noise(latents, noise, level), prediction, level, prediction_level)
    torch.testing.assert_close(split.latents, latents, rtol=0, atol=1e-10)
    torch.testing.assert_close(split.noise, noise, rtol=0, atol=1e-10)


def test_flow_steps_from_pure_noise_without_dividing_by_alpha():
    schedule = schedule_of("velocity")
    noise, velocity = gaussians(2)
    levels = schedule.level(torch.tensor([1000.0, 960.0]))
    expected = noise + (levels.sigma[1] - levels.sigma[0]) * velocity
    torch.testing.assert_close(schedule.step(noise, velocity, levels[0], levels[1]), expected, rtol=0, atol=1e-15)


def test_v_prediction_survives_a_schedule_that_ends_in_pure_noise():
    schedule = NoiseSchedule.from_scheduler(ddim("v_prediction", rescale_betas_zero_snr=True))
    latents, noise = gaussians(2)
    level = schedule.level(torch.tensor(999))
    assert level.alpha == 0
    landed = schedule.step(noise, schedule.target(latents, noise, level), level, CLEAN)
    torch.testing.assert_close(landed, latents, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", TYPES)
def test_half_precision_images_give_float32_results(kind):
    schedule = schedule_of(kind)
    latents, noise = gaussians(2, torch.bfloat16)
    level = schedule.level(torch.tensor([1, 500, 999]))
    split = schedule.decompose(latents, noise, level)
    results = [
        schedule.add_noise(latents, noise, level),
        schedule.target(latents, noise, level),
        split.latents,
        split.noise,
        schedule.step(latents, noise, level, CLEAN),
    ]
    assert {result.dtype for result in results} == {torch.float32}


# ---- agreement with diffusers


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_mixing_agrees_with_the_ddpm_family(kind):
    latents, noise = gaussians(2, torch.float32)
    scheduler, timesteps = ddim(kind), torch.tensor([0, 400, 999])
    schedule = NoiseSchedule.from_scheduler(scheduler)
    level = schedule.level(timesteps)
    torch.testing.assert_close(
        schedule.add_noise(latents, noise, level), scheduler.add_noise(latents, noise, timesteps), rtol=0, atol=1e-6
    )
    expected = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(schedule.target(latents, noise, level), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_step_agrees_with_ddim(kind):
    scheduler = ddim(kind, steps_offset=1, set_alpha_to_one=False)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    scheduler.set_timesteps(20)
    noisy_latents, prediction = gaussians(2, torch.float32)
    noise_levels = [int(timestep) for timestep in scheduler.timesteps] + [
        0
    ]  # without set_alpha_to_one it ends at timestep 0
    for timestep, following in pairwise(noise_levels):
        levels = schedule.level(torch.tensor([timestep, following]))
        ours = schedule.step(noisy_latents, prediction, levels[0], levels[1])
        theirs = scheduler.step(prediction, timestep, noisy_latents).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def test_the_step_agrees_with_flow_euler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    scheduler.set_timesteps(8)
    levels = Level(1 - scheduler.sigmas.double(), scheduler.sigmas.double())
    noisy_latents, prediction = gaussians(2, torch.float32)
    for number, timestep in enumerate(scheduler.timesteps):
        ours = schedule.step(noisy_latents, prediction, levels[number], levels[number + 1])
        theirs = scheduler.step(prediction, timestep, noisy_latents).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


# ---- Direct-Align (oracles 1 to 6 of the SRPO specification)


def recover(schedule, latents, noise, prediction, level, landing):
    """Return xhat = latents_theta + rho_t (noise_theta - noise), the definition that the coefficient abbreviates."""
    split = schedule.decompose(schedule.add_noise(latents, noise, level), prediction, level)
    return split.latents + landing.rho.reshape(-1, 1, 1, 1) * (split.noise - noise)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(TYPES), st.integers(1, 998), st.integers(1, 998))
def test_the_coefficient_abbreviates_the_recovery_and_is_its_jacobian(kind, start, end):
    schedule = schedule_of(kind)
    latents, noise, prediction, direction = gaussians(4, batch=1)
    prediction.requires_grad_()
    level, landing = schedule.level(torch.tensor([start])), schedule.level(torch.tensor([end]))
    coefficient = schedule.recovery_coefficient(level, landing)
    recovered = recover(schedule, latents, noise, prediction, level, landing)
    target = schedule.target(latents, noise, level)
    torch.testing.assert_close(recovered, latents - coefficient * (prediction - target), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        recover(schedule, latents, noise, target, level, landing), latents, rtol=0, atol=1e-10
    )  # exact when the prediction is
    (jacobian,) = torch.autograd.grad((direction * recovered).sum(), prediction)
    torch.testing.assert_close(jacobian, -coefficient * direction, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", TYPES)
def test_the_coefficient_is_the_published_one(kind):
    schedule = schedule_of(kind)
    level, landing = schedule.level(torch.tensor([900, 300])), schedule.level(torch.tensor([850, 400]))
    gain = schedule.recovery_gain(level, landing)
    assert gain[0] > 0 > gain[1]  # denoising, inversion
    torch.testing.assert_close(schedule.recovery_gain(landing, level), -gain)
    published = {
        "epsilon": gain,
        "v_prediction": gain * level.alpha,
        "velocity": (level.sigma - landing.sigma) / (1 - landing.sigma),
    }[kind]
    torch.testing.assert_close(schedule.recovery_coefficient(level, landing), published, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_recovery_ends_at_the_one_step_prediction_and_vanishes_without_a_step(kind):
    schedule = schedule_of(kind)
    latents, noise, prediction = gaussians(3)
    level = schedule.level(torch.tensor([100, 500, 900]))
    refl = schedule.decompose(schedule.add_noise(latents, noise, level), prediction, level).latents
    clean = Level(CLEAN.alpha.expand(3), CLEAN.sigma.expand(3))
    torch.testing.assert_close(recover(schedule, latents, noise, prediction, level, clean), refl, rtol=0, atol=1e-12)
    assert schedule.recovery_coefficient(level, level).abs().max() < 1e-15


def test_on_a_linear_flow_grid_both_branches_weigh_the_same():
    schedule = schedule_of("velocity")
    noisier, landing, cleaner = (schedule.level(torch.tensor(timestep)) for timestep in (880.0, 860.0, 840.0))
    denoise = schedule.recovery_coefficient(noisier, landing)
    inversion = schedule.recovery_coefficient(cleaner, landing)
    assert denoise.item() == pytest.approx(-inversion.item(), rel=1e-12)


def test_recovery_does_not_depend_on_the_parametrisation():
    """One pair (latents_theta, noise_theta) at one noise-to-signal ratio, expressed in all three ways."""
    latents, noise, latents_theta, noise_theta = gaussians(4)
    discrete, flow = schedule_of("epsilon"), schedule_of("velocity")
    timesteps, landings = torch.tensor([900, 600, 200]), torch.tensor([850, 640, 100])
    recovered = []
    for schedule in (discrete, schedule_of("v_prediction"), flow):
        levels = discrete.level(timesteps), discrete.level(landings)
        if schedule is flow:
            levels = tuple(flow.level(flow.timesteps_at(level.tau)) for level in levels)
        # Any pair is consistent with noisy latents of its own; the error relative to the truth is what counts.
        error = schedule.target(latents_theta - latents, noise_theta - noise, levels[0])
        level, landing = levels
        shift = schedule.add_noise(latents_theta - latents, noise_theta - noise, level)
        implied = schedule.decompose(shift, error, level)
        recovered.append(latents + implied.latents + landing.rho.reshape(-1, 1, 1, 1) * implied.noise)
    torch.testing.assert_close(recovered[1], recovered[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(recovered[2], recovered[0], rtol=1e-9, atol=1e-9)


def test_the_output_form_equals_the_published_step_and_survives_bfloat16():
    schedule = schedule_of("velocity")
    latents, noise, prediction = gaussians(3)
    prediction = noise - latents + 0.3 * prediction
    level, landing = schedule.level(torch.tensor([964.0] * 3)), schedule.level(torch.tensor([943.0] * 3))

    def published(x, v, eps, rounded):
        landed = rounded(x + rounded((landing.sigma - level.sigma).reshape(-1, 1, 1, 1) * v))
        return rounded(landed - rounded(landing.sigma.reshape(-1, 1, 1, 1) * eps)) / landing.alpha.reshape(-1, 1, 1, 1)

    exact = published(schedule.add_noise(latents, noise, level), prediction, noise, lambda value: value)
    coefficient = schedule.recovery_coefficient(level, landing).reshape(-1, 1, 1, 1)
    output_form = latents - coefficient * (prediction - schedule.target(latents, noise, level))
    torch.testing.assert_close(output_form, exact, rtol=0, atol=1e-12)

    def rounded(value: torch.Tensor) -> torch.Tensor:
        return value.bfloat16().double()

    noisy_latents = rounded(schedule.add_noise(latents, noise, level))
    upstream = rounded(published(noisy_latents, rounded(prediction), noise, rounded))
    residual = rounded(rounded(prediction) - rounded(schedule.target(latents, noise, level)))
    ours = rounded(latents - rounded(coefficient * residual))
    error, upstream_error = (ours - exact).square().mean().sqrt(), (upstream - exact).square().mean().sqrt()
    assert error * 5 < upstream_error
