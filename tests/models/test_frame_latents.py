"""Latents of VAEs for videos are normalised by channel, and a picture is their only frame."""

import pytest
import torch

from alignbench.models.find_families import FAMILIES
from alignbench.models.frame_latents import FrameLatents
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter

WITH_FRAMES = [name for name, family in FAMILIES.items() if issubclass(family, FrameLatents)]


@pytest.mark.parametrize("family", WITH_FRAMES)
def test_each_channel_has_its_own_mean_and_scale(family):
    model = tiny_adapter(family)
    vae = model.pipeline.vae
    pixels = torch.rand(2, 3, RESOLUTION, RESOLUTION)
    video = (pixels * 2 - 1)[:, :, None]
    if vae.config.get("in_channels", 3) == 4:  # opacity
        video = torch.cat([video, torch.ones_like(video[:, :1])], dim=1)
    mode = vae.encode(video).latent_dist.mode()
    mean, _ = model.encode_posterior(pixels)
    latents = model.latents_of(mean)
    for channel in range(model.latent_channels):
        shift, scale = vae.config.latents_mean[channel], vae.config.latents_std[channel]
        torch.testing.assert_close(latents[:, channel], (mode[:, channel, 0] - shift) / scale)
    torch.testing.assert_close(model.denormalise(latents, vae), mean)
    assert len(set(vae.config.latents_mean)) > 1
    assert len(set(vae.config.latents_std)) > 1
