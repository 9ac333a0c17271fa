"""The denoisers of 16 x 16 latents: transformers (FLUX with distilled guidance, SD3, Qwen-Image) and two UNets."""

import math
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLForConditionalGeneration,
    T5EncoderModel,
)

from alignbench.miniature.pretrain.latents import LatentData
from alignbench.miniature.pretrain.loop import Metrics, Plan, train
from alignbench.miniature.pretrain.text_encoders import read_chats
from alignbench.miniature.scenes import IMAGE_SIZE
from alignbench.miniature.weights import LATENT_SIDE, SD3_CLIP_LENGTH

FLUX_PLAN = Plan(num_updates=10_000, learning_rate=2e-3, muon="block", ema_decay=0.998)
GUIDANCE_PLAN = Plan(num_updates=1000, learning_rate=5e-4, muon="block", ema_decay=0.995)
SD15_PLAN = Plan(num_updates=8000, learning_rate=1.5e-3, muon="block", ema_decay=0.998)
SDXL_PLAN = Plan(num_updates=2000, learning_rate=7e-4, muon="block", ema_decay=0.998)
SD3_PLAN = Plan(num_updates=4000, learning_rate=2e-3, muon="block", ema_decay=0.998)
QWEN_PLAN = Plan(num_updates=6000, learning_rate=2e-3, muon="block", ema_decay=0.998)
BATCH_SIZE = 32
SD3_SHIFT = 1.65  # that of FLUX at the 64 tokens of these images; SD3's own 3 is for images of 4096 tokens
GUIDANCE_RANGE = (1.0, 5.0)  # FLUX.1-dev is used at 3.5
MIN_SNR_GAMMA = 5.0  # Hang et al. 2023


def build_flux() -> FluxTransformer2DModel:
    """Build the untrained transformer: 64 tokens of 2 x 2 latents and 20 of text."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(4, 10, 10),
    )


def build_flux_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build FLUX's scheduler; its resolution-dependent shift starts at the 64 tokens of these images."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=64, max_image_seq_len=4096, base_shift=0.5, max_shift=1.15
    )


def build_sd15() -> UNet2DConditionModel:
    """Build the untrained UNet; it attends to the prompt at 8 x 8, where attention is cheap on a CPU."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    ).to(memory_format=torch.channels_last)


def build_sd15_scheduler() -> DDIMScheduler:
    """Build SD1.5's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_sdxl() -> UNet2DConditionModel:
    """Build the untrained UNet of SDXL: it attends to two encoders at the coarser of three levels, as SDXL does."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=64 + 6 * 16,
        norm_num_groups=8,
    ).to(memory_format=torch.channels_last)


def build_sdxl_scheduler() -> EulerDiscreteScheduler:
    """Build SDXL's noise schedule and sampler."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )


def build_sd3() -> SD3Transformer2DModel:
    """Build the untrained transformer of SD3.5: 64 tokens of 2 x 2 latents, and of text 24 of CLIP and 20 of T5."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=96,
        pooled_projection_dim=128,
        pos_embed_max_size=LATENT_SIDE // 2,
        qk_norm="rms_norm",
    )


def build_sd3_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build SD3's scheduler, whose shift is one number."""
    return FlowMatchEulerDiscreteScheduler(shift=SD3_SHIFT)


def build_qwen() -> QwenImageTransformer2DModel:
    """Build the untrained transformer of Qwen-Image: 64 tokens of 2 x 2 latents, and text of any length."""
    return QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=4,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=64,
        axes_dims_rope=(4, 10, 10),
    )


def build_qwen_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build the scheduler of Qwen-Image, whose shift starts at the 64 tokens of these images."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_image_seq_len=64,
        max_image_seq_len=4096,
        base_shift=0.5,
        max_shift=0.9,
        shift_terminal=0.02,
    )


class FluxDenoiser:
    """FLUX as a function of latents, noise levels and token ids, with the conventions of FluxPipeline."""

    def __init__(self, clip: CLIPTextModel, t5: T5EncoderModel):
        self.clip, self.t5 = clip.requires_grad_(False).eval(), t5.requires_grad_(False).eval()
        self.image_ids = FluxPipeline._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)

    def encode(self, ids: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the conditioning arguments of the transformer for CLIP and T5 ids."""
        with torch.no_grad():
            prompt_embeds = self.t5(ids[1]).last_hidden_state
            return {
                "encoder_hidden_states": prompt_embeds,
                "pooled_projections": self.clip(ids[0]).pooler_output,
                "txt_ids": torch.zeros(prompt_embeds.shape[1], 3),
                "img_ids": self.image_ids,
            }

    @staticmethod
    def pack(latents: torch.Tensor) -> torch.Tensor:
        """Return latents [B, 4, 16, 16] as tokens [B, 64, 16]."""
        return FluxPipeline._pack_latents(latents, len(latents), 4, 16, 16)

    @staticmethod
    def noise(tokens: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return noisy tokens, their velocity (noise minus latents) and sigmas [B].

        Sigmas are logit-normal(0, 1) under the shift of the scheduler, which is e^0.5 at 64 tokens.
        """
        sigmas = (torch.randn(len(tokens), generator=generator) + 0.5).sigmoid()
        noise = torch.randn(tokens.shape, generator=generator)
        level = sigmas[:, None, None]
        return (1.0 - level) * tokens + level * noise, noise - tokens, sigmas


def train_flux(
    transformer: FluxTransformer2DModel, denoiser: FluxDenoiser, data: LatentData, folder: Path, plan: Plan = FLUX_PLAN
) -> FluxTransformer2DModel:
    """Train by flow matching. The guidance input is random, so the network learns to ignore it."""

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        latents, ids = data.draw(BATCH_SIZE, generator)
        noisy, velocity, sigmas = denoiser.noise(denoiser.pack(latents), generator)
        guidance = torch.empty(BATCH_SIZE).uniform_(*GUIDANCE_RANGE, generator=generator)
        prediction = transformer(noisy, timestep=sigmas, guidance=guidance, **denoiser.encode(ids)).sample
        return (prediction - velocity).square().mean(), {}

    return train(transformer, loss_of, plan, folder, "flux_mini", seed=1)


def distil_guidance(
    student: FluxTransformer2DModel,
    teacher: FluxTransformer2DModel,
    denoiser: FluxDenoiser,
    data: LatentData,
    folder: Path,
    plan: Plan = GUIDANCE_PLAN,
) -> FluxTransformer2DModel:
    """Distil classifier-free guidance into the guidance input, as in FLUX.1-dev, and continue training.

    The student starts as a copy of the frozen teacher. Its target is the velocity of the data plus the teacher's
    (guidance - 1) * (conditional - unconditional). In expectation this is the usual target of distillation,
    unconditional + guidance * (conditional - unconditional), with the data in place of the teacher's conditional.
    """
    empty = denoiser.encode([ids.expand(BATCH_SIZE, -1) for ids in data.empty_ids])

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        latents, ids = data.draw(BATCH_SIZE, generator)
        noisy, velocity, sigmas = denoiser.noise(denoiser.pack(latents), generator)
        guidance = torch.empty(BATCH_SIZE).uniform_(*GUIDANCE_RANGE, generator=generator)
        given = denoiser.encode(ids)
        with torch.no_grad():
            unconditional = teacher(noisy, timestep=sigmas, guidance=guidance, **empty).sample
            conditional = teacher(noisy, timestep=sigmas, guidance=guidance, **given).sample
        target = velocity + (guidance[:, None, None] - 1.0) * (conditional - unconditional)
        prediction = student(noisy, timestep=sigmas, guidance=guidance, **given).sample
        return (prediction - target).square().mean(), {}

    return train(student, loss_of, plan, folder, "flux_mini guidance", seed=2)


def train_sd15(
    unet: UNet2DConditionModel, clip: CLIPTextModel, data: LatentData, folder: Path, plan: Plan = SD15_PLAN
) -> UNet2DConditionModel:
    """Train with the last hidden states of CLIP."""
    clip.requires_grad_(False).eval()

    def encode(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {"encoder_hidden_states": clip(ids).last_hidden_state}

    return _train_unet(unet, encode, data, folder, plan, "sd15_mini", seed=3)


def train_sdxl(
    unet: UNet2DConditionModel,
    clip: CLIPTextModelWithProjection,
    data: LatentData,
    folder: Path,
    plan: Plan = SDXL_PLAN,
) -> UNet2DConditionModel:
    """Train as SD1.5, with zeros as the features of the empty prompt, as SDXL's pipeline uses in guidance."""
    clip.requires_grad_(False).eval()

    def encode(ids: torch.Tensor) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        return encode_for_sdxl(clip, ids, is_empty=(ids == data.empty_ids[0]).all(dim=1))

    return _train_unet(unet, encode, data, folder, plan, "sdxl_mini", seed=4)


def encode_for_sdxl(
    clip: CLIPTextModelWithProjection, ids: torch.Tensor, is_empty: torch.Tensor
) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
    """Return the conditioning arguments of the UNet, with the conventions of StableDiffusionXLPipeline.

    The second encoder is the first one with one more layer, so one call returns the features of both.

    Args:
        ids: [B, 77].
        is_empty: rows whose text features are zeros, [B].
    """
    with torch.no_grad():
        output = clip(ids, output_hidden_states=True)
    prompt_embeds = torch.cat([output.hidden_states[-3], output.hidden_states[-2]], dim=-1)
    size = torch.tensor([IMAGE_SIZE, IMAGE_SIZE, 0, 0, IMAGE_SIZE, IMAGE_SIZE], dtype=torch.float32)
    return {
        "encoder_hidden_states": prompt_embeds.masked_fill(is_empty[:, None, None], 0.0),
        "added_cond_kwargs": {
            "text_embeds": output.text_embeds.masked_fill(is_empty[:, None], 0.0),
            "time_ids": size.expand(len(ids), -1),
        },
    }


def _train_unet(unet, encode, data: LatentData, folder: Path, plan: Plan, name: str, seed: int) -> UNet2DConditionModel:
    """Train to predict the noise; min-SNR weights reduce the loss at low noise."""
    scheduler = build_sd15_scheduler()
    alphas = scheduler.alphas_cumprod
    snr = alphas / (1.0 - alphas)
    weights = snr.clamp(max=MIN_SNR_GAMMA) / snr

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        latents, ids = data.draw(BATCH_SIZE, generator)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(alphas), (BATCH_SIZE,), generator=generator)
        noisy = scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
        prediction = unet(noisy, timesteps, **encode(ids[0])).sample
        error = (prediction - noise).square().mean(dim=(1, 2, 3))
        return (weights[timesteps] * error).mean(), {"error": error.mean().item()}

    return train(unet, loss_of, plan, folder, name, seed=seed)


def train_sd3(
    transformer: SD3Transformer2DModel,
    clip: CLIPTextModelWithProjection,
    t5: T5EncoderModel,
    data: LatentData,
    folder: Path,
    plan: Plan = SD3_PLAN,
) -> SD3Transformer2DModel:
    """Train by flow matching, with sigmas logit-normal(0, 1) under the shift of the scheduler."""
    clip.requires_grad_(False).eval()
    t5.requires_grad_(False).eval()

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        latents, ids = data.draw(BATCH_SIZE, generator)
        sigmas = (torch.randn(BATCH_SIZE, generator=generator) + math.log(SD3_SHIFT)).sigmoid()
        noise = torch.randn(latents.shape, generator=generator)
        level = sigmas[:, None, None, None]
        noisy = (1.0 - level) * latents + level * noise
        prediction = transformer(noisy, timestep=1000.0 * sigmas, **encode_for_sd3(clip, t5, ids)).sample
        return (prediction - (noise - latents)).square().mean(), {}

    return train(transformer, loss_of, plan, folder, "sd3_mini", seed=6)


def encode_for_sd3(
    clip: CLIPTextModelWithProjection, t5: T5EncoderModel, ids: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the conditioning arguments of the transformer, with the conventions of StableDiffusion3Pipeline.

    Both CLIPs are the same here. The pipeline concatenates their features along the width and fits them to the width of
    T5. Here T5 is as wide as one CLIP, so only the pooled vector of the second CLIP is used.

    Args:
        ids: token ids of CLIP, [B, 77], and of T5, [B, 20].
    """
    with torch.no_grad():
        output = clip(ids[0][:, :SD3_CLIP_LENGTH], output_hidden_states=True)
        features = torch.cat([output.hidden_states[-2], t5(ids[1]).last_hidden_state], dim=1)
    return {"encoder_hidden_states": features, "pooled_projections": output.text_embeds.repeat(1, 2)}


def train_qwen(
    transformer: QwenImageTransformer2DModel,
    encoder: Qwen2_5_VLForConditionalGeneration,
    head: torch.Tensor,
    data: LatentData,
    folder: Path,
    plan: Plan = QWEN_PLAN,
) -> QwenImageTransformer2DModel:
    """Train by flow matching, with the noise levels of FLUX. `head`: ids of the chat template before the prompt."""
    encoder.requires_grad_(False).eval()

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        latents, ids = data.draw(BATCH_SIZE, generator)
        noisy, velocity, sigmas = FluxDenoiser.noise(FluxDenoiser.pack(latents), generator)
        prediction = transformer(noisy, timestep=sigmas, **encode_for_qwen(encoder, head, ids[0])).sample
        return (prediction - velocity).square().mean(), {}

    return train(transformer, loss_of, plan, folder, "qwen_mini", seed=10)


def encode_for_qwen(
    encoder: Qwen2_5_VLForConditionalGeneration, head: torch.Tensor, ids: torch.Tensor
) -> dict[str, torch.Tensor | list[list[tuple[int, int, int]]]]:
    """Return the conditioning arguments of the transformer, with the conventions of QwenImagePipeline.

    Args:
        head: ids of the chat template before the prompt.
        ids: what follows, [B, L].
    """
    with torch.no_grad():
        features = read_chats(encoder, head, ids)
    mask = ids != encoder.config.text_config.pad_token_id
    return {
        "encoder_hidden_states": features,
        "encoder_hidden_states_mask": mask,
        "img_shapes": [[(1, LATENT_SIDE // 2, LATENT_SIDE // 2)]] * len(ids),
    }
