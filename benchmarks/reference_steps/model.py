"""The networks of one model, called as published training scripts call them: nothing is kept between two calls."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from alignbench.batch import Conditioning
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.models.adapter import ModelAdapter


@dataclass(frozen=True)
class Sample:
    """One entry of the training data.

    Attributes:
        index: its number, which draws may be keyed by.
        prompt: its text.
        files: of its images; of a pair the winner's first.
        desirable: label of a single image.
        scores: of the images of a pair, as a scorer gave them before training.
    """

    index: int
    prompt: str
    files: tuple[Path, ...] = ()
    desirable: bool = True
    scores: tuple[float, ...] = ()


class Draws:
    """Fresh random numbers, as published scripts draw them. Tests put the draws of the program in their place."""

    def noise(self, rows: Sequence[int], shape: Sequence[int], purpose: str = "noise") -> Tensor:
        """Return Gaussian noise [B, *shape], one row for each sample number in `rows`."""
        return torch.randn(len(rows), *shape)

    def shared_noise(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Return one Gaussian noise for all samples of an update, `shape`."""
        return torch.randn(*shape)

    def uniform(self, rows: Sequence[int], purpose: str) -> Tensor:
        """Return numbers in 0..1, [B], float64."""
        return torch.rand(len(rows), dtype=torch.float64)

    def timesteps(self, adapter: ModelAdapter, rows: Sequence[int]) -> Tensor:
        """Return training timesteps of the model's family, [B], float64."""
        return adapter.sample_timesteps(len(rows), torch.default_generator)

    def points(self, adapter: ModelAdapter, rows: Sequence[int], num: int) -> Tensor:
        """Return the timesteps of `num` visits of each sample, [B, num], float64."""
        return torch.stack([self.timesteps(adapter, rows) for _ in range(num)], dim=1)

    def order(self, rows: Sequence[int], num: int) -> Tensor:
        """Return the numbers below `num` in a random order for each sample, [B, num], int64."""
        return torch.stack([torch.randperm(num) for _ in rows])


class PlainModel:
    """A model whose whole denoiser is trained.

    Args:
        adapter: of the model, for this object alone.
        reference: whether to keep a frozen copy of the start.
        old: whether to keep a copy that follows the policy.
    """

    def __init__(self, adapter: ModelAdapter, reference: bool = False, old: bool = False) -> None:
        adapter.prepare_training("full", rank=1, alpha=1.0)
        self.adapter = adapter
        self.policy: nn.Module = adapter.denoiser
        self.parameters = [p for p in self.policy.parameters() if p.requires_grad]
        self.reference = copy.deepcopy(self.policy).requires_grad_(False) if reference else self.policy
        self.old = copy.deepcopy(self.policy).requires_grad_(False) if old else self.policy
        self._noise_levels: dict[int, NoiseLevels] = {}

    # ---- text and images

    @cached_property
    def no_prompt(self) -> Conditioning:
        """What guidance goes away from, which scripts encode once."""
        return self.adapter.encode_no_prompt()

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Run the text encoders, without a gradient."""
        return self.adapter.encode_prompts(list(prompts))

    @torch.no_grad()
    def encode_images(self, files: Sequence[Path], mirrored: Sequence[bool], noise: Tensor) -> Tensor:
        """Decode, resize, crop and mirror images, and draw latents from the VAE's posterior, [B, C, h, w].

        Args:
            noise: of the draw, [B, C, h, w].
        """
        pixels = torch.stack([self._pixels(file, flip) for file, flip in zip(files, mirrored, strict=True)])
        mean, std = self.adapter.encode_posterior(pixels)
        return self.adapter.normalise(mean + std * noise)

    def _pixels(self, file: Path, mirror: bool) -> Tensor:
        side = self.adapter.resolution
        with Image.open(file) as image:
            picture = image.convert("RGB")
        scale = side / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR
        )
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
        if mirror:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels in 0..1, [B, 3, H, W], with a gradient."""
        return self.adapter.decode_latents(latents)

    # ---- the noise process

    def coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at timesteps [B], shaped [B, 1, 1, 1], float32: x_t = alpha x_0 + sigma noise."""
        if self.is_flow:
            sigma = timesteps / 1000
            alpha = 1 - sigma
        else:
            alphas_cumprod = self.adapter.pipeline.scheduler.alphas_cumprod[timesteps.long()]
            alpha, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
        return alpha.float().reshape(-1, 1, 1, 1), sigma.float().reshape(-1, 1, 1, 1)

    @property
    def is_flow(self) -> bool:
        """Whether the network predicts velocities."""
        return self.prediction_type == "velocity"

    @property
    def prediction_type(self) -> str:
        """What the network predicts: epsilon, v_prediction or velocity."""
        return self.adapter.schedule.prediction_type

    def noise_levels(self, num_steps: int) -> NoiseLevels:
        """Return the levels that the model's own sampler visits, which scripts set once."""
        if num_steps not in self._noise_levels:
            self._noise_levels[num_steps] = self.adapter.noise_levels(num_steps)
        return self._noise_levels[num_steps]

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what a perfect network predicts."""
        if self.prediction_type == "epsilon":
            return noise
        if self.is_flow:
            return noise - latents
        alpha, sigma = self.coefficients(timesteps)
        return alpha * noise - sigma * latents

    def split(self, noisy: Tensor, prediction: Tensor, alpha: Any, sigma: Any) -> tuple[Tensor, Tensor]:
        """Return the latents and the noise that a prediction takes noisy latents to consist of."""
        if self.prediction_type == "epsilon":
            return (noisy - sigma * prediction) / alpha, prediction
        if self.is_flow:
            return noisy - sigma * prediction, noisy + alpha * prediction
        return alpha * noisy - sigma * prediction, sigma * noisy + alpha * prediction

    # ---- the network

    def predict(
        self,
        network: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> Tensor:
        """Return what a network predicts, [B, C, h, w].

        Args:
            network: the policy, the reference or the old policy.
            timesteps: [] or [B].
            guidance: classifier-free guidance of two rows an image; or the input of a guidance-distilled network.
        """
        adapter, num = self.adapter, len(noisy)
        adapter.policy = network
        timesteps = timesteps.double().expand(num)
        if adapter.guidance_is_distilled:
            scale = adapter.train_guidance_scale if guidance is None else guidance
            assert scale is not None
            return adapter.forward(noisy, timesteps, conditioning, torch.full((num,), float(scale)))
        if guidance is None or not adapter.is_guided(guidance):
            return adapter.forward(noisy, timesteps, conditioning, None)
        both = Conditioning.cat([self.no_prompt.repeat(num), conditioning])
        empty, full = adapter.forward(torch.cat([noisy] * 2), timesteps.repeat(2), both, None).chunk(2)
        return adapter.guide(full, empty, adapter.guidance_weight(guidance))

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        noise: Tensor,
        conditioning: Conditioning,
        num_steps: int,
        stop: int,
        guidance: float | None,
    ) -> Tensor:
        """Take the first `stop` of `num_steps` deterministic sampling steps (DDIM, flow Euler) from noise."""
        latents = noise
        for number in range(stop):
            latents = self.step(network, latents, conditioning, num_steps, number, guidance)
        return latents

    def step(
        self,
        network: nn.Module,
        noisy: Tensor,
        conditioning: Conditioning,
        num_steps: int,
        number: int,
        guidance: float | None,
    ) -> Tensor:
        """Take one deterministic sampling step."""
        levels = self.noise_levels(num_steps)
        alpha, sigma = levels.level.alpha.float(), levels.level.sigma.float()
        prediction = self.predict(network, noisy, levels.timesteps[number], conditioning, guidance)
        latents, predicted_noise = self.split(noisy, prediction, alpha[number], sigma[number])
        return alpha[number + 1] * latents + sigma[number + 1] * predicted_noise
