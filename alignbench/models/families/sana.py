"""Sana: a transformer with linear attention over strongly compressed latents, features of Gemma 2, rectified flow."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.diffusion.flow_matching import as_flow_euler
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.schedulers import OF_FLOW

SIDE_MULTIPLE = 32  # of images in pixels, whatever the VAE


class Sana(FlowAdapter):
    """Sana and Sana 1.5 of all sizes; Sana Sprint has a pipeline of its own.

    Args:
        max_sequence_length: tokens of a prompt, the mark of its beginning included.
    """

    pipeline_class = "SanaPipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    pads_prompts = False
    published_schedulers = OF_FLOW | {"DPMSolverMultistep"}
    has_posterior = False
    takes_reward_vae = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.pipeline.tokenizer is not None:  # the pipeline does so too, but only when it encodes
            self.pipeline.tokenizer.padding_side = "right"

    # ---- text

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return Gemma's last hidden states of the prompts, which it read after the pipeline's instruction."""
        call = inspect.signature(type(self.pipeline).__call__).parameters
        return self._encode(prompts, call["complex_human_instruction"].default)

    @torch.no_grad()
    def encode_no_prompt(self) -> Conditioning:
        """Return the hidden states of the empty prompt, which has no instruction before it."""
        return self._encode([""], None)

    def _encode(self, prompts: Sequence[str], instruction: list[str] | None) -> Conditioning:
        embeds, mask, *_ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=instruction,
        )
        return Conditioning.of_rows(Conditioning(embeds, text_mask=mask.bool()).text_rows)

    @property
    def prompt_limits(self) -> dict[str, int]:
        return {"tokenizer": self.max_sequence_length - 1}  # one place goes to the last token of the instruction

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the largest shapes that `encode_prompts` returns."""
        width = self.denoiser.config.caption_channels
        return Conditioning(self._zeros(num_prompts, self.max_sequence_length, width))

    # ---- latents

    def posterior_of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes of pixels and zeros: an image has one code."""
        codes = self.pipeline.vae.encode(pixels).latent
        return codes, torch.zeros_like(codes)

    def normalise(self, codes: Tensor) -> Tensor:
        """Return the latents of codes, which are scaled and not shifted."""
        return codes * self.pipeline.vae.config.scaling_factor

    def denormalise(self, latents: Tensor, vae: Any) -> Tensor:
        """Undo `normalise`."""
        return latents / vae.config.scaling_factor

    @property
    def side_multiple(self) -> int:
        """What sides in pixels are multiples of: of what the pipeline asks for at least."""
        return max(super().side_multiple, SIDE_MULTIPLE)

    # ---- noise levels and the network

    def sampler_of(self, scheduler: Any) -> Any:
        """Return Euler's steps in place of the multistep solver that the weights come with."""
        return as_flow_euler(scheduler)

    def start_sigmas(self, num_inference_steps: int) -> None:
        """Leave the levels to the scheduler, as the family's pipeline does."""

    @property
    def sampling_dtype(self) -> torch.dtype:
        """The pipeline holds latents in float32 whatever the network computes in."""
        return torch.float32

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer, which attends to no padding of the text."""
        return self.policy(
            noisy_latents.to(self.dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            encoder_attention_mask=conditioning.text_mask,
            timestep=timesteps * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:
        """Return the size that is asked for, which the pipeline would round to one of a list."""
        return super().size_arguments(height, width) | {"use_resolution_binning": False}
