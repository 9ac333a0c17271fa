"""Z-Image: a transformer over one sequence of text and image, with features of Qwen3, rectified flow, own guidance."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.prompt_length import template_tokens
from alignbench.models.schedulers import FLOW_EULER


class ZImage(FlowAdapter):
    """Z-Image and Z-Image-Turbo.

    A guidance scale of s is a weight of 1 + s in the usual sense, as in the family's pipeline: 0 is no guidance.

    Args:
        max_sequence_length: tokens of a prompt, those of the chat template included.
    """

    pipeline_class = "ZImagePipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    pads_prompts = False
    patch_size = 2
    schedulers = FLOW_EULER
    no_guidance_scale = 0.0
    single_file_keys: ClassVar = {
        "transformer": ("model.diffusion_model.x_embedder.", "x_embedder."),
        "vae": ("first_stage_model.", "vae."),
        "text_encoder": (),
    }
    original_blocks: ClassVar = {
        (blocks, blocks): {
            "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
            "attention.out": ("attention.to_out.0",),
        }
        for blocks in ("layers", "noise_refiner", "context_refiner")
    }

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the last but one hidden states of the tokens that each prompt has."""
        rows, _ = self.pipeline.encode_prompt(
            list(prompts),  # which the pipeline overwrites
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return Conditioning.of_rows(rows)

    @property
    def prompt_limits(self) -> dict[str, int]:
        return {"tokenizer": self.max_sequence_length - template_tokens(self.pipeline.tokenizer, enable_thinking=True)}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the largest shapes that `encode_prompts` returns."""
        return Conditioning(self._zeros(num_prompts, self.max_sequence_length, self.denoiser.config.cap_feat_dim))

    @classmethod
    def takes_few_steps(
        cls, index: Mapping[str, Any], denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> bool:
        """Take weights that come with a shift of 3 for those of Z-Image-Turbo; those of the base come with 6."""
        return scheduler.get("shift") == 3.0

    def start_sigmas(self, num_inference_steps: int) -> Sequence[float]:
        """Return the pipeline's sigmas, whose last digits are those of torch, not of NumPy."""
        return torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()

    @property
    def sampling_dtype(self) -> torch.dtype:
        """The pipeline holds latents in float32 whatever the network computes in."""
        return torch.float32

    def guidance_weight(self, guidance_scale: float) -> float:
        """Return 1 + s: the pipeline adds s times the difference to the conditional prediction."""
        return 1 + guidance_scale

    def guide(self, conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
        """Return the usual guidance, computed in the order in which the pipeline does."""
        return conditional + (weight - 1) * (conditional - unconditional)

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer, whose time runs from noise to images and whose prediction is latents - noise.

        It takes lists, pads the text of each row itself to whole blocks of tokens that it attends to, and is given no
        other padding.
        """
        times = (self.schedule.num_train_timesteps - timesteps.float()) / self.schedule.num_train_timesteps
        predictions = self.policy(
            list(noisy_latents.to(self.dtype)[:, :, None]),
            times,
            [row.to(self.dtype) for row in conditioning.text_rows],
            return_dict=False,
        )[0]
        return -torch.stack(predictions)[:, :, 0]
