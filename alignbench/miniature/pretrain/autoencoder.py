"""The autoencoder that all families share: 64 x 64 pixels to 16 x 16 latents of 4 channels and back."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from alignbench.miniature.pretrain.data import SceneData
from alignbench.miniature.pretrain.loop import Metrics, Plan, train

PLAN = Plan(num_updates=1900, learning_rate=2e-3, ema_decay=0.99)
BATCH_SIZE = 16
CROP_SHARE = 0.85  # of the updates see quarter-size crops, which cost a quarter and hold more of the shapes
CROP_SIZE = 32
KL_WEIGHT = 1e-6  # at 2e-4 the four channels collapsed into one that carries brightness alone
COLOUR_WEIGHT = 1.0
GRADIENT_WEIGHT = 0.5
GRAIN_WEIGHT = 0.5
RAW_SCALE = 4.0  # standard deviation of the unscaled latents, so that a forgotten scaling_factor shows at once


def build_autoencoder() -> AutoencoderKL:
    """Build the untrained network. It is thin because SRPO differentiates the decoder on a laptop."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(12, 24, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    ).to(memory_format=torch.channels_last)


def train_autoencoder(data: SceneData, folder: Path, plan: Plan = PLAN) -> AutoencoderKL:
    """Train, then give the latents mean 0 and deviation 1."""
    torch.manual_seed(0)
    vae = build_autoencoder()

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        indices = torch.randint(len(data.captions), (BATCH_SIZE,), generator=generator)
        pixels = data.pixels(indices)
        if step < CROP_SHARE * plan.num_updates:
            top, left = torch.randint(4, pixels.shape[-1] - CROP_SIZE - 3, (2,), generator=generator).tolist()
            pixels = pixels[:, :, top : top + CROP_SIZE, left : left + CROP_SIZE]
        return reconstruction_loss(vae, pixels, generator)

    train(vae, loss_of, plan, folder, "vae")
    num_measured = min(4096, len(data.captions))
    standardise(vae, [data.pixels(torch.arange(i, i + 256)) for i in range(0, num_measured - 255, 256)])
    return vae


def reconstruction_loss(
    vae: AutoencoderKL, pixels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, Metrics]:
    """Return absolute error of values, of colours around a point, of edges and of local contrast, plus the KL term.

    Args:
        pixels: [B, 3, H, W] in -1..1.
    """
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.sample(generator)).sample
    value = F.l1_loss(decoded, pixels)
    colour = F.l1_loss(F.avg_pool2d(decoded, 4), F.avg_pool2d(pixels, 4))
    gradient = F.l1_loss(decoded.diff(dim=2), pixels.diff(dim=2)) + F.l1_loss(decoded.diff(dim=3), pixels.diff(dim=3))
    grain = F.l1_loss(_local_contrast(decoded), _local_contrast(pixels))
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = value + COLOUR_WEIGHT * colour + GRADIENT_WEIGHT * gradient + GRAIN_WEIGHT * grain + KL_WEIGHT * kl
    return loss, {"value": value.item(), "colour": colour.item(), "grain": grain.item(), "kl": kl.item()}


def _local_contrast(pixels: torch.Tensor) -> torch.Tensor:
    """Root of the mean squared detail around each point: says how strong a grain is, not where its grains lie."""
    gray = pixels.mean(dim=1, keepdim=True)
    detail = gray - F.avg_pool2d(gray, 3, stride=1, padding=1, count_include_pad=False)
    return (F.avg_pool2d(detail.square(), 8, stride=4) + 1e-4).sqrt()


@torch.no_grad()
def standardise(vae: AutoencoderKL, batches: list[torch.Tensor]) -> None:
    """Rewrite the 1 x 1 convolutions around the latents so that each channel has mean 0 and deviation `RAW_SCALE`.

    The mean goes into the weights, not into `shift_factor`, because StableDiffusionPipeline knows no shift while
    FluxPipeline does, and both share this network. `scaling_factor` becomes 1 / `RAW_SCALE`.
    """
    means = torch.cat([vae.encode(pixels).latent_dist.mean for pixels in batches])
    mean, scale = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3)) / RAW_SCALE
    encode, decode, num = vae.quant_conv, vae.post_quant_conv, len(mean)
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= scale[None, :, None, None]
    encode.bias[:num] = (encode.bias[:num] - mean) / scale
    encode.weight[:num] /= scale[:, None, None, None]
    encode.bias[num:] -= 2.0 * scale.log()  # the log-variances follow their means
    vae.register_to_config(scaling_factor=1.0 / RAW_SCALE, shift_factor=0.0)
