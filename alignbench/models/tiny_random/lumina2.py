"""A tiny random Lumina-Image 2.0."""

import torch
from diffusers.models.transformers.transformer_lumina2 import Lumina2Transformer2DModel
from diffusers.pipelines.lumina2.pipeline_lumina2 import Lumina2Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from alignbench.models.families.lumina2 import Lumina2
from alignbench.models.tiny_random.parts import WIDTH, Tiny, autoencoder, gemma2_encoder, gemma_tokenizer


def tiny_lumina2(seed: int = 0) -> Lumina2Pipeline:
    """Return a random Lumina-Image 2.0 with the published shift; the pipeline adds 170 tokens to a prompt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=16,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(512, 64, 64),
            cap_feat_dim=WIDTH,
        )
        tokenizer = gemma_tokenizer()
        return Lumina2Pipeline(
            transformer=transformer,
            # the pipeline takes it for granted that a latent pixel has 8 pixels along its side
            vae=autoencoder(0.3611, num_blocks=4, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            tokenizer=tokenizer,
            text_encoder=gemma2_encoder(tokenizer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        )


TINY = Tiny(Lumina2, tiny_lumina2, {"max_sequence_length": 256})
