from pathlib import Path

import pytest
import torch

from alignbench.batch import ImageBatch, PairBatch
from alignbench.context import Context
from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.models.tiny_random import tiny_adapter
from alignbench.objectives.denoising_error import (
    draw_spread_timesteps,
    draw_timesteps,
    error_weight,
    implicit_reward,
    noise_images,
    noise_pairs,
    pair_errors,
    predict_both,
    sample_error,
)

CONTEXT = Context(step=0, seed=0, micro_batch_size=4)
SHAPE = (3, 4, 4)


def schedule_of(prediction_type: str) -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule(prediction_type, 1000, None if prediction_type == "velocity" else (1 - betas).cumprod(0))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(model, num: int = 4) -> PairBatch:
    prompts = [f"prompt {i}" for i in range(num)]
    latents = draw(2, num, *model.latent_shape).float()
    return PairBatch(torch.arange(num), prompts, model.encode_prompts(prompts), *latents, torch.ones(num))


@pytest.fixture(params=["stable_diffusion", "flux"])
def model(request):
    return tiny_adapter(request.param)


def test_the_error_is_the_mean_over_channels_and_pixels():
    error = sample_error(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]), torch.zeros(1, 2, 1, 2))
    assert error.tolist() == [(1 + 4 + 9 + 16) / 4]


def test_repeating_an_image_in_space_leaves_its_error_alone():
    prediction, target = draw(2, *SHAPE), draw(2, *SHAPE, seed=1)
    twice = sample_error(prediction.repeat(1, 1, 2, 2), target.repeat(1, 1, 2, 2))
    torch.testing.assert_close(twice, sample_error(prediction, target))


def test_half_precision_predictions_are_squared_in_float32():
    prediction = torch.full((1, *SHAPE), 1.0009765625, dtype=torch.float16)  # its square is not a float16
    error = sample_error(prediction, torch.zeros(1, *SHAPE))
    assert error.dtype == torch.float32
    assert error.item() == pytest.approx(1.0009765625**2, rel=1e-7)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "velocity"])
@pytest.mark.parametrize("timestep", [50.0, 500.0, 950.0])
def test_weighted_errors_are_the_errors_of_the_noise_and_the_latents_that_a_prediction_implies(
    prediction_type, timestep
):
    schedule = schedule_of(prediction_type)
    level = schedule.level(torch.full((5,), timestep))
    latents, noise = draw(5, *SHAPE), draw(5, *SHAPE, seed=1)
    noisy, target = schedule.add_noise(latents, noise, level), schedule.target(latents, noise, level)
    prediction = target + 0.1 * draw(5, *SHAPE, seed=2)
    implied = schedule.decompose(noisy, prediction, level)
    error = sample_error(prediction, target)
    for weighting, ours, truth in (
        ("eps_equivalent", implied.noise, noise),
        ("x0_equivalent", implied.latents, latents),
    ):
        weight = error_weight(weighting, schedule, level)
        torch.testing.assert_close(weight * error, sample_error(ours, truth), rtol=1e-9, atol=0)


def test_flow_weights_are_the_squares_of_the_published_table():
    level = Level(*(torch.tensor([value], dtype=torch.float64) for value in (0.75, 0.25)))
    schedule = schedule_of("velocity")
    assert error_weight("uniform", schedule, level).item() == 1
    assert error_weight("eps_equivalent", schedule, level).item() == pytest.approx(0.75**2)
    assert error_weight("x0_equivalent", schedule, level).item() == pytest.approx(0.25**2)


@pytest.mark.parametrize(("prediction_type", "plus"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_is_the_published_weight(prediction_type, plus):
    schedule = schedule_of(prediction_type)
    level = schedule.level(torch.arange(0, 1000, 37))
    snr = schedule.snr(level)
    weight = error_weight("min_snr", schedule, level, snr_gamma=5.0)
    torch.testing.assert_close(weight, snr.clamp(max=5) / (snr + plus), rtol=1e-9, atol=0)


def test_an_unknown_weighting_is_answered_with_the_known_ones():
    level = Level(torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="error_weighting=snr is unknown; available: uniform, eps_equivalent"):
        error_weight("snr", schedule_of("velocity"), level)
    with pytest.raises(ValueError, match="min_snr needs snr_gamma"):
        error_weight("min_snr", schedule_of("velocity"), level)


def test_the_implicit_reward_is_minus_half_beta_times_the_change_of_the_error():
    reward = implicit_reward(torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.2]), beta=100)
    torch.testing.assert_close(reward, torch.tensor([5.0, -5.0]))


def test_winner_and_loser_share_noise_and_timestep_and_two_pairs_do_not(model):
    batch = pairs(model)
    noised = noise_pairs(model, batch, CONTEXT, "uniform")
    level = model.schedule.level(noised.timesteps)
    clean = torch.cat([batch.latents_w, batch.latents_l])
    noise = (noised.noisy_latents - level.alpha.float()[:, None, None, None] * clean) / level.sigma.float()[
        :, None, None, None
    ]
    assert torch.equal(noised.timesteps[:4], noised.timesteps[4:])
    torch.testing.assert_close(noise[:4], noise[4:], rtol=1e-3, atol=1e-3)
    assert len(set(noised.timesteps[:4].tolist())) == 4
    assert (noise[0] - noise[1]).abs().max() > 0.1


def test_draws_do_not_depend_on_how_a_batch_is_cut(model):
    batch = pairs(model)
    whole = noise_pairs(model, batch, CONTEXT, "uniform")
    for i in range(4):
        alone = noise_pairs(model, batch.rows(i, i + 1), CONTEXT, "uniform")
        assert torch.equal(alone.noisy_latents, whole.noisy_latents[[i, i + 4]])
        assert torch.equal(alone.timesteps, whole.timesteps[[i, i + 4]])


def test_two_images_of_one_sample_have_draws_of_their_own(model):
    batch = pairs(model)
    images = ImageBatch(batch.index, batch.prompts, batch.conditioning, torch.zeros_like(batch.latents_w))
    first, second = (noise_images(model, images, CONTEXT, "uniform", draw=name) for name in ("", "_l"))
    assert not torch.equal(first.noisy_latents, second.noisy_latents)
    assert not torch.equal(first.timesteps, second.timesteps)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_policy_and_reference_agree_to_the_last_bit_at_the_start(model, tuning):
    model.prepare_training(tuning, rank=2, alpha=2.0)
    model.make_reference()
    batch = pairs(model)
    errors = pair_errors(model, noise_pairs(model, batch, CONTEXT, "eps_equivalent"), batch.conditioning_both)
    assert torch.equal(errors.error_w, errors.ref_error_w)
    assert torch.equal(errors.error_l, errors.ref_error_l)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_reference_has_no_gradient_and_leaves_the_policy_trainable(model, tuning):
    model.prepare_training(tuning, rank=2, alpha=2.0)
    model.make_reference()
    trainable = {name for name, p in model.denoiser.named_parameters() if p.requires_grad}
    batch = pairs(model, 2)
    noised = noise_pairs(model, batch, CONTEXT, "uniform")
    prediction, expected = predict_both(model, noised, batch.conditioning_both)
    assert prediction.requires_grad
    assert not expected.requires_grad
    assert {name for name, p in model.denoiser.named_parameters() if p.requires_grad} == trainable


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_reference_is_asked_before_a_graph_of_the_policy_exists(model, tuning, monkeypatch):
    model.prepare_training(tuning, rank=2, alpha=2.0)
    model.make_reference()
    batch, calls, predict = pairs(model, 2), [], model.predict

    def recorded(*arguments):
        calls.append(torch.is_grad_enabled())
        return predict(*arguments)

    monkeypatch.setattr(model, "predict", recorded)
    predict_both(model, noise_pairs(model, batch, CONTEXT, "uniform"), batch.conditioning_both)
    assert calls == [False, True]


def test_methods_leave_the_order_of_policy_and_reference_to_predict_both():
    """Reward gradients ask the reference in their rollout, where there is no graph."""
    files = (Path(__file__).parents[2] / "methods").glob("*.py")
    assert [file.name for file in files if ".reference()" in file.read_text()] == ["reward_gradient.py"]


def test_a_pair_costs_eight_passes(model):
    model.prepare_training("full", rank=0, alpha=0.0)
    model.make_reference()
    before = model.network_passes
    batch = pairs(model, 3)
    pair_errors(model, noise_pairs(model, batch, CONTEXT, "uniform"), batch.conditioning_both)
    assert model.network_passes - before == 3 * 8


# ---- timesteps that are spread over the range


def test_spread_timesteps_have_the_distribution_of_the_family_and_lie_evenly(model):
    """Largest distance of the distribution functions of 1,000 draws each: below 0.06 with 95 % if both were random."""
    num, index, latents = 5, torch.arange(200), torch.zeros(200, *model.latent_shape)
    spread = draw_spread_timesteps(model, index, latents, num, CONTEXT)
    plain = torch.cat([draw_timesteps(model, index, latents, CONTEXT, f"draw {n}") for n in range(num)])
    assert torch.equal(spread, spread.sort().values)
    at = plain.unique()
    below = [torch.searchsorted(values.sort().values, at, right=True) / 1000 for values in (spread.flatten(), plain)]
    assert (below[0] - below[1]).abs().max() < 0.06
    # shares of the distribution below neighbouring timesteps of a sample differ by about a fifth
    share = torch.searchsorted(plain.sort().values, spread) / len(plain)
    assert share.diff(dim=1).mean().item() == pytest.approx(1 / num, abs=0.01)
    assert share.diff(dim=1).std() < 0.05
    assert share[:, 0].std().item() == pytest.approx(1 / num / 12**0.5, rel=0.2)


def test_spread_timesteps_depend_on_the_sample_alone(model):
    latents = torch.zeros(4, *model.latent_shape)
    whole = draw_spread_timesteps(model, torch.arange(4), latents, 3, CONTEXT)
    assert torch.equal(whole[2:], draw_spread_timesteps(model, torch.tensor([2, 3]), latents[2:], 3, CONTEXT))
