"""Stochastic steps: worked numbers, the limits without noise, marginals that are known in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from scipy import stats
from torch.distributions import Independent, Normal, kl_divergence

from alignbench.diffusion.flow_matching import shift_time
from alignbench.diffusion.samplers import Transition, TransitionKernel, divergence, log_prob
from alignbench.diffusion.schedule import CLEAN, Level, NoiseSchedule
from alignbench.errors import UserError

KINDS = ["flow", "dance", "ddim", "cps"]
FLOW = NoiseSchedule("velocity")
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # of every Stable Diffusion
DIFFUSION = NoiseSchedule("epsilon", 1000, (1 - BETAS).cumprod(0))


def number(value):
    return torch.as_tensor(value, dtype=torch.float64)


def image(value):
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def flow_level(sigma):
    sigma = number(sigma)
    return Level(1 - sigma, sigma)


def diffusion_level(timestep):
    return DIFFUSION.level(torch.tensor(timestep))


def images(num, dtype=torch.float64):
    return torch.randn(num, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype).unbind(0)


LEVELS = {"velocity": (FLOW, flow_level(0.5), flow_level(0.4)),
          "epsilon": (DIFFUSION, diffusion_level(501), diffusion_level(481))}  # fmt: skip


# ---- worked numbers


@pytest.mark.parametrize(
    ("kind", "noise", "mean", "std"),
    [("flow", 0.7, 0.975900, 0.221359), ("dance", 0.3, 1.011900, 0.094868), ("cps", 0.8, 0.771246, 0.380423)],
)
def test_a_step_of_a_flow_model_on_worked_numbers(kind, noise, mean, std):
    """From sigma 0.5 to 0.4 at noisy latents 1 and velocity -0.2."""
    found = TransitionKernel(kind, noise).transition(FLOW, image(1.0), image(-0.2), flow_level(0.5), flow_level(0.4))
    assert found.mean.item() == pytest.approx(mean, abs=1e-6)
    assert float(found.std) == pytest.approx(std, abs=1e-6)


def test_the_differential_equation_of_flow_grpo_in_its_own_letters():
    s, t = 0.7, 0.55
    dt, diffusion = t - s, 0.7 * math.sqrt(s / (1 - s))
    x, v, _ = images(3)
    found = TransitionKernel("flow", 0.7).transition(FLOW, x, v, flow_level(s), flow_level(t))
    expected = x * (1 + diffusion**2 * dt / (2 * s)) + v * (1 + diffusion**2 * (1 - s) / (2 * s)) * dt
    torch.testing.assert_close(found.mean, expected)
    assert float(found.std) == pytest.approx(diffusion * math.sqrt(-dt))


def test_ancestral_sampling_draws_from_the_posterior_of_the_noise_process():
    """The product of two Gaussians: the forward step from 481 to 501, and the prior at 481 given the clean image."""
    level, cleaner = diffusion_level(501), diffusion_level(481)
    ratio = level.alpha / cleaner.alpha
    forward = level.sigma**2 - ratio**2 * cleaner.sigma**2
    variance = 1 / (ratio**2 / forward + 1 / cleaner.sigma**2)
    clean, noise, _ = images(3)
    noisy = DIFFUSION.add_noise(clean, noise, level)
    mean = variance * (ratio * noisy / forward + cleaner.alpha * clean / cleaner.sigma**2)
    found = TransitionKernel("ddim", 1.0).transition(DIFFUSION, noisy, noise, level, cleaner)
    assert float(found.std**2) == pytest.approx(float(variance))
    assert float(found.std**2) == pytest.approx(0.086898, abs=1e-6)
    torch.testing.assert_close(found.mean, mean)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_with_eta_is_that_of_diffusers(eta):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    scheduler.set_timesteps(50)
    scheduler.alphas_cumprod = DIFFUSION.alphas_cumprod  # its own table is rounded to float32
    noisy, prediction, noise = images(3)
    expected = scheduler.step(prediction, 501, noisy, eta=eta, variance_noise=noise).prev_sample
    found = TransitionKernel("ddim", eta).transition(
        DIFFUSION, noisy, prediction, diffusion_level(501), diffusion_level(481)
    )
    torch.testing.assert_close(found.draw(noise), expected)


@pytest.mark.parametrize("num_steps", [4, 10, 50])
def test_the_first_step_of_flow_grpo_has_noise_of_its_setting_whatever_the_steps(num_steps):
    std, _ = TransitionKernel("flow", 0.7).std_and_direction(flow_level(1.0), flow_level(1 - 1 / num_steps))
    assert float(std) == pytest.approx(0.7, abs=1e-15)


def test_flow_and_dance_are_one_where_their_diffusion_is():
    level, cleaner = flow_level(0.6), flow_level(0.45)
    x, v, _ = images(3)
    flow = TransitionKernel("flow", 0.7).transition(FLOW, x, v, level, cleaner)
    dance = TransitionKernel("dance", 0.7 * math.sqrt(0.6 / 0.4)).transition(FLOW, x, v, level, cleaner)
    torch.testing.assert_close(flow.mean, dance.mean)
    torch.testing.assert_close(flow.std, dance.std)


# ---- limits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", LEVELS)
def test_without_noise_a_step_is_the_deterministic_one_bit_for_bit(kind, model):
    schedule, level, cleaner = LEVELS[model]
    noisy, prediction, _ = images(3, torch.float32)
    found = TransitionKernel(kind, 0.0).transition(schedule, noisy, prediction, level, cleaner)
    assert torch.equal(found.draw(noisy), schedule.step(noisy, prediction, level, cleaner))


@pytest.mark.parametrize("kind", KINDS)
def test_a_noise_predicting_model_steps_like_the_flow_model_that_it_is(kind):
    """Divided by alpha + sigma, its noisy latents are those of a flow model at tau."""
    level, cleaner = diffusion_level(701), diffusion_level(601)
    clean, noise, fresh = images(3)
    as_flow = [Level(1 - one.tau, one.tau) for one in (level, cleaner)]
    kernel = TransitionKernel(kind, 0.6)
    found = kernel.transition(DIFFUSION, DIFFUSION.add_noise(clean, noise, level), noise, level, cleaner)
    expected = kernel.transition(FLOW, FLOW.add_noise(clean, noise, as_flow[0]), noise - clean, *as_flow)
    scale = float(cleaner.alpha + cleaner.sigma)
    torch.testing.assert_close(found.draw(fresh), scale * expected.draw(fresh))


def test_cps_has_a_period_of_two_and_keeps_the_share_of_noise_of_each_level():
    level, cleaner = flow_level(0.8), flow_level(0.6)
    for noise in (0.0, 0.3, 0.8, 1.0):
        std, direction = TransitionKernel("cps", noise).std_and_direction(level, cleaner)
        mirrored, _ = TransitionKernel("cps", 2 - noise).std_and_direction(level, cleaner)
        assert float(std) == pytest.approx(float(mirrored))
        assert float(std**2 + direction**2) == pytest.approx(0.36)


def test_each_row_steps_at_its_own_level():
    x, v, _ = images(3)
    kernel, sigma, cleaner = TransitionKernel("flow", 0.7), number([1.0, 0.7, 0.4]), number([0.8, 0.5, 0.3])
    together = kernel.transition(FLOW, x, v, flow_level(sigma), flow_level(cleaner))
    for row in range(3):
        alone = kernel.transition(
            FLOW, x[row : row + 1], v[row : row + 1], flow_level(sigma)[row], flow_level(cleaner)[row]
        )
        assert torch.equal(together.mean[row], alone.mean[0])
        assert torch.equal(together.std[row], alone.std)


# ---- marginals


def chain(kind, noise, num_steps, data_mean=0.7, data_variance=0.25):
    """Return mean and variance after a sampling of one-dimensional Gaussian data with its exact velocity.

    The velocity is linear in the noisy latents, so mean and variance follow from each step's slope and offset.
    """
    kernel = TransitionKernel(kind, noise)
    sigmas = shift_time(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), 3.0)
    mean, variance = 0.0, 1.0
    for sigma, next_sigma in pairwise(sigmas):
        s, level, cleaner = float(sigma), flow_level(sigma), flow_level(next_sigma)
        slope = (s - (1 - s) * data_variance) / ((1 - s) ** 2 * data_variance + s**2)  # of E[noise - image | x]
        at = [
            kernel.transition(FLOW, image(x), image(-data_mean + slope * (x - (1 - s) * data_mean)), level, cleaner)
            for x in (0.0, 1.0)
        ]
        offset, factor = at[0].mean.item(), at[1].mean.item() - at[0].mean.item()
        mean, variance = factor * mean + offset, factor**2 * variance + float(at[0].std) ** 2
    return mean, variance


@pytest.mark.parametrize(
    ("kind", "noise", "variances"),
    [
        ("flow", 0.0, {10: 0.13667, 50: 0.22239, 400: 0.24637}),
        ("flow", 0.7, {10: 0.18008, 50: 0.23386, 400: 0.24864}),
        ("dance", 0.3, {10: 0.14836, 50: 0.22533, 400: 0.24677}),
        ("cps", 0.8, {10: 0.09896, 50: 0.14131, 400: 0.15817}),
    ],
)
def test_how_well_a_sampling_keeps_the_variance_of_the_data(kind, noise, variances):
    """The data have mean 0.7 and variance 0.25, which all but `cps` tend to."""
    for num_steps, expected in variances.items():
        mean, variance = chain(kind, noise, num_steps)
        assert variance == pytest.approx(expected, abs=1e-5)
        assert mean == pytest.approx(0.7, abs=1e-10)


def test_ancestral_steps_of_a_flow_model_tend_to_the_variance_of_the_data_too():
    """Twice as many steps leave half of the error."""
    few, many = (0.25 - chain("ddim", 1.0, num_steps)[1] for num_steps in (100, 200))
    assert 0 < many < 0.025
    assert few / many == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(("kind", "noise"), [("cps", 0.8), ("ddim", 1.0)])
def test_images_that_are_one_point_keep_the_noise_of_each_level(kind, noise):
    """Where every image is x0, noisy latents are (1 - s) x0 + s N(0, 1) all along."""
    kernel, variance = TransitionKernel(kind, noise), 1.0
    for s, t in ((1.0, 0.8), (0.8, 0.5), (0.5, 0.2)):
        at = [  # the exact velocity is (x - x0) / s, here with x0 = 0.3
            kernel.transition(FLOW, image(x), image((x - 0.3) / s), flow_level(s), flow_level(t)) for x in (0.0, 1.0)
        ]
        factor = at[1].mean.item() - at[0].mean.item()
        variance = factor**2 * variance + float(at[0].std) ** 2
        assert variance == pytest.approx(t**2)
        assert factor * (1 - s) * 0.3 + at[0].mean.item() == pytest.approx((1 - t) * 0.3)


# ---- log-probabilities


def test_a_log_probability_is_the_normal_density_averaged_or_summed_over_elements():
    value, mean, _ = images(3)
    transition = Transition(mean, number([0.5, 0.2, 1.3]))
    density = stats.norm.logpdf(value.numpy(), mean.numpy(), transition.std.numpy()[:, None, None, None])
    torch.testing.assert_close(log_prob(value, transition), torch.from_numpy(density.mean((1, 2, 3))))
    torch.testing.assert_close(log_prob(value, transition, "sum"), torch.from_numpy(density.sum((1, 2, 3))))
    scalar = log_prob(image(0.3), Transition(image(0.1), number(0.5)))
    assert scalar.item() == pytest.approx(-0.305791, abs=1e-6)


def test_an_unscaled_log_ratio_is_the_true_one_times_twice_the_variance():
    kernel = TransitionKernel("cps", 0.8)
    x, v, value = images(3)
    one, other = (kernel.transition(FLOW, x, w, flow_level(0.5), flow_level(0.4)) for w in (v, v + 0.1))
    true = log_prob(value, one) - log_prob(value, other)
    unscaled = log_prob(value, one, scale="unscaled") - log_prob(value, other, scale="unscaled")
    torch.testing.assert_close(unscaled, true * 2 * one.std**2)
    assert float(2 * one.std**2) == pytest.approx(0.2894, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", LEVELS)
def test_the_gradient_of_a_log_probability_is_what_differences_say(kind, model):
    schedule, level, cleaner = LEVELS[model]
    kernel = TransitionKernel(kind, 0.6)
    noisy, prediction, noise = images(3)
    value = kernel.transition(schedule, noisy, prediction, level, cleaner).draw(noise)
    moved = (prediction + 0.1).requires_grad_()

    def density(prediction):
        return log_prob(value, kernel.transition(schedule, noisy, prediction, level, cleaner))

    (gradient,) = torch.autograd.grad(density(moved).sum(), moved)
    at = kernel.transition(schedule, noisy, moved.detach(), level, cleaner)
    slope = (value - at.mean) / (value[0].numel() * at.std**2)
    sensitivity = kernel.sensitivity(schedule, level, cleaner)
    torch.testing.assert_close(gradient.abs(), slope.abs() * sensitivity)
    step = torch.zeros_like(moved)
    step[1, 2, 3, 4] = 1e-5
    difference = (density(moved.detach() + step) - density(moved.detach() - step)) / 2e-5
    assert difference[1].item() == pytest.approx(gradient[1, 2, 3, 4].item(), rel=1e-6)
    assert difference[[0, 2]].abs().max() == 0


def test_the_divergence_is_that_of_torch_distributions():
    mean, other, _ = images(3)
    std = number([0.5, 0.2, 1.3])

    def gaussian(mean):
        return Independent(Normal(mean, std[:, None, None, None]), 3)

    expected = kl_divergence(gaussian(mean), gaussian(other))
    one, two = Transition(mean, std), Transition(other, std)
    torch.testing.assert_close(divergence(one, two, "sum"), expected)
    torch.testing.assert_close(divergence(one, two), expected / mean[0].numel())


# ---- steps without noise to speak of


@pytest.mark.parametrize(
    "last",
    [
        (FLOW, TransitionKernel("flow", 0.7), flow_level(0.0089), CLEAN),  # the last of SD 3.5: noise of 0.006
        (DIFFUSION, TransitionKernel("ddim", 1.0), diffusion_level(1), CLEAN),
        (FLOW, TransitionKernel("dance", 0.0), flow_level(0.5), flow_level(0.4)),
    ],
)
def test_a_step_with_hardly_any_noise_has_no_log_probability(last):
    schedule, kernel, level, cleaner = last
    x, v, value = images(3)
    transition = kernel.transition(schedule, x, v, level, cleaner)
    for figure in (lambda: log_prob(value, transition), lambda: divergence(transition, transition)):
        with pytest.raises(UserError, match=r"needs at least 0\.01; lower method\.window\.stop"):
            figure()
    assert log_prob(value, transition, scale="unscaled").isfinite().all()


def test_more_than_all_noise_cannot_be_fresh():
    with pytest.raises(ValueError, match=r"method\.kernel\.noise=1\.5 must be at most 1"):
        TransitionKernel("ddim", 1.5)
