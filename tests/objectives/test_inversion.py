"""Inversion against closed forms, a plainer loop, and the figures of the specification."""

import multiprocessing
import warnings
import weakref
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from alignbench.batch import Conditioning
from alignbench.configuration.build import conf_folder
from alignbench.context import Context
from alignbench.diffusion.schedule import CLEAN, Level, NoiseSchedule
from alignbench.models.tiny_random import tiny_adapter
from alignbench.objectives import inversion
from alignbench.objectives.inversion import invert, round_trip_error
from alignbench.objectives.inversion_path import InversionPath, InversionSettings

EXACT: InversionSettings = instantiate(OmegaConf.load(conf_folder() / "method" / "smpo.yaml").inversion)
CONTEXT = Context(step=0, seed=0, micro_batch_size=4)
TYPES = ["epsilon", "v_prediction", "velocity"]
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


def schedule_of(prediction_type: str) -> NoiseSchedule:
    return NoiseSchedule(prediction_type, 1000, None if prediction_type == "velocity" else (1 - BETAS).cumprod(0))


class Toy:
    """A model whose prediction is any function of noisy latents and timesteps; it notes what it is asked."""

    guidance_is_distilled = False

    def __init__(self, field, prediction_type: str = "epsilon") -> None:
        self.schedule = schedule_of(prediction_type)
        self.field = field
        self.policy = nn.Identity()
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []  # noisy latents, timesteps, what was known of the prompt

    def without_prompts(self, conditioning):
        return conditioning.map(torch.zeros_like)

    def predict(self, noisy_latents, timesteps, conditioning, guidance_scale=None):
        self.asked.append((noisy_latents, timesteps, conditioning.prompt_embeds.flatten()))
        return self.field(noisy_latents, timesteps)

    def predict_guided(self, noisy_latents, timesteps, conditioning, unconditional, weight):
        self.predict(noisy_latents, timesteps, unconditional)
        return self.predict(noisy_latents, timesteps, conditioning)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prompts(num: int) -> Conditioning:
    return Conditioning(torch.arange(1.0, num + 1).reshape(num, 1, 1))


def full(num: int, timestep: float) -> Tensor:
    return torch.full((num,), timestep, dtype=torch.float64)


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def run(model, latents, timesteps, settings=EXACT, **arguments):
    return invert(model, latents, prompts(len(latents)), timesteps, settings, CONTEXT, **arguments)


# ---- closed forms


@pytest.mark.parametrize("kind", ["epsilon", "velocity"])
@pytest.mark.parametrize("average", [False, True])
def test_a_prediction_that_is_the_same_everywhere_is_found_whatever_the_path(kind, average):
    latents, constant = draw(5, 1, 4, 4), draw(1, 1, 4, 4, seed=1)
    timesteps = torch.tensor([40.0, 137.0, 500.0, 903.0, 999.0])
    schedule = schedule_of(kind)
    noise = constant + latents if kind == "velocity" else constant.expand_as(latents)
    expected = schedule.add_noise(latents, noise, schedule.level(timesteps))
    for num_steps in (1, 3, 10):
        for num_renoise in (0, 1, 4):
            settings = replace(EXACT, num_steps=num_steps, num_renoise=num_renoise, average=average)
            inverted = run(Toy(lambda x, t: constant.expand_as(x), kind), latents, timesteps, settings)
            torch.testing.assert_close(inverted.noisy_latents, expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(inverted.target, constant.expand_as(latents), rtol=0, atol=1e-6)


def curved(noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
    """A smooth field with curvature in latents and time."""
    return torch.sin(noisy_latents + 0.002 * column(timesteps.double())) + 0.3 * noisy_latents


@pytest.mark.parametrize("timestep", [40, 137, 500, 903])
@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_the_target_is_the_average_of_the_predictions_along_the_path(timestep, num_steps):
    predictions = []

    def field(noisy_latents, timesteps):
        predictions.append(curved(noisy_latents, timesteps))
        return predictions[-1]

    model, latents = Toy(field), draw(2, 1, 4, 4)
    settings = replace(EXACT, num_steps=num_steps, num_renoise=0)
    inverted = run(model, latents, full(2, timestep), settings)
    rho = torch.cat([torch.zeros(1), model.schedule.level(torch.tensor(settings.stops(timestep))).rho])
    average = sum((b - a) * seen for (a, b), seen in zip(pairwise(rho), predictions, strict=True)) / rho[-1]
    level = model.schedule.level(torch.tensor(timestep))
    from_latents = (inverted.noisy_latents - level.alpha * latents) / level.sigma
    torch.testing.assert_close(inverted.target, average, rtol=0, atol=1e-12)
    torch.testing.assert_close(from_latents, average, rtol=0, atol=1e-12)


def plainly(latents, timestep, settings, field):
    """Return noisy latents and target of an epsilon model for one image, as the published loops are written."""
    abar, stride = (1 - BETAS).cumprod(0), 1000 // settings.num_steps
    x = latents
    if settings.mode == "exact":
        ends = [1 + k * stride for k in range(1, settings.num_steps) if 1 + k * stride < timestep] + [timestep]
        steps = [(end, torch.tensor(1.0) if k == 0 else abar[ends[k - 1]], abar[end]) for k, end in enumerate(ends)]
    elif settings.mode == "upstream_020":
        labels = [1 + k * stride for k in range(-1, settings.num_steps - 1) if 1 + k * stride < timestep]
        steps = [(label, abar[max(label, 0)], abar[label + stride]) for label in labels]
    else:
        labels = [1 + k * stride for k in range(settings.num_steps) if 1 + k * stride < timestep]
        steps = [(label, abar[max(label - stride, 0)], abar[label]) for label in labels]
    for label, a, b in steps:
        asked = torch.tensor([float(label)])

        def move(e, a=a, b=b, x=x):
            return (b / a).sqrt() * x + ((1 - b).sqrt() - (b / a).sqrt() * (1 - a).sqrt()) * e

        estimates = [field(x, asked)]
        for _ in range(settings.num_renoise):
            e = torch.stack(estimates).mean(0) if settings.average else estimates[-1]
            estimates.append(field(move(e), asked))
        x = move(torch.stack(estimates).mean(0) if settings.average else estimates[-1])
    return x, (x - abar[timestep].sqrt() * latents) / (1 - abar[timestep]).sqrt()


@pytest.mark.parametrize("mode", ["exact", "upstream_020", "upstream_022"])
@pytest.mark.parametrize(("num_renoise", "average"), [(0, False), (1, True), (1, False), (3, True)])
def test_every_mode_is_its_published_loop(mode, num_renoise, average):
    settings = replace(EXACT, mode=mode, num_renoise=num_renoise, average=average, num_steps=5)
    timesteps = [1, 2, 150, 201, 202, 777, 999]
    latents = draw(len(timesteps), 1, 4, 4)
    inverted = run(Toy(curved), latents, torch.tensor(timesteps), settings)
    for row, timestep in enumerate(timesteps):
        noisy_latents, target = plainly(latents[row : row + 1], timestep, settings, curved)
        torch.testing.assert_close(inverted.noisy_latents[row : row + 1], noisy_latents, rtol=0, atol=1e-10)
        torch.testing.assert_close(inverted.target[row : row + 1], target, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", TYPES)
def test_in_exact_mode_the_target_is_that_of_the_noise_which_mixes_to_the_noisy_latents(kind):
    schedule, latents = schedule_of(kind), draw(4, 1, 4, 4)
    timesteps = torch.tensor([5.0, 200.0, 600.0, 950.0])
    inverted = run(Toy(lambda x, t: 0.1 * curved(x, t), kind), latents, timesteps)
    split = schedule.decompose(inverted.noisy_latents, inverted.target, schedule.level(timesteps))
    torch.testing.assert_close(split.latents, latents, rtol=0, atol=1e-9)
    again = schedule.add_noise(latents, split.noise, schedule.level(timesteps))
    torch.testing.assert_close(again, inverted.noisy_latents, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("timestep", "a", "c"),
    [
        (2, -1.062, 6.463),
        (50, -0.139, 1.487),
        (150, -0.103, 1.200),
        (350, -0.087, 1.081),
        (850, -0.035, 1.005),
        (950, 0.028, 0.997),
    ],
)
def test_the_old_code_pairs_latents_of_one_level_with_the_label_of_another(timestep, a, c):
    """Its target is a * latents + c * the noise that was really added."""
    latents = draw(1, 1, 4, 4)
    inverted = run(Toy(curved), latents, full(1, timestep), replace(EXACT, mode="upstream_020"))
    end = inverted.inversion_path.level[-1]
    added = (inverted.noisy_latents - column(end.alpha) * latents) / column(end.sigma)
    coefficients = torch.linalg.lstsq(
        torch.stack([latents.flatten(), added.flatten()], 1), inverted.target.flatten()[:, None]
    ).solution.flatten()
    assert coefficients.tolist() == pytest.approx([a, c], abs=1e-3)


def test_the_later_code_ends_at_a_cleaner_level_than_its_label():
    timesteps = torch.tensor([50.0, 150.0, 850.0, 950.0])
    inverted = run(Toy(curved), draw(4, 1, 4, 4), timesteps, replace(EXACT, mode="upstream_022"))
    assert inverted.inversion_path.stops[-1].tolist() == [1, 101, 801, 901]
    assert (inverted.inversion_path.level[-1].sigma < schedule_of("epsilon").level(timesteps).sigma).all()


# ---- Gaussian data: 64 dimensions, standard deviations 0.3 to 2, the best possible network in closed form

STD = torch.linspace(0.3, 2.0, 64, dtype=torch.float64).reshape(1, 8, 8)


def gaussian_data(kind: str, num: int = 128):
    schedule, mean = schedule_of(kind), 0.5 * draw(1, 8, 8, seed=3)

    def field(noisy_latents, timesteps):
        level = schedule.level(timesteps)
        alpha, sigma = column(level.alpha), column(level.sigma)
        gap = (noisy_latents - alpha * mean) / (alpha**2 * STD**2 + sigma**2)
        return schedule.target(mean + alpha * STD**2 * gap, sigma * gap, level)

    return Toy(field, kind), mean + STD * draw(num, 1, 8, 8, seed=4)


def relative_round_trip(model, latents, settings):
    inverted = run(model, latents, full(len(latents), 999), settings)
    error = round_trip_error(model, latents, prompts(len(latents)), inverted, settings)
    return (error.square() * latents.flatten(1).square().mean(1)).mean().sqrt() / latents.square().mean().sqrt()


@pytest.mark.parametrize(
    ("kind", "num_renoise", "num_steps", "expected"),
    [
        ("epsilon", 0, 10, 0.100),
        ("epsilon", 0, 20, 0.0545),
        ("epsilon", 0, 50, 0.0229),
        ("epsilon", 0, 100, 0.0116),
        ("epsilon", 1, 10, 0.0272),
        ("epsilon", 1, 20, 0.0080),
        ("epsilon", 1, 50, 0.00139),
        ("epsilon", 1, 100, 0.000356),
        ("epsilon", 3, 10, 3.6e-3),
        ("velocity", 0, 10, 0.0725),
        ("velocity", 1, 10, 0.0061),
        ("velocity", 3, 10, 8e-5),
    ],
)
def test_the_round_trip_of_gaussian_data_fails_by_the_figures_of_the_specification(
    kind, num_renoise, num_steps, expected
):
    model, latents = gaussian_data(kind)
    settings = replace(EXACT, num_renoise=num_renoise, num_steps=num_steps)
    assert relative_round_trip(model, latents, settings).item() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("kind", TYPES)
def test_many_iterations_make_inversion_the_inverse_of_sampling(kind):
    model, latents = gaussian_data(kind)
    assert relative_round_trip(model, latents, replace(EXACT, num_renoise=30)) < 1e-8


@pytest.mark.parametrize(("num_steps", "expected"), [(5, 0.359), (10, 0.205), (20, 0.112), (50, 0.0482)])
def test_labels_of_the_level_that_is_left_double_the_error(monkeypatch, num_steps, expected):
    """What inversion loses with the labels of old schedulers; first order in the number of steps."""
    model, latents = gaussian_data("epsilon")
    stops = torch.linspace(0, 999, num_steps + 1).round().double()[:, None].expand(-1, len(latents))
    level = model.schedule.level(stops)
    level = Level(torch.cat([CLEAN.alpha.expand(1, len(latents)), level.alpha[1:]]),
                  torch.cat([CLEAN.sigma.expand(1, len(latents)), level.sigma[1:]]))  # fmt: skip
    path = InversionPath(
        stops[1:], stops[:-1], model.schedule.level(stops[:-1]), level, torch.full((len(latents),), num_steps)
    )
    monkeypatch.setattr(inversion, "inversion_path", lambda *arguments: path)
    assert relative_round_trip(model, latents, replace(EXACT, num_renoise=0)).item() == pytest.approx(expected, rel=0.2)


def test_inverted_gaussian_data_approach_unit_noise_and_at_small_timesteps_are_far_from_it():
    model, latents = gaussian_data("epsilon", num=2000)
    distances = []
    for num_steps in (5, 20, 100):
        settings = replace(EXACT, num_steps=num_steps, num_renoise=0)
        spread = run(model, latents, full(2000, 999), settings).noisy_latents.std(0)
        distances.append((spread - 1).abs().mean().item())
    assert distances[0] > 1.5 * distances[1] > 1.5 * 1.5 * distances[2]
    small = run(model, latents, full(2000, 40), replace(EXACT, num_renoise=0)).target.std(0)
    assert 0.1 < small.median() < 0.3


# ---- whether ReNoise converges


def test_the_contraction_is_the_slope_of_the_network_times_the_coefficient_of_the_step():
    slope, schedule = 0.8, schedule_of("epsilon")
    inverted = run(Toy(lambda x, t: slope * x), draw(2, 1, 4, 4), full(2, 80), replace(EXACT, num_renoise=4))
    coefficient = schedule.level(torch.tensor(80)).sigma  # one step from clean latents
    torch.testing.assert_close(inverted.contraction, (slope * coefficient).expand(2), rtol=1e-6, atol=0)
    assert inverted.metrics()["diverged"].tolist() == [0, 0]


def mixture(modes: Tensor, std: float):
    """The best network for points scattered closely around a few modes."""
    schedule = schedule_of("epsilon")

    def field(noisy_latents, timesteps):
        level = schedule.level(timesteps)
        alpha, sigma = column(level.alpha), column(level.sigma)
        variance = alpha**2 * std**2 + sigma**2
        gap = noisy_latents[:, None] - alpha[:, None] * modes[None]
        weight = (-gap.square().flatten(2).sum(2) / (2 * variance.reshape(-1, 1))).softmax(1)
        return sigma / variance * (weight[:, :, None, None, None] * gap).sum(1)

    return field


def test_iterations_that_diverge_are_flagged_and_told():
    """Eight sharp modes on a ring; most latents converge, and those that come back elsewhere are among the flagged."""
    angles = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    modes = 2 * torch.stack([angles.cos(), angles.sin()], 1).reshape(8, 1, 2, 1)
    latents = modes[torch.arange(64) % 8] + 0.15 * draw(64, 1, 2, 1, seed=6)
    model, settings = Toy(mixture(modes, 0.15)), replace(EXACT, num_renoise=50)
    with pytest.warns(RuntimeWarning, match="ReNoise does not contract"):
        inverted = run(model, latents, full(64, 999), settings)
    diverged = inverted.metrics()["diverged"].bool()
    error = round_trip_error(model, latents, prompts(64), inverted, settings)
    assert diverged.any()
    assert error[diverged].max() > 0.1
    assert error[~diverged].max() < 1e-3
    smooth, gaussian = gaussian_data("epsilon")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(smooth, gaussian, full(128, 999), replace(EXACT, num_renoise=50)).metrics()["diverged"].sum() == 0


def test_without_renoise_nothing_is_known_of_its_convergence():
    metrics = run(Toy(curved), draw(2, 1, 4, 4), full(2, 500), replace(EXACT, num_renoise=0)).metrics()
    assert metrics["contraction"].isnan().all()
    assert metrics["diverged"].isnan().all()
    assert metrics["num_steps"].tolist() == [5, 5]


def test_one_converged_step_asks_for_what_the_network_says_already():
    """The signal of these methods is the curvature of paths, and one step has none."""
    model, latents = gaussian_data("epsilon", num=8)
    inverted = run(model, latents, full(8, 90), replace(EXACT, num_renoise=30))
    seen = model.field(inverted.noisy_latents, full(8, 90))
    torch.testing.assert_close(inverted.target, seen, rtol=0, atol=1e-8)
    long = run(model, latents, full(8, 900), replace(EXACT, num_renoise=30))
    assert (long.target - model.field(long.noisy_latents, full(8, 900))).abs().max() > 0.05


# ---- calls


@pytest.mark.parametrize(("guidance_scale", "branches"), [(None, 1), (1.0, 1), (0.0, 1), (5.0, 2), (-1.0, 2)])
@pytest.mark.parametrize("num_renoise", [0, 1, 3])
def test_each_row_costs_its_own_steps_alone(guidance_scale, branches, num_renoise):
    model = Toy(curved)
    settings = replace(EXACT, guidance_scale=guidance_scale, num_renoise=num_renoise)
    run(model, draw(3, 1, 4, 4), torch.tensor([40.0, 350.0, 999.0]), settings)
    assert sum(len(asked[0]) for asked in model.asked) == branches * (1 + 4 + 10) * (1 + num_renoise)


def test_guidance_0_never_sees_the_prompt_and_1_nothing_else():
    seen = {}
    for scale in (0.0, None, 1.0, 3.0):
        model = Toy(curved)
        run(model, draw(2, 1, 4, 4), full(2, 350), replace(EXACT, guidance_scale=scale))
        seen[scale] = {value for asked in model.asked for value in asked[2].tolist()}
    assert seen == {0.0: {0.0}, None: {1.0, 2.0}, 1.0: {1.0, 2.0}, 3.0: {0.0, 1.0, 2.0}}


def test_renoise_at_the_last_step_alone_costs_one_more_call_a_row():
    model = Toy(curved)
    run(model, draw(2, 1, 4, 4), torch.tensor([40.0, 350.0]), replace(EXACT, renoise_at="last"))
    assert [asked[1].tolist() for asked in model.asked] == [[101], [201], [301], [40, 350], [40, 350]]


def test_predictions_are_not_kept_along_the_path():
    alive, most = [], 0

    def field(noisy_latents, timesteps):
        nonlocal most
        most = max(most, sum(found() is not None for found in alive))
        prediction = curved(noisy_latents, timesteps)
        alive.append(weakref.ref(prediction))
        return prediction

    run(Toy(field), draw(1, 1, 4, 4), full(1, 999), replace(EXACT, num_steps=50, num_renoise=2, average=True))
    assert len(alive) == 150
    assert most <= 1


class LongerElsewhere(Context):
    def maximum(self, value, device):
        return max(value, 9)


def test_a_process_with_shorter_paths_keeps_calling_and_loses_nothing():
    settings = replace(EXACT, eta=0.1, renoise_at="last", num_renoise=2)
    latents, timesteps = draw(2, 1, 4, 4), torch.tensor([40.0, 350.0])
    alone, waiting = Toy(curved), Toy(curved)
    draws = [[torch.Generator().manual_seed(seed) for seed in (1, 2)] for _ in range(2)]
    expected = invert(alone, latents, prompts(2), timesteps, settings, CONTEXT, draws[0])
    found = invert(waiting, latents, prompts(2), timesteps, settings, LongerElsewhere(0, 0, 4), draws[1])
    assert len(waiting.asked) == 9 + 2
    assert len(alone.asked) == 4 + 2
    assert torch.equal(found.noisy_latents, expected.noisy_latents)
    assert torch.equal(found.target, expected.target)
    calls = len(waiting.asked)
    assert torch.equal(
        round_trip_error(waiting, latents, prompts(2), found, settings),
        round_trip_error(alone, latents, prompts(2), expected, settings),
    )
    assert len(waiting.asked) - calls == 9


def _one_of_two(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    model = Toy(curved)
    timesteps = [torch.tensor([40.0, 150.0]), torch.tensor([640.0, 20.0])][rank]
    context = Context(0, 0, 4, num_processes=2)
    found = invert(model, draw(2, 1, 4, 4), prompts(2), timesteps, EXACT, context)
    results.put((rank, len(model.asked), found.target.tolist()))
    torch.distributed.destroy_process_group()


def test_two_processes_call_the_network_equally_often(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_one_of_two, args=(rank, tmp_path / "meet", results)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    found = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert [calls for _, calls, _ in found] == [14, 14]  # seven steps of two calls: 640 has 101, ..., 601 and itself
    alone = run(Toy(curved), draw(2, 1, 4, 4), torch.tensor([40.0, 150.0]))
    assert found[0][2] == alone.target.tolist()


# ---- fresh noise


def silent(noisy_latents, timesteps):
    return torch.zeros_like(noisy_latents)


def test_a_silent_network_leaves_the_fresh_noise_with_its_known_variance():
    settings = replace(EXACT, mode="upstream_020", eta=0.1, num_renoise=0)
    latents = torch.zeros(1, 1, 400, 250)
    inverted = run(Toy(silent), latents, full(1, 640), settings, generators=[torch.Generator().manual_seed(0)])
    abar = (1 - BETAS).cumprod(0)
    visited = [0, 1, 101, 201, 301, 401, 501, 601, 701]
    variance = sum(
        abar[701] / abar[b] * 0.01 * (1 - abar[a]) / (1 - abar[b]) * (1 - abar[b] / abar[a])
        for a, b in pairwise(visited)
    )
    assert inverted.noisy_latents.var().item() == pytest.approx(variance.item(), rel=0.03)


def test_rows_have_fresh_noise_of_their_own_and_none_without_eta():
    latents = torch.zeros(2, 1, 128, 128)
    settings = replace(EXACT, eta=0.1, num_renoise=0)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    noisy = run(Toy(silent), latents, full(2, 640), settings, generators=generators).noisy_latents
    assert noisy.flatten(1).corrcoef()[0, 1].abs() < 0.02
    assert run(Toy(silent), latents, full(2, 640), replace(settings, eta=0.0)).noisy_latents.abs().max() == 0
    with pytest.raises(ValueError, match="give one generator a row"):
        run(Toy(silent), latents, full(2, 640), settings)


# ---- through networks


@pytest.fixture(params=["stable_diffusion", "flux"])
def model(request):
    model = tiny_adapter(request.param)
    model.prepare_training("full", rank=4, alpha=4.0)
    model.make_reference()
    return model


def material(model, num: int = 4):
    texts = [f"prompt {i}" for i in range(num)]
    timesteps = torch.tensor([40.0, 350.0, 999.0, 101.0])[:num]
    return draw(num, *model.latent_shape).float(), model.encode_prompts(texts), timesteps


@pytest.mark.parametrize("mode", ["exact", "upstream_020", "upstream_022"])
def test_a_batch_is_inverted_as_its_rows_are_alone(model, mode):
    latents, conditioning, timesteps = material(model)
    settings = replace(EXACT, mode=mode)
    together = invert(model, latents, conditioning, timesteps, settings, CONTEXT)
    for row in range(4):
        one = slice(row, row + 1)
        alone = invert(model, latents[one], conditioning.rows(row, row + 1), timesteps[one], settings, CONTEXT)
        torch.testing.assert_close(together.noisy_latents[one], alone.noisy_latents, rtol=0, atol=1e-6)
        torch.testing.assert_close(together.target[one], alone.target, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.contraction[one], alone.contraction, rtol=1e-3, atol=1e-4)


def test_inversion_leaves_no_graph_and_the_network_as_it_was(model):
    model.policy.train()
    child = next(model.policy.children())
    child.eval()
    modes = []
    handle = model.policy.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    for eval_mode in (True, False):
        inverted = invert(model, *material(model), replace(EXACT, eval_mode=eval_mode), CONTEXT)
        assert not inverted.noisy_latents.requires_grad
        assert not inverted.target.requires_grad
        assert model.policy.training
        assert not child.training
    handle.remove()
    assert set(modes[: len(modes) // 2]) == {False}
    assert set(modes[len(modes) // 2 :]) == {True}
    assert torch.is_grad_enabled()


def test_in_evaluation_mode_inversion_draws_nothing_that_training_would_draw():
    network = nn.Sequential(nn.Dropout(0.5))
    toy = Toy(lambda x, t: network(x))
    toy.policy = network
    for eval_mode, same in ((True, True), (False, False)):
        network.train()
        state = torch.get_rng_state()
        run(toy, draw(2, 1, 4, 4), full(2, 350), replace(EXACT, eval_mode=eval_mode, num_renoise=0))
        assert torch.equal(torch.get_rng_state(), state) == same


def test_policy_and_reference_invert_alike_until_the_policy_has_learnt(model):
    def both():
        return [
            invert(model, *material(model), replace(EXACT, inverter=inverter), CONTEXT).target
            for inverter in ("policy", "reference")
        ]

    policy, reference = both()
    assert torch.equal(policy, reference)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.mul_(1.1)
    later_policy, later_reference = both()
    assert torch.equal(later_reference, reference)
    assert (later_policy - policy).abs().max() > 1e-4


def test_the_state_is_float32_under_autocast(model):
    latents, conditioning, timesteps = material(model)
    with torch.autocast("cpu", torch.bfloat16):
        inverted = invert(model, latents.bfloat16(), conditioning, timesteps, EXACT, CONTEXT)
    assert inverted.noisy_latents.dtype == inverted.target.dtype == torch.float32


def test_distilled_guidance_is_an_input_of_the_network():
    model = tiny_adapter("flux")
    latents, conditioning, timesteps = material(model)
    given = []
    model.policy.register_forward_pre_hook(lambda _, __, kwargs: given.append(kwargs["guidance"]), with_kwargs=True)
    for scale in (None, 0.0, 2.0):
        invert(model, latents, conditioning, timesteps, replace(EXACT, guidance_scale=scale), CONTEXT)
    assert {value for guidance in given for value in guidance.tolist()} == {3.5, 0.0, 2.0}
    assert model.network_passes == 3 * 2 * (1 + 4 + 10 + 1)
