"""A tiny random Wan 2.1."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from transformers import UMT5Config, UMT5EncoderModel

from alignbench.models.families.wan import Wan
from alignbench.models.tiny_random.parts import WIDTH, Tiny, t5_tokenizer


def tiny_wan(seed: int = 0, **settings: Any) -> WanPipeline:
    """Return a random Wan 2.1 with the published scheduler; `settings` are those of the pipeline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = t5_tokenizer()
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[-0.3, 0.2, 0.1, -0.1],
            latents_std=[1.4, 0.8, 1.2, 0.7],
        )
        text_encoder = UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        )
        parts: dict[str, Any] = {
            "transformer": transformer,
            "vae": vae,
            "tokenizer": tokenizer,
            "text_encoder": text_encoder,
            "scheduler": UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        }
    return WanPipeline(**parts, **settings)


TINY = Tiny(Wan, tiny_wan, {"max_sequence_length": 32})
