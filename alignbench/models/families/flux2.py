"""FLUX.2-dev: a transformer over batch-normalised latents with features of Mistral, flow, distilled guidance."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch import Tensor
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from alignbench.batch import Conditioning
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.latents import from_tokens, to_tokens
from alignbench.settings.section import Count

PATCH = 2  # codes along the side of one latent pixel


class Flux2(FlowAdapter):
    """FLUX.2-dev.

    Latents are 2 x 2 patches of the VAE's codes, normalised by the statistics of its batch norm. That is done as soon
    as an image is encoded, so that no VAE is needed once all are. Padding of a prompt is part of its features, so that
    its length is part of the result.

    Args:
        text_encoder_out_layers: layers of the text encoder whose hidden states are the features.
        shift_steps: sampling steps under whose shift training timesteps are drawn. The family's shift depends on the
            size of the image and on the number of steps.
    """

    pipeline_class = "Flux2Pipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    takes_reward_vae = False
    takes_negative_prompt = False
    original_blocks: ClassVar = {
        ("double_blocks", "transformer_blocks"): {
            "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "img_attn.proj": ("attn.to_out.0",),
            "img_mlp.0": ("ff.linear_in",),
            "img_mlp.2": ("ff.linear_out",),
            "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            "txt_attn.proj": ("attn.to_add_out",),
            "txt_mlp.0": ("ff_context.linear_in",),
            "txt_mlp.2": ("ff_context.linear_out",),
        },
        ("single_blocks", "single_transformer_blocks"): {
            "linear1": ("attn.to_qkv_mlp_proj",),
            "linear2": ("attn.to_out",),
        },
    }

    def __init__(
        self,
        *args: Any,
        text_encoder_out_layers: Sequence[int] = (10, 20, 30),
        shift_steps: Count = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.text_encoder_out_layers = tuple(text_encoder_out_layers)
        self.shift_steps = shift_steps

    # ---- text

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the hidden states of several layers side by side."""
        embeds, _ = self.pipeline.encode_prompt(list(prompts), device=self.device, **self.text_arguments)
        return Conditioning(embeds)

    @property
    def text_arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline that decide what it makes of a prompt."""
        return {
            "max_sequence_length": self.max_sequence_length,
            "text_encoder_out_layers": self.text_encoder_out_layers,
        }

    @property
    def prompt_limits(self) -> dict[str, int]:
        return {"tokenizer": self.max_sequence_length - self.template_tokens}

    @property
    def template_tokens(self) -> int:
        """Tokens that the system's text and the chat template add to a prompt."""
        processor, roles = self.pipeline.tokenizer, {"system": self.pipeline.system_message, "user": ""}
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in roles.items()]
        return len(processor.tokenizer(processor.apply_chat_template(messages, tokenize=False))["input_ids"])

    @property
    def text_settings(self) -> dict[str, Any]:
        return super().text_settings | {"layers": list(self.text_encoder_out_layers)}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns."""
        width = self.denoiser.config.joint_attention_dim
        return Conditioning(self._zeros(num_prompts, self.max_sequence_length, width))

    # ---- latents

    def posterior_of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of normalised patches, [B, 4 C, h, w] each."""
        mean, std = super().posterior_of(pixels)
        return self.patches(mean), pixel_unshuffle(std, PATCH) / self._statistics(std)[1]

    def normalise(self, codes: Tensor) -> Tensor:
        """Return patches as they are, which are normalised already."""
        return codes

    def patches(self, codes: Tensor) -> Tensor:
        """Return the normalised 2 x 2 patches of codes [B, C, 2 h, 2 w] as latents [B, 4 C, h, w]."""
        mean, std = self._statistics(codes)
        return (pixel_unshuffle(codes, PATCH) - mean) / std

    def denormalise(self, latents: Tensor, vae: Any) -> Tensor:
        """Undo `patches`."""
        mean, std = self._statistics(latents)
        return pixel_shuffle(latents * std + mean, PATCH)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel of the patches, [4 C, 1, 1] each."""
        norm, epsilon = self.pipeline.vae.bn, self.pipeline.vae.config.batch_norm_eps
        mean, std = norm.running_mean.to(like), (norm.running_var + epsilon).sqrt().to(like)
        return mean[:, None, None], std[:, None, None]

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.pipeline.vae.config.latent_channels * PATCH**2

    @property
    def latent_factor(self) -> int:
        """Pixels along the side of one latent pixel."""
        return self.pipeline.vae_scale_factor * PATCH

    # ---- the network

    def shift_exponent(self, num_tokens: int, num_inference_steps: int | None = None) -> float:
        """Return mu of the family's own formula, whatever the scheduler says of its shift."""
        return compute_empirical_mu(num_tokens, num_inference_steps or self.shift_steps)

    @classmethod
    def takes_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say whether a transformer has the guidance embedding (FLUX.2-dev has, klein has not)."""
        return config.get("guidance_embeds", True)

    @property
    def guidance_is_distilled(self) -> bool:
        """Whether this transformer has the guidance embedding."""
        return self.takes_guidance(self.denoiser.config)

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer on one token for each latent pixel."""
        num, (height, width), device = len(noisy_latents), noisy_latents.shape[-2:], noisy_latents.device
        rows, columns, words = (
            torch.arange(size, device=device) for size in (height, width, conditioning.prompt_embeds.shape[1])
        )
        prediction = self.policy(
            hidden_states=to_tokens(noisy_latents, 1).to(self.dtype),
            # rounded to the network's dtype before the division, as the pipeline does
            timestep=timesteps.to(self.dtype) / self.schedule.num_train_timesteps,
            guidance=guidance,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            # time, row, column and number of the word
            txt_ids=pad(words[:, None], (3, 0)).expand(num, -1, -1),
            img_ids=pad(torch.cartesian_prod(rows, columns), (1, 1)).expand(num, -1, -1),
            return_dict=False,
        )[0]
        return from_tokens(prediction, (height, width), 1)

    def generation_arguments(
        self,
        num_prompts: int,
        guidance_scale: float,
        negative_prompt: str | None = None,
        true_cfg_scale: float | None = None,
    ) -> dict[str, Any]:
        """Guide by the network's input or away from the empty prompt: the family's pipelines take no other."""
        arguments = super().generation_arguments(num_prompts, guidance_scale, negative_prompt, true_cfg_scale)
        return arguments | self.text_arguments

    def unpack(self, packed: Tensor, latent_size: Sequence[int]) -> Tensor:
        """Return the tokens that the pipeline ends with as latents of this height and width."""
        return from_tokens(packed, latent_size, 1)
