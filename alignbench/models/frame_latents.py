"""Latents of VAEs that were made for videos: codes have a frame axis, and each channel has a mean and a scale."""

from typing import Any

import torch
from torch import Tensor

from alignbench.models.latents import LatentSpace


class FrameLatents(LatentSpace):
    """The latents of a VAE such as those of Qwen-Image and Wan; an image is a video of one frame."""

    takes_reward_vae = False

    def posterior_of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the codes of one frame, [B, C, h, w] each."""
        posterior = self.pipeline.vae.encode(pixels[:, :, None]).latent_dist
        return posterior.mean[:, :, 0], posterior.std[:, :, 0]

    def normalise(self, codes: Tensor) -> Tensor:
        """Return codes with mean 0 and standard deviation 1 in each channel, as published with the VAE."""
        mean, std = self._channels(codes)
        return (codes - mean) / std

    def denormalise(self, latents: Tensor, vae: Any) -> Tensor:
        """Undo `normalise`."""
        mean, std = self._channels(latents)
        return latents * std + mean

    def decode(self, latents: Tensor, vae: Any) -> Tensor:
        """Return the only frame, [B, 3, H, W]."""
        codes = self.denormalise(latents, vae)
        return vae.decode(codes[:, :, None], return_dict=False)[0][:, :, 0]

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.pipeline.vae.config.z_dim

    def _channels(self, like: Tensor) -> list[Tensor]:
        """Return mean and standard deviation of each channel, [C, 1, 1] each."""
        config = self.pipeline.vae.config
        return [torch.tensor(one).to(like)[:, None, None] for one in (config.latents_mean, config.latents_std)]
