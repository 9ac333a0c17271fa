"""A tiny random FLUX.2-klein."""

from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from transformers import Qwen3ForCausalLM

from alignbench.models.families.flux2_klein import Flux2Klein
from alignbench.models.tiny_random.flux2 import LORA_TARGETS, flux2_scheduler, flux2_transformer, flux2_vae
from alignbench.models.tiny_random.parts import Tiny, qwen3_config, qwen_tokenizer


def tiny_flux2_klein(seed: int = 0, is_distilled: bool = False) -> Flux2KleinPipeline:
    """Return a random FLUX.2-klein base; `is_distilled` says that its guidance was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = qwen_tokenizer()
        parts: dict[str, Any] = {
            "transformer": flux2_transformer(guidance_embeds=False),
            "vae": flux2_vae(),
            "tokenizer": tokenizer,
            "text_encoder": Qwen3ForCausalLM(qwen3_config(tokenizer, num_layers=4)),
            "scheduler": flux2_scheduler(),
        }
        return Flux2KleinPipeline(**parts, is_distilled=is_distilled)


SETTINGS = {"max_sequence_length": 160, "text_encoder_out_layers": (1, 2, 3)}
TINY = Tiny(Flux2Klein, tiny_flux2_klein, SETTINGS, lora_targets=LORA_TARGETS)
