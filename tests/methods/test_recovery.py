import pytest
import torch

from alignbench.diffusion.schedule import CLEAN, Level, NoiseSchedule
from methods.recovery import RecoveryWindow, output_coefficient, recover

TYPES = ["epsilon", "v_prediction", "velocity"]
POLICIES = ["landing", "paper", "constant"]
RELEASED = {"ends": [5, 25], "unit": "entries", "num_inference_steps": 50, "shift": 3.0} | {
    "num_levels": 1000,
    "known_ratio": 0.9,
    "edge": 5,
}


def window(**changes) -> RecoveryWindow:
    return RecoveryWindow(**RELEASED | changes)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def schedule_of(prediction_type: str) -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule(prediction_type, 1000, None if prediction_type == "velocity" else (1 - betas).cumprod(0))


def levels(schedule: NoiseSchedule) -> tuple[Level, Level]:
    """Return starts and landings: two denoising, two inverting."""
    return schedule.level(torch.tensor([900.0, 600, 300, 800])), schedule.level(torch.tensor([870.0, 300, 600, 850]))


def coefficient(schedule: NoiseSchedule, start: Level, landing: Level, policy="landing") -> torch.Tensor:
    return output_coefficient(schedule, start, landing, policy, constant=0.7)


# ---- rebuilding an image


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_perfect_prediction_brings_the_image_back_exactly(prediction_type, policy):
    schedule = schedule_of(prediction_type)
    start, landing = levels(schedule)
    latents, noise = draw(4, 3, 4, 4), draw(4, 3, 4, 4, seed=1)
    target = schedule.target(latents, noise, start)
    rebuilt = recover(latents, target.clone(), target, coefficient(schedule, start, landing, policy))
    torch.testing.assert_close(rebuilt, latents, rtol=0, atol=1e-10)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_output_form_is_one_step_and_then_the_removal_of_the_known_noise(prediction_type):
    """The paper's two movements, written with nothing but the network's own idea of latents and noise."""
    schedule = schedule_of(prediction_type)
    start, landing = levels(schedule)
    latents, noise, prediction = (draw(4, 3, 4, 4, seed=seed) for seed in range(3))
    noisy = schedule.add_noise(latents, noise, start)
    landed = schedule.step(noisy, prediction, start, landing)
    alpha, sigma = (value[:, None, None, None] for value in (landing.alpha, landing.sigma))
    expected = (landed - sigma * noise) / alpha
    rebuilt = recover(
        latents, prediction, schedule.target(latents, noise, start), coefficient(schedule, start, landing)
    )
    torch.testing.assert_close(rebuilt, expected, rtol=1e-9, atol=1e-9)


def test_the_paper_gain_is_the_paper_formula():
    """xhat = (x_s - dsig * eps_theta - (sigma_s - dsig) * eps) / alpha_s, for epsilon and for velocity."""
    latents, noise = draw(4, 3, 4, 4), draw(4, 3, 4, 4, seed=1)
    for prediction_type in TYPES:
        schedule = schedule_of(prediction_type)
        start, landing = levels(schedule)
        noisy = schedule.add_noise(latents, noise, start)
        prediction = draw(4, 3, 4, 4, seed=2)
        noise_theta = schedule.decompose(noisy, prediction, start).noise
        alpha, sigma, dsig = (x[:, None, None, None] for x in (start.alpha, start.sigma, start.sigma - landing.sigma))
        expected = (noisy - dsig * noise_theta - (sigma - dsig) * noise) / alpha
        target = schedule.target(latents, noise, start)
        rebuilt = recover(latents, prediction, target, coefficient(schedule, start, landing, "paper"))
        torch.testing.assert_close(rebuilt, expected, rtol=1e-9, atol=1e-9)


def test_one_network_in_three_guises_rebuilds_one_image():
    """Epsilon, v and velocity, the last at the same noise-to-signal ratios as the others."""
    latents, noise = draw(4, 3, 4, 4), draw(4, 3, 4, 4, seed=1)
    noise_theta = draw(4, 3, 4, 4, seed=2)
    rebuilt = {}
    for prediction_type in TYPES:
        schedule = schedule_of(prediction_type)
        start, landing = levels(schedule_of("epsilon"))
        if prediction_type == "velocity":
            start, landing = (Level(1 - level.tau, level.tau) for level in (start, landing))
        # the latents that the noisy ones leave beside noise_theta
        noisy = schedule.add_noise(latents, noise, start)
        alpha, sigma = (value[:, None, None, None] for value in (start.alpha, start.sigma))
        prediction = schedule.target((noisy - sigma * noise_theta) / alpha, noise_theta, start)
        target = schedule.target(latents, noise, start)
        rebuilt[prediction_type] = recover(latents, prediction, target, coefficient(schedule, start, landing))
    torch.testing.assert_close(rebuilt["epsilon"], rebuilt["v_prediction"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rebuilt["epsilon"], rebuilt["velocity"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_jacobian_is_minus_the_closed_form_coefficient(prediction_type):
    schedule = schedule_of(prediction_type)
    start, landing = levels(schedule)
    latents, target, weights = (draw(4, 3, 4, 4, seed=seed) for seed in range(3))
    prediction = draw(4, 3, 4, 4, seed=3).requires_grad_()
    rebuilt = recover(latents, prediction, target, coefficient(schedule, start, landing))
    (weights * rebuilt).sum().backward()
    gain = start.sigma / start.alpha - landing.sigma / landing.alpha
    expected = {
        "epsilon": -gain,
        "v_prediction": -gain * start.alpha,
        "velocity": (landing.sigma - start.sigma) / (1 - landing.sigma),
    }[prediction_type]
    torch.testing.assert_close(prediction.grad, expected[:, None, None, None] * weights, rtol=1e-10, atol=0)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_denoising_has_a_positive_coefficient_and_inversion_a_negative_one(prediction_type, policy):
    schedule = schedule_of(prediction_type)
    assert coefficient(schedule, *levels(schedule), policy).sign().tolist() == [1, 1, -1, -1]


def test_both_branches_of_a_flow_model_answer_with_equal_strength():
    schedule = schedule_of("velocity")
    landing, above, below = (schedule.level(torch.tensor([t], dtype=torch.float64)) for t in (850.0, 880.0, 820.0))
    torch.testing.assert_close(coefficient(schedule, above, landing), -coefficient(schedule, below, landing))


@pytest.mark.parametrize("prediction_type", TYPES)
def test_landing_on_the_clean_end_is_the_one_step_prediction_of_refl(prediction_type):
    schedule = schedule_of(prediction_type)
    start, _ = levels(schedule)
    latents, noise, prediction = (draw(4, 3, 4, 4, seed=seed) for seed in range(3))
    one_step = schedule.decompose(schedule.add_noise(latents, noise, start), prediction, start).latents
    target = schedule.target(latents, noise, start)
    rebuilt = recover(latents, prediction, target, coefficient(schedule, start, CLEAN))
    torch.testing.assert_close(rebuilt, one_step, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_of_no_length_returns_the_image_and_no_gradient(prediction_type, policy):
    schedule = schedule_of(prediction_type)
    start, _ = levels(schedule)
    prediction = draw(4, 3, 4, 4, seed=1).requires_grad_()
    rebuilt = recover(
        draw(4, 3, 4, 4), prediction, draw(4, 3, 4, 4, seed=2), coefficient(schedule, start, start, policy)
    )
    rebuilt.sum().backward()
    torch.testing.assert_close(rebuilt.detach(), draw(4, 3, 4, 4), rtol=0, atol=1e-12)
    assert prediction.grad.abs().max() < 1e-12


def test_in_half_precision_the_output_form_is_five_times_as_exact_as_the_released_order():
    start, landing = torch.tensor([0.964], dtype=torch.float64), torch.tensor([0.943], dtype=torch.float64)
    schedule = schedule_of("velocity")
    latents, noise = draw(8, 16, 8, 8), draw(8, 16, 8, 8, seed=1)
    target = noise - latents
    prediction = target + 0.3 * draw(8, 16, 8, 8, seed=2)
    noisy = (1 - start) * latents + start * noise
    exact = (noisy + (landing - start) * prediction - landing * noise) / (1 - landing)
    half = [x.bfloat16() for x in (noisy, prediction, noise, latents, target)]
    released = (half[0] + (landing - start).bfloat16() * half[1] - landing.bfloat16() * half[2]) / (
        1 - landing
    ).bfloat16()
    c = coefficient(schedule, schedule.level(1000 * start), schedule.level(1000 * landing))
    ours = half[3] - c.bfloat16() * (half[1] - half[4])

    def rms(x: torch.Tensor) -> float:
        return (x.double() - exact).square().mean().sqrt().item()

    assert 5 * rms(ours) < rms(released)


# ---- where


def test_the_window_has_the_released_numbers():
    assert window().tau_noisy == pytest.approx(0.9643, abs=5e-5)
    assert window().tau_clean == pytest.approx(0.75, abs=5e-5)
    assert window(ends=[5, 30]).tau_clean == pytest.approx(0.6667, abs=5e-5)
    assert window().longest == 100
    assert window(num_levels=100, known_ratio=0.6, edge=1).longest == 41
    assert window(ends=[0.9, 0.2], unit="tau").tau_clean == 0.2


def test_every_draw_stays_inside_the_window():
    grid = window()
    draws = grid.draw(torch.linspace(0, 1 - 1e-9, 5000, dtype=torch.float64))
    assert draws.landing.unique().tolist() == list(range(5, 996))
    expected = torch.stack([torch.full_like(draws.landing, 100), 1000 - draws.landing, draws.landing]).amin(0)
    assert torch.equal(draws.length, expected)
    assert (draws.landing - draws.length).min() >= 0
    assert (draws.landing + draws.length).max() <= 1000
    assert (draws.length == 100).double().mean().item() == pytest.approx(0.81, abs=0.01)


def test_large_positions_are_noisy():
    tau = window().tau(torch.tensor([0, 500, 1000]))
    torch.testing.assert_close(tau, torch.tensor([0.75, 0.857142857, 0.964285714], dtype=torch.float64))


def test_output_coefficients_are_those_measured_on_the_released_recipe():
    schedule, grid = schedule_of("velocity"), window()
    landing = torch.tensor([100, 500, 900])
    start, land = (schedule.level(schedule.timesteps_at(grid.tau(m))) for m in (landing + 100, landing))
    torch.testing.assert_close(
        coefficient(schedule, start, land), torch.tensor([0.094, 0.15, 0.375]).double(), rtol=0.02, atol=0
    )


def test_discounts_run_from_the_clean_end_to_the_noisy_end():
    grid, ends = window(), torch.tensor([0, 1000])
    assert grid.discount(ends, [0.1, 0.25], 1.0).tolist() == pytest.approx([0.1, 0.25])
    assert grid.discount(ends, [0.3, 0.01], 1.0).tolist() == pytest.approx([0.3, 0.01])
    assert grid.discount(ends, [0.0, 1.0], 3.0).tolist() == pytest.approx([0, 1])
    assert grid.discount(torch.tensor([500]), [0.0, 1.0], 3.0).item() == pytest.approx(0.75)


def test_the_generic_reward_changes_its_sign_once_at_a_landing_sigma_of_0_86():
    grid = window()
    draws = grid.draw(torch.linspace(0, 1 - 1e-9, 5000, dtype=torch.float64))
    bonus = grid.discount(draws.landing, [0.1, 0.25], 1.0)
    bonus -= grid.discount(draws.landing - draws.length, [0.3, 0.01], 1.0)
    flips = (bonus.sign().diff() != 0).nonzero()
    assert len(flips) == 1
    assert grid.tau(draws.landing)[flips.item()].item() == pytest.approx(0.86, abs=0.01)
    assert bonus[-1] > 0 > bonus[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ends": [25, 5]}, "expected 1 > noisy > clean"),
        ({"unit": "sigma"}, "window.unit=sigma is unknown; available: tau, entries"),
        ({"edge": 600}, "window.edge=600 must lie between 1 and half"),
    ],
)
def test_impossible_windows_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        window(**changes)
