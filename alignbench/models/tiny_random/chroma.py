"""A tiny random Chroma."""

import torch
from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel
from diffusers.pipelines.chroma.pipeline_chroma import ChromaPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from alignbench.models.families.chroma import Chroma
from alignbench.models.tiny_random.parts import WIDTH, Tiny, autoencoder, t5_encoder, t5_tokenizer


def tiny_chroma(seed: int = 0) -> ChromaPipeline:
    """Return a random Chroma with the shifting of FLUX.1-dev."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
        tokenizer = t5_tokenizer()
        return ChromaPipeline(
            transformer=transformer,
            vae=autoencoder(0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            tokenizer=tokenizer,
            text_encoder=t5_encoder(tokenizer, WIDTH),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        )


TINY = Tiny(Chroma, tiny_chroma, {"max_sequence_length": 32})
