"""Sample images or videos by a model's pipeline, with a given scheduler, size and guidance."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignbench.models.adapter import ModelAdapter
from alignbench.models.schedulers import check_few_step, check_num_steps, make_scheduler, step_generators

# Pixels that the VAE decodes at once, in whole images: the batch that a denoiser samples may be too large for the
# activations of the decoder, which take gigabytes for one image of 1024 x 1024 pixels.
DECODED_PIXELS = 2**20


def extrapolated(reference: Tensor, prediction: Tensor, strength: float) -> Tensor:
    """Return reference + strength * (prediction - reference), computed in float32 at least, in the dtype of both.

    With classifier-free guidance the two calls of a step are each extrapolated before they are combined. Where guidance
    is linear, that equals guiding policy and start first, each by its own two calls, and extrapolating then.

    Args:
        reference, prediction: of the start and of the policy, for the same noisy latents, timestep and prompt.
        strength: >= 0; 0 gives the reference bit for bit.

    Source: Reinforcement Learning Guidance (arXiv 2508.21016).
    """
    wide = torch.promote_types(prediction.dtype, torch.float32)
    start = reference.to(wide)
    return (start + strength * (prediction.to(wide) - start)).to(prediction.dtype)


class Sampler:
    """Makes images, or videos, from given noise by the pipeline of a model.

    A copy of the pipeline with the same networks is used, so that the current policy samples and the model's own
    pipeline is not changed.

    Args:
        model: the model whose policy samples.
        num_inference_steps: denoising steps.
        guidance_scale, negative_prompt, true_cfg_scale: as for `ModelAdapter.generation_arguments`.
        scheduler: name of one of `ModelAdapter.schedulers`; None for the model's own.
        resolution: side of the images in pixels; None for the model's own.
        strength: how far each prediction goes from that of the start, for which the model needs a `reference`; 1 is the
            policy alone.

    Attributes:
        passes_per_image: forward passes of the network that an image of the last call took, the start's included.

    Raises:
        UserError: the resolution, the scheduler or the number of steps does not fit the model.
    """

    def __init__(
        self,
        model: ModelAdapter,
        num_inference_steps: int,
        guidance_scale: float,
        scheduler: str | None = None,
        negative_prompt: str | None = None,
        true_cfg_scale: float | None = None,
        resolution: int | None = None,
        strength: float = 1.0,
    ) -> None:
        self.model = model
        self.strength = strength
        self.passes_per_image = 0
        self.resolution = model.resolution if resolution is None else resolution
        model.check_resolution(self.resolution, "sampling.resolution")
        self.num_inference_steps = num_inference_steps
        self.guidance = (guidance_scale, negative_prompt, true_cfg_scale)
        self.pipeline = model.pipeline
        check_few_step(model.published_scheduler, scheduler)
        if scheduler is not None:
            self.pipeline = copy.copy(model.pipeline)
            self.pipeline.scheduler = make_scheduler(scheduler, model.pipeline.scheduler, model.schedulers)
        check_num_steps(self.pipeline.scheduler, num_inference_steps)
        model.check_num_steps(num_inference_steps)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one image or video."""
        return self.model.latent_shape_at(self.resolution)

    @torch.no_grad()
    def __call__(self, keys: Sequence[tuple[str, int]], prompts: Sequence[str], noise: Tensor) -> list[np.ndarray]:
        """Return one image for each prompt, uint8, [H, W, 3]; of a model of videos one video, [T, H, W, 3].

        Args:
            keys: prompt id and image number of each image.
            noise: [B, *latent_shape], unit Gaussian.
        """
        calls = [(keys, prompts, noise)]
        if self.model.samples_alone:
            calls = [(keys[row : row + 1], prompts[row : row + 1], noise[row : row + 1]) for row in range(len(keys))]
        with self._away_from_start():
            latents = torch.cat([self._latents(*call) for call in calls])
        self.passes_per_image = self.pipeline.num_timesteps * self.passes_per_step
        return [picture for some in latents.split(self._num_decoded) for picture in self._pictures(some)]

    @property
    def _num_decoded(self) -> int:
        """Images or videos that the VAE decodes at once."""
        return max(1, DECODED_PIXELS // (self.resolution**2 * self.model.num_frames))

    def _pictures(self, latents: Tensor) -> Iterator[np.ndarray]:
        """Yield the images or videos of latents [B, *latent_shape] in 8 bits a channel."""
        pixels = self.model.decode_latents(latents, vae=self.pipeline.vae)
        levels = (pixels.movedim(-3, -1) * 255).round().nan_to_num(nan=0.0)  # black, which tells of such values
        yield from levels.to(torch.uint8).contiguous().cpu().numpy()

    def _latents(self, keys: Sequence[tuple[str, int]], prompts: Sequence[str], noise: Tensor) -> Tensor:
        """Return what one call of the pipeline makes, [B, *latent_shape]."""
        model = self.model
        generators = step_generators(self.pipeline.scheduler, noise)
        packed = self.pipeline(
            prompt=model.shortened(prompts),
            latents=model.pack(noise).to(model.device, model.sampling_dtype),
            num_inference_steps=self.num_inference_steps,
            output_type="latent",  # pipelines cannot decode by a float32 VAE with a 16-bit network
            **model.size_arguments(self.resolution, self.resolution),
            **model.generation_arguments(len(prompts), *self.guidance),
            **self.inputs(keys) | ({} if generators is None else {"generator": generators}),
            return_dict=False,
        )[0]
        return model.unpack(packed, noise.shape[-2:])

    @property
    def passes_per_step(self) -> int:
        """Forward passes of the network that one image takes in one step."""
        guidance_scale, _, true_cfg_scale = self.guidance
        is_guided = true_cfg_scale is not None or self.model.is_guided(guidance_scale)
        return (2 if is_guided else 1) * (1 if self.strength == 1 else 2)

    @contextmanager
    def _away_from_start(self) -> Iterator[None]:
        """Let the network return its prediction at `strength`, to whichever pipeline calls it."""
        if self.strength == 1:
            yield
            return

        def at_strength(network: Any, args: Any, kwargs: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
            with self.model.reference():
                reference, *_ = self.model.policy.forward(*args, **kwargs)  # past this hook
            prediction, *others = output
            if isinstance(prediction, list):  # of one row each, as Z-Image's network returns them
                rows = zip(reference, prediction, strict=True)
                return ([extrapolated(*row, self.strength) for row in rows], *others)
            return (extrapolated(reference, prediction, self.strength), *others)

        handle = self.model.denoiser.register_forward_hook(at_strength, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def inputs(self, keys: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Return further arguments of the pipeline's call."""
        return {}
