"""Pixels to latents and back, by a pipeline's VAE or a smaller one, and how large latents are.

A VAE has codes; latents are codes that were shifted and scaled, as the denoiser expects them. What a family does in
another way than most it says in `posterior_of`, `normalise`, `denormalise` and `decode`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils.checkpoint import checkpoint

from alignbench.errors import UserError
from alignbench.models.weights.without_weights import is_without_weights

ROWS_PER_CALL = 8  # most prompts or images in a call of an encoder; another number changes last bits of results
PIXELS_PER_CALL = 512 * 512  # one image of 512 px, so that full-size models need no more memory


def to_tokens(latents: Tensor, patch_size: int) -> Tensor:
    """Return [B, C, h, w] as tokens, one for each patch: [B, h/p * w/p, C * p * p]."""
    return pixel_unshuffle(latents, patch_size).flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, latent_size: Sequence[int], patch_size: int) -> Tensor:
    """Return the tokens of latents of this height and width as [B, C, h, w]."""
    rows = latent_size[0] // patch_size
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, -1)), patch_size)


class PackedLatents:
    """Latents of a family whose pipeline takes tokens; `patch_size` is that of the latent space."""

    patch_size: ClassVar[int]

    def pack(self, latents: Tensor) -> Tensor:
        """Return [B, C, h, w] as one token for each patch."""
        return to_tokens(latents, self.patch_size)

    def unpack(self, packed: Tensor, latent_size: Sequence[int]) -> Tensor:
        """Return the tokens of latents of this height and width as [B, C, h, w]."""
        return from_tokens(packed, latent_size, self.patch_size)


class LatentSpace(ABC):
    """The latents of a model adapter, which sets the attributes.

    Attributes:
        pipeline: the diffusers pipeline whose VAE encodes and decodes.
        reward_vae: decodes for losses in place of the pipeline's VAE; None where that does it itself.
        resolution: side of the square images, in pixels.
        num_frames: frames of a video; 1 for images, whose pixels and latents have no frame axis.
        patch_size: latent pixels along the side of one network token.
        checkpoints_decoding: whether decoding keeps no activations and computes them anew in the backward pass, for
            VAEs that cannot do so block by block.
    """

    pipeline: Any
    reward_vae: Any
    resolution: int
    num_frames: int = 1
    patch_size: ClassVar[int]
    has_posterior: ClassVar[bool] = True  # whether the VAE has a distribution of codes; if not, its deviation is 0
    takes_reward_vae: ClassVar[bool] = True  # whether tiny VAEs of diffusers decode the family's latents
    checkpoints_decoding: bool = False

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the networks work."""

    @torch.no_grad()
    def encode_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the VAE's codes, as the VAE has them, [B, *latent_shape] each.

        Args:
            pixels: in 0..1, [B, 3, H, W], or [B, T, 3, H, W] for a model of videos.
        """
        vae = self.pipeline.vae
        self._refuse_dropped(vae)
        with self._vae_precision():
            return self.posterior_of(pixels.to(vae.dtype) * 2 - 1)

    def posterior_of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of what `normalise` takes for pixels in -1..1, [B, C, h, w] each."""
        posterior = self.pipeline.vae.encode(pixels).latent_dist
        return posterior.mean, posterior.std

    def latents_of(self, mean: Tensor, std: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return latents, float32, of a posterior: the draw that `noise` makes of it, or without noise its mode.

        A draw is the same on any device: what is done to each number is rounded alike.
        """
        codes = mean
        if noise is not None:
            assert std is not None
            codes = mean + std * noise
        return self.normalise(codes.float())

    def normalise(self, codes: Tensor) -> Tensor:
        """Return the latents of codes."""
        config = self.pipeline.vae.config
        return (codes - (config.shift_factor or 0.0)) * config.scaling_factor

    def denormalise(self, latents: Tensor, vae: Any) -> Tensor:
        """Return the codes of latents for a VAE, which says itself how its codes are scaled."""
        return latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)

    @property
    def loss_vae(self) -> Any:
        """The VAE that decodes for losses."""
        return self.pipeline.vae if self.reward_vae is None else self.reward_vae

    def decode_latents(self, latents: Tensor, vae: Any = None) -> Tensor:
        """Return pixels in 0..1 (clamped), float32, of latents; differentiable.

        Args:
            vae: which one decodes; that for losses by default.

        Returns:
            [B, 3, H, W], or [B, T, 3, H, W] for a model of videos.
        """
        vae = self.loss_vae if vae is None else vae
        self._refuse_dropped(vae)
        with self._vae_precision():
            latents = latents.to(vae.dtype)
            if self.checkpoints_decoding:
                pixels = cast(Tensor, checkpoint(self.decode, latents, vae, use_reentrant=False))
            else:
                pixels = self.decode(latents, vae)
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def decode(self, latents: Tensor, vae: Any) -> Tensor:
        """Return what a VAE makes of latents of its dtype: pixels in -1..1, [B, 3, H, W]."""
        return vae.decode(self.denormalise(latents, vae), return_dict=False)[0]

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.pipeline.vae.config.latent_channels

    @property
    def latent_factor(self) -> int:
        """Pixels along the side of one latent pixel."""
        return self.pipeline.vae_scale_factor

    @property
    def num_latent_frames(self) -> int:
        """Frames of the latents of one video."""
        return self.num_frames

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the latents of one image; of one video channels, frames, height and width."""
        return self.latent_shape_at(self.resolution)

    def latent_shape_at(self, height: int, width: int | None = None) -> tuple[int, ...]:
        """Return `latent_shape` of images or videos of so many pixels, by default squares."""
        factor = self.latent_factor
        frames = () if self.num_frames == 1 else (self.num_latent_frames,)
        return self.latent_channels, *frames, height // factor, (width or height) // factor

    @property
    def images_per_call(self) -> int:
        """Images that the VAE encodes together: 8, or as many as have 512 x 512 pixels, and at least one."""
        return max(1, min(ROWS_PER_CALL, PIXELS_PER_CALL // (self.num_frames * self.resolution**2)))

    @property
    def side_multiple(self) -> int:
        """What sides in pixels are multiples of, so that they make whole tokens."""
        return self.latent_factor * self.patch_size

    @property
    def longest_side(self) -> int | None:
        """Pixels along the longest side that the network takes; None for no limit."""
        return None

    def check_resolution(self, resolution: int, name: str) -> None:
        """Refuse sides in pixels that do not make whole tokens; `name` is the key they were given under."""
        if resolution % self.side_multiple:
            raise UserError(f"{name}={resolution} does not fit the model; choose a multiple of {self.side_multiple}")

    def num_tokens(self, latent_size: Sequence[int] | None = None) -> int:
        """Return how many tokens a transformer makes of latents of a height and width; by default the model's own."""
        height, width = latent_size or self.latent_shape[-2:]
        return self.num_latent_frames * height * width // self.patch_size**2

    def _refuse_dropped(self, network: nn.Module) -> None:
        if is_without_weights(network):
            raise RuntimeError(
                f"the {type(network).__name__} was left out of training from a cache, and something calls it; a method "
                "that decodes images sets reads_pixels"
            )

    def _vae_precision(self) -> torch.autocast:
        """Keep a surrounding autocast away: SDXL's VAE overflows in half precision, and rewards see every rounding."""
        return torch.autocast(self.device.type, enabled=False)
