"""Latents of VAEs that were made for videos: codes have a frame axis, and each channel has a mean and a scale.

A model of images has neither pixels nor latents with a frame axis: an image is a video of one frame for the VAE alone.
"""

from typing import Any

import torch
from torch import Tensor

from alignbench.models.latents import LatentSpace


class FrameLatents(LatentSpace):
    """The latents of a VAE such as those of Qwen-Image and Wan."""

    takes_reward_vae = False

    def with_frame_axis(self, latents: Tensor) -> Tensor:
        """Return latents, codes or pixels, [B, C, ...], as VAE and network have them: as videos, [B, C, F, h, w]."""
        return latents[:, :, None] if self.num_frames == 1 else latents

    def without_frame_axis(self, videos: Tensor) -> Tensor:
        """Undo `with_frame_axis`."""
        return videos[:, :, 0] if self.num_frames == 1 else videos

    def posterior_of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the codes, [B, *latent_shape] each.

        Args:
            pixels: in -1..1, [B, 3, H, W], or [B, T, 3, H, W] for a model of videos.
        """
        videos = pixels if self.num_frames == 1 else pixels.transpose(1, 2)
        posterior = self.pipeline.vae.encode(self.with_frame_axis(videos)).latent_dist
        return self.without_frame_axis(posterior.mean), self.without_frame_axis(posterior.std)

    def normalise(self, codes: Tensor) -> Tensor:
        """Return codes with mean 0 and standard deviation 1 in each channel, as published with the VAE."""
        mean, std = self._channels(codes)
        return (codes - mean) / std

    def denormalise(self, latents: Tensor, vae: Any) -> Tensor:
        """Undo `normalise`."""
        mean, std = self._channels(latents)
        return latents * std + mean

    def decode(self, latents: Tensor, vae: Any) -> Tensor:
        """Return pixels in -1..1, [B, 3, H, W], or [B, T, 3, H, W] for a model of videos."""
        codes = self.with_frame_axis(self.denormalise(latents, vae))
        videos = self.without_frame_axis(vae.decode(codes, return_dict=False)[0])
        return videos if self.num_frames == 1 else videos.transpose(1, 2)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.pipeline.vae.config.z_dim

    def _channels(self, like: Tensor) -> list[Tensor]:
        """Return mean and standard deviation of each channel, to meet latents [B, C, ...]."""
        config = self.pipeline.vae.config
        shape = (-1, *(1,) * (like.ndim - 2))
        return [torch.tensor(one).to(like).reshape(shape) for one in (config.latents_mean, config.latents_std)]
