"""Wan with several frames: latents and pixels have a frame axis, and are those of its pipeline."""

import pytest
import torch

from alignbench.errors import UserError
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter
from alignbench.training.memory_estimate import _decode_activations, _network_activations
from tests.of_the_pipeline import latents_of
from tests.videos import NUM_FRAMES, tiny_video_model

PROMPTS = ["a red circle", "a blue square left of a green cross"]
NUM_STEPS = 4


@pytest.fixture(scope="module")
def model():
    return tiny_video_model()


def noise_for(model):
    return torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def sampled(model, noise, prompts, scale):
    conditioning = model.encode_prompts(prompts)
    guidance = {"guidance_scale": scale, "unconditional": model.unconditional(scale, conditioning)}
    return model.sample(noise, conditioning, model.noise_levels(NUM_STEPS), **guidance).latents


def test_latents_have_a_frame_for_the_first_frame_and_one_for_every_four_that_follow(model):
    assert model.latent_shape == (4, 3, RESOLUTION // 8, RESOLUTION // 8)
    assert tiny_video_model(5).latent_shape_at(64, 32) == (4, 2, 8, 4)
    assert tiny_video_model(1).latent_shape == tiny_adapter("wan").latent_shape == (4, 4, 4)
    assert model.num_tokens() == 3 * tiny_video_model(1).num_tokens() == 12


@pytest.mark.parametrize("num_frames", [6, 8])
def test_another_number_of_frames_is_refused(num_frames):
    with pytest.raises(UserError, match=rf"model\.num_frames={num_frames} must be one more than a multiple of 4"):
        tiny_video_model(num_frames)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_sampling_and_decoding_give_the_frames_of_the_pipeline(model, scale):
    noise = noise_for(model)
    ours = sampled(model, noise, PROMPTS, scale)
    arguments = model.generation_arguments(len(PROMPTS), scale)
    theirs = latents_of(model, PROMPTS, noise, num_inference_steps=NUM_STEPS, **arguments)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)
    frames = model.pipeline(
        prompt=PROMPTS, latents=noise, num_inference_steps=NUM_STEPS, output_type="np",
        **model.size_arguments(RESOLUTION, RESOLUTION), **arguments,
    ).frames  # fmt: skip
    pixels = model.decode_latents(ours)
    assert pixels.shape == (2, NUM_FRAMES, 3, RESOLUTION, RESOLUTION)
    assert abs(pixels.permute(0, 1, 3, 4, 2).numpy() - frames).max() < 1e-5
    assert pixels.std(dim=1).max() > 1e-3  # frames differ


def test_a_batch_gives_what_its_videos_give_one_by_one(model):
    noise = noise_for(model)
    together = sampled(model, noise, PROMPTS, 4.0)
    alone = [sampled(model, noise[row : row + 1], PROMPTS[row : row + 1], 4.0) for row in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=5e-6)


def test_videos_are_encoded_as_by_the_vae_and_each_channel_has_its_own_mean_and_scale(model):
    vae = model.pipeline.vae
    pixels = torch.rand(2, NUM_FRAMES, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(1))
    posterior = vae.encode((pixels * 2 - 1).transpose(1, 2)).latent_dist
    mean, std = model.encode_posterior(pixels)
    assert torch.equal(mean, posterior.mean)
    assert torch.equal(std, posterior.std)
    latents = model.latents_of(mean)
    assert latents.shape == (2, *model.latent_shape)
    for channel in range(model.latent_channels):
        shift, scale = vae.config.latents_mean[channel], vae.config.latents_std[channel]
        torch.testing.assert_close(latents[:, channel], (mean[:, channel] - shift) / scale)


def test_one_frame_is_encoded_as_the_first_of_many(model):
    """The VAE is causal: what follows a frame does not change its code. So one code path serves images and videos."""
    pixels = torch.rand(1, NUM_FRAMES, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(1))
    first, _ = tiny_adapter("wan").encode_posterior(pixels[:, 0])
    torch.testing.assert_close(model.encode_posterior(pixels)[0][:, :, 0], first)


def test_every_frame_of_the_latents_gets_a_gradient_and_checkpointing_changes_none(model):
    gradients = []
    for checkpoints in (False, True):
        model.enable_checkpointing(network=False, decoder=checkpoints)
        latents = noise_for(model).requires_grad_()
        model.decode_latents(latents).square().mean().backward()
        gradients.append(latents.grad)
    assert (gradients[0].abs().amax(dim=(0, 1, 3, 4)) > 0).all()
    assert torch.equal(*gradients)


def test_memory_is_estimated_for_all_frames():
    models = [tiny_video_model(num_frames) for num_frames in (1, 5, 9)]
    size = (RESOLUTION, RESOLUTION)
    for model in models:
        model.denoiser.requires_grad_()
    network = [_network_activations(model, 1, size, checkpointing=False).num_bytes for model in models]
    decoder = [_decode_activations(model, 1, checkpointing=False).num_bytes for model in models]
    assert network[0] < network[1] < network[2]
    assert network[2] - network[1] == pytest.approx(network[1] - network[0], rel=0.1)  # as many tokens more
    assert 2 * decoder[0] < decoder[1] < decoder[2]
