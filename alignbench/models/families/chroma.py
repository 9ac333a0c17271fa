"""Chroma: FLUX.1's transformer without CLIP and without guidance as an input, with T5 features, rectified flow."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from alignbench.batch import Conditioning
from alignbench.models.families.flux import Flux
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.latents import PackedLatents
from alignbench.models.schedulers import FLOW_EULER

ADDED_MASK = (
    "attention   to the padding of prompts as diffusers' ChromaPipeline computes it: it adds 1 to the scores of what "
    "is no padding and leaves nothing out, so images differ from those of ComfyUI"
)


class Chroma(PackedLatents, FlowAdapter):
    """Chroma, guided by two calls.

    Its mask is to leave out the padding of a prompt but for one token. The pipeline of diffusers hands attention this
    mask as numbers, which are added to the scores: padding is attended to, only less. The adapter does the same, so
    that images are those of diffusers.

    Args:
        max_sequence_length: tokens of the T5 prompt.
    """

    pipeline_class = "ChromaPipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    patch_size = 2
    schedulers = FLOW_EULER
    single_file_keys: ClassVar = {
        "transformer": ("model.diffusion_model.double_blocks.", "double_blocks."),
        "vae": ("first_stage_model.", "vae."),
        "text_encoder": (),  # diffusers reads none from a file of this family
    }
    original_blocks = Flux.original_blocks

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mask: Tensor | None = None  # of the call that runs

    @property
    def remarks(self) -> list[str]:
        return [*super().remarks, ADDED_MASK]

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return T5's hidden states, padding included, and as `text_mask` what is to be attended to.

        That is one token more than a prompt has, where it has padding.
        """
        embeds, _, mask, *_ = self.pipeline.encode_prompt(
            list(prompts),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return Conditioning(embeds, text_mask=mask.bool())

    @property
    def prompt_limits(self) -> dict[str, int]:
        return {"tokenizer": self.max_sequence_length}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns."""
        width = self.denoiser.config.joint_attention_dim
        return Conditioning(self._zeros(num_prompts, self.max_sequence_length, width))

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer on packed latents."""
        device, num_tokens = noisy_latents.device, conditioning.prompt_embeds.shape[1]
        rows, columns = (torch.arange(side // self.patch_size, device=device) for side in noisy_latents.shape[-2:])
        tokens = self.pack(noisy_latents).to(self.dtype)
        self._mask = pad(conditioning.known_mask.to(self.dtype), (0, tokens.shape[1]), value=1.0)
        prediction = self.policy(
            hidden_states=tokens,
            # rounded to the network's dtype before the division, as the pipeline does
            timestep=timesteps.to(self.dtype) / self.schedule.num_train_timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            attention_mask=self._mask,
            txt_ids=torch.zeros(num_tokens, 3, device=device),
            img_ids=pad(torch.cartesian_prod(rows, columns), (1, 0)).float(),
            return_dict=False,
        )[0]
        return self.unpack(prediction, noisy_latents.shape[-2:])

    def enable_checkpointing(self, network: bool, decoder: bool) -> None:
        super().enable_checkpointing(network, decoder)
        if network:
            self.denoiser.enable_gradient_checkpointing(self._checkpoint)

    def _checkpoint(self, block: nn.Module, *args: Any) -> Any:
        """Call a block as diffusers does, but with the mask, which diffusers forgets to give to its single blocks."""
        if isinstance(block, ChromaSingleTransformerBlock):
            args = (*args, self._mask)
        return checkpoint(block, *args, use_reentrant=False)
