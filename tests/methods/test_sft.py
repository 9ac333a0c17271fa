import itertools
import math

import pytest
import torch
from torch import nn

from alignbench.batch import ImageBatch, LabelledBatch, PairBatch
from alignbench.objectives.denoising_error import noise_images
from methods.base import Base
from methods.sft import SFT, LabelledSFT, sft_loss

OPTIONS = {"error_weighting": "uniform", "snr_gamma": 5.0, "normalise": "selected", "prompt_dropout": 0.0}


def sft(variant="chosen", kind=SFT, **options):
    return kind("sft", variant, **OPTIONS | options)


class Zero(nn.Module):
    def forward(self, noisy_latents, timesteps):
        return torch.zeros_like(noisy_latents)


# ---- the pure function


@pytest.mark.parametrize("normalise", ["selected", "batch"])
def test_dividing_by_the_batch_scales_the_loss_by_the_share_of_selected_images(normalise):
    error, selected = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([True, False, True, False])
    values, weights = sft_loss(error, selected, normalise)
    expected = 2.5 if normalise == "selected" else 2.5 * 2 / 4
    assert ((values * weights).sum() / weights.sum()).item() == expected


def test_with_all_images_selected_both_divisions_agree():
    error, everything = torch.rand(5), torch.ones(5, dtype=torch.bool)
    for values, weights in (sft_loss(error, everything, normalise) for normalise in ("selected", "batch")):
        assert torch.equal(values, error)
        assert torch.equal(weights, torch.ones(5))


# ---- known networks


@pytest.mark.parametrize("prediction_type", ["epsilon", "velocity"])
def test_a_silent_network_has_the_error_of_the_target_itself(kit, prediction_type):
    """mean(noise^2) = 1 for epsilon, and 1 + mean(latents^2) for velocity, within three standard errors."""
    model = kit.ToyModel(Zero(), prediction_type, shape=(4, 16, 16))
    batch = kit.batch(PairBatch, model, num=100)
    loss = sft().loss(model, batch, kit.context())
    expected = 1 + (batch.latents_w.square().mean().item() if prediction_type == "velocity" else 0)
    assert loss.values.mean().item() == pytest.approx(expected, abs=3 * math.sqrt(2) * expected / math.sqrt(100 * 1024))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "velocity"])
def test_a_perfect_network_has_no_error_and_no_gradient_at_any_timestep(kit, prediction_type):
    model = kit.ToyModel(nn.Identity(), prediction_type)
    batch, context = kit.batch(PairBatch, model, num=8), kit.context()
    images = ImageBatch(batch.index, batch.prompts, batch.conditioning, batch.latents_w)
    output = noise_images(model, images, context, "uniform").target.requires_grad_()
    model.forward = lambda *inputs: output
    loss = sft().loss(model, batch, context)
    loss.values.sum().backward()
    assert torch.equal(loss.values, torch.zeros(8))
    assert output.grad is not None
    assert torch.equal(output.grad, torch.zeros_like(output))


def test_descent_reaches_the_posterior_mean_of_gaussian_data(kit):
    """Data N(0, s^2), prediction = a x: the best a is cov(noise, x) / var(x) = sigma / (alpha^2 s^2 + sigma^2)."""
    spread = 1.5
    model = kit.ToyModel(kit.Linear(0.0), "epsilon", shape=(4, 16, 16))
    model.sample_timesteps = lambda num, generator, latent_size: torch.full((num,), 400.0)
    level = model.schedule.level(torch.tensor(400.0))
    expected = level.sigma / (level.alpha**2 * spread**2 + level.sigma**2)

    batch = kit.batch(PairBatch, model, num=64, dtype=torch.float64)
    latents, noise = spread * batch.latents_w, kit.context().noise(batch.index, model.latent_shape).double()
    # the sample at hand made to have the moments of the population exactly
    latents = latents * spread / latents.square().mean().sqrt()
    latents = latents - noise * (latents * noise).mean() / noise.square().mean()
    latents = latents * spread / latents.square().mean().sqrt()
    scale = noise.square().mean().sqrt()
    batch = PairBatch(batch.index, batch.prompts, batch.conditioning, latents * scale, latents, batch.probability_w)

    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.2)
    for _ in range(60):
        kit.backward(sft(), model, batch, kit.context(micro_batch_size=64))
        optimizer.step()
    assert model.network.a.item() == pytest.approx(expected.item(), abs=1e-4)


# ---- which images


def test_chosen_trains_on_winners_alone_and_all_on_both(make_model, kit):
    model = make_model(reference=False)
    batch, context = kit.batch(PairBatch, model), kit.context()
    other = PairBatch(
        batch.index, batch.prompts, batch.conditioning, batch.latents_w, 2 * batch.latents_l, batch.probability_w
    )
    chosen = [kit.backward(sft("chosen"), model, pairs, context)[0]["loss"] for pairs in (batch, other)]
    everything = [kit.backward(sft("all"), model, pairs, context)[0]["loss"] for pairs in (batch, other)]
    assert torch.equal(*chosen)
    assert len(everything[0]) == 8
    torch.testing.assert_close(everything[0][:4], chosen[0])
    assert not torch.equal(everything[0][4:], everything[1][4:])


def test_labelled_images_count_only_if_desirable(make_model, kit):
    model = make_model(reference=False)
    batch, context = kit.batch(LabelledBatch, model), kit.context()
    loss = sft(kind=LabelledSFT).loss(model, batch, context)
    assert torch.equal(loss.weights > 0, batch.desirable)
    assert torch.equal(sft("all", LabelledSFT).loss(model, batch, context).weights, torch.ones(4))


@pytest.mark.parametrize("normalise", ["selected", "batch"])
def test_one_by_one_and_four_by_two_make_the_same_step_with_uneven_selections(make_model, kit, normalise):
    """Three of eight images are selected, unevenly over the parts: one shared denominator is what makes it so."""
    model = make_model(reference=False)
    batch, method = kit.batch(LabelledBatch, model, num=8), sft(kind=LabelledSFT, normalise=normalise)
    gradients = []
    for micro_batch_size in (8, 1, 2):
        kit.backward(method, model, batch, kit.context(micro_batch_size=micro_batch_size))
        gradients.append(kit.gradient(model))
    for one, other in itertools.pairwise(gradients):
        assert (one - other).norm() < 1e-5 * one.norm()


def test_the_denoiser_needs_no_reference(make_model, kit):
    model = make_model(reference=False)
    assert not SFT.needs_reference
    kit.backward(sft(), model, kit.batch(PairBatch, model), kit.context())
    assert kit.gradient(model).norm() > 0
    assert model.network_passes == 4 * 3


def test_unknown_choices_are_named():
    with pytest.raises(ValueError, match=r"method.variant=winners is unknown; available: chosen, all"):
        sft("winners")
    with pytest.raises(ValueError, match=r"method.normalise=mean is unknown; available: selected, batch"):
        sft(normalise="mean")


def test_the_untouched_model_does_not_train():
    assert SFT.trains
    assert not Base.trains
    with pytest.raises(RuntimeError, match="does not train"):
        Base("base").loss(None, None, None)
