"""The autoencoders, one of Qwen-Image and one of all other families: 64 x 64 pixels to 16 x 16 latents of 4 channels.

The latents are defined in advance: the mean colour of each 4 x 4 block on three opponent axes, and the contrast within
the block. The decoder infers edges from the share of each block that a shape covers. Learned latents held little more
than brightness after minutes of training, and denoisers could only have been trained after them. Both autoencoders have
the same latents.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage, QwenImageCausalConv3d

from alignbench.miniature.pretrain.data import SceneData
from alignbench.miniature.pretrain.loop import Metrics, Plan, train

PLAN = Plan(num_updates=6000, learning_rate=2e-3, ema_decay=0.998)
QWEN_PLAN = Plan(num_updates=8000, learning_rate=3e-3, ema_decay=0.995)
BATCH_SIZE = 16
CROP_SHARE = 0.9  # share of updates on crops of a quarter of the area, which cost a quarter
CROP_SIZE = 32
FACTOR = 4  # pixels a side of a block
CODE_WEIGHT = 1.0
COLOUR_WEIGHT = 1.0
GRADIENT_WEIGHT = 0.5
GRAIN_WEIGHT = 0.5
MAX_LATENT_NOISE = 0.2  # makes the decoder robust to the errors of denoisers
LOG_VARIANCE = -8.0  # constant of the posterior: half a percent of the standard deviation of the latents
SCALING_FACTOR = 0.25  # far from 1, so that code which forgets it fails visibly

_AXES = torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / torch.tensor([3.0, 2.0, 6.0]).sqrt()[:, None]
# Mean and standard deviation of the four codes over the data set, as `measure_codes` returns them.
_MEANS = torch.tensor([0.2776, 0.0711, 0.0117, 0.0892])
_DEVIATIONS = torch.tensor([1.1261, 0.2582, 0.1593, 0.1204])


def code(pixels: torch.Tensor) -> torch.Tensor:
    """Return the latents of pixels [B, 3, H, W] in -1..1: [B, 4, H/4, W/4], mean 0 and standard deviation 1."""
    return (_raw_code(pixels) - _MEANS[:, None, None]) / _DEVIATIONS[:, None, None]


def _raw_code(pixels: torch.Tensor) -> torch.Tensor:
    means = F.avg_pool2d(pixels, FACTOR)
    variance = (F.avg_pool2d(pixels.square(), FACTOR) - means.square()).mean(dim=1, keepdim=True)
    opponents = torch.einsum("oc,bchw->bohw", _AXES, means)
    return torch.cat([opponents, (variance.clamp(min=0.0) + 1e-3).sqrt()], dim=1)


def measure_codes(data: SceneData, num_scenes: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of the codes before standardisation."""
    raw = torch.cat([_raw_code(data.pixels(torch.arange(i, i + 256))) for i in range(0, num_scenes, 256)])
    return raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))


def build_autoencoder() -> AutoencoderKL:
    """Build the untrained network. It is narrow, so that SRPO can differentiate the decoder on a laptop.

    `shift_factor` is 0, because FluxPipeline applies a shift and StableDiffusionPipeline does not.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(12, 24, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=SCALING_FACTOR,
        shift_factor=0.0,
    )
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0.0
        vae.quant_conv.bias[4:] = LOG_VARIANCE
    return vae.to(memory_format=torch.channels_last)


def build_qwen_autoencoder() -> AutoencoderKLQwenImage:
    """Build the untrained network, which has a frame axis and is as narrow as the other one.

    Its codes are not standardised: that is done by the mean and deviation of each channel, which the configuration has.
    A convolution sees nothing of earlier frames, of which an image has none.
    """
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 6],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[round(mean, 4) for mean in _MEANS.tolist()],
        latents_std=[round(deviation, 4) for deviation in _DEVIATIONS.tolist()],
    )
    with torch.no_grad():
        for convolution in _causal_convolutions(vae):
            convolution.weight[:, :, :-1] = 0.0
        vae.quant_conv.weight[4:] = 0.0
        # the same share of the deviation of the latents as in the other network
        vae.quant_conv.bias[4:] = LOG_VARIANCE + 2.0 * (SCALING_FACTOR * _DEVIATIONS).log()
    return vae


def _causal_convolutions(vae: AutoencoderKLQwenImage) -> list[QwenImageCausalConv3d]:
    return [module for module in vae.modules() if isinstance(module, QwenImageCausalConv3d)]


def train_autoencoder(data: SceneData, folder: Path, plan: Plan = PLAN) -> AutoencoderKL:
    """Train the encoder to return the codes of an image, and the decoder to return the image of noisy codes."""
    torch.manual_seed(0)
    vae = build_autoencoder()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return vae.encode(pixels).latent_dist.mean * SCALING_FACTOR

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return vae.decode(latents / SCALING_FACTOR).sample

    return _train(vae, encode, decode, data, folder, plan, "vae")


def train_qwen_autoencoder(data: SceneData, folder: Path, plan: Plan = QWEN_PLAN) -> AutoencoderKLQwenImage:
    """Train the network of Qwen-Image to the same latents."""
    torch.manual_seed(0)
    vae = build_qwen_autoencoder()
    for convolution in _causal_convolutions(vae):
        convolution.forward = partial(convolve_one_frame, convolution)
    vae.encoder.compile()
    vae.decoder.compile()
    mean, deviation = _MEANS[:, None, None, None], _DEVIATIONS[:, None, None, None]

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        codes = vae.quant_conv(vae.encoder(pixels[:, :, None]))[:, :4]
        return ((codes - mean) / deviation)[:, :, 0]

    def decode(latents: torch.Tensor) -> torch.Tensor:
        codes = latents[:, :, None] * deviation + mean
        return vae.decoder(vae.post_quant_conv(codes))[:, :, 0]  # not clipped as by `decode`: that would hide errors

    # crops alone: networks are compiled for each size
    return _train(vae, encode, decode, data, folder, plan, "qwen_vae", seed=9, crop_share=1.0)


def convolve_one_frame(
    convolution: QwenImageCausalConv3d, frame: torch.Tensor, cache_x: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what a causal convolution makes of a single frame, [B, C, 1, H, W], in a third of the time.

    Before the frame there is nothing, so of the kernel only the part for the current frame counts.
    """
    weight = convolution.weight[:, :, -1]
    step, border = convolution.stride[1:], weight.shape[-1] // 2
    return F.conv2d(frame[:, :, 0], weight, convolution.bias, step, border)[:, :, None]


def _train(
    vae: AutoencoderKL | AutoencoderKLQwenImage,
    encode: Callable[[torch.Tensor], torch.Tensor],
    decode: Callable[[torch.Tensor], torch.Tensor],
    data: SceneData,
    folder: Path,
    plan: Plan,
    name: str,
    seed: int = 0,
    crop_share: float = CROP_SHARE,
):
    """Train by `autoencoder_loss`; the last updates are on whole images."""

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        pixels = data.pixels(torch.randint(len(data.captions), (BATCH_SIZE,), generator=generator))
        if step < crop_share * plan.num_updates:
            top, left = torch.randint(4, pixels.shape[-1] - CROP_SIZE - 3, (2,), generator=generator).tolist()
            pixels = pixels[:, :, top : top + CROP_SIZE, left : left + CROP_SIZE]
        return autoencoder_loss(encode, decode, pixels, generator)

    return train(vae, loss_of, plan, folder, name, seed)


def autoencoder_loss(
    encode: Callable[[torch.Tensor], torch.Tensor],
    decode: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, Metrics]:
    """Return the encoder's squared error plus the decoder's errors in values, block colours, edges and grain.

    Args:
        encode: gives the standardised latents of pixels.
        decode: gives the pixels of standardised latents.
        pixels: [B, 3, H, W] in -1..1.
    """
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    codes = code(pixels)
    encoded = F.mse_loss(encode(pixels), codes)
    strength = MAX_LATENT_NOISE * torch.rand(len(codes), 1, 1, 1, generator=generator)
    noisy = codes + strength * torch.randn(codes.shape, generator=generator)
    decoded = decode(noisy)
    value = F.l1_loss(decoded, pixels)
    colour = F.l1_loss(F.avg_pool2d(decoded, FACTOR), F.avg_pool2d(pixels, FACTOR))
    gradient = F.l1_loss(decoded.diff(dim=2), pixels.diff(dim=2)) + F.l1_loss(decoded.diff(dim=3), pixels.diff(dim=3))
    grain = F.l1_loss(_local_contrast(decoded), _local_contrast(pixels))
    decoder_loss = value + COLOUR_WEIGHT * colour + GRADIENT_WEIGHT * gradient + GRAIN_WEIGHT * grain
    metrics = {"code": encoded.item(), "value": value.item(), "colour": colour.item(), "grain": grain.item()}
    return decoder_loss + CODE_WEIGHT * encoded, metrics


def _local_contrast(pixels: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of detail around each point: the strength of grain, not its exact pattern."""
    gray = pixels.mean(dim=1, keepdim=True)
    detail = gray - F.avg_pool2d(gray, 3, stride=1, padding=1, count_include_pad=False)
    return (F.avg_pool2d(detail.square(), 8, stride=4) + 1e-4).sqrt()
