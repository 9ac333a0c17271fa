"""Initialise `sdxl_mini` with the weights of `sd15_mini`, and `sd3_mini` and `qwen_mini` with those of `flux_mini`.

This saves hours on a CPU. Weights without a counterpart are initialised so that they change nothing, where possible.
"""

from collections.abc import Iterable

import torch
from diffusers import (
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

Weights = dict[str, Tensor]


@torch.no_grad()
def sdxl_from_sd15(
    unet: UNet2DConditionModel, sd15: UNet2DConditionModel, clip: CLIPTextModelWithProjection, ids: Iterable[Tensor]
) -> None:
    """Fill SDXL's UNet with SD1.5's weights.

    SD1.5 attends to normalised hidden states, SDXL to raw hidden states of two encoders. So keys and values are
    multiplied by the linear map that best predicts the former from the latter. Attention that SD1.5 does not
    have, the pooled vector and the sizes have no effect at first.

    Args:
        clip: the encoder with projection.
        ids: batches of token ids, [B, 77], on which the map is fitted.
    """
    raw, normalised = [], []
    for batch in ids:
        output = clip(batch, output_hidden_states=True)
        raw.append(torch.cat([output.hidden_states[-3], output.hidden_states[-2]], dim=-1).flatten(0, 1))
        normalised.append(output.last_hidden_state.flatten(0, 1))
    towards = torch.linalg.lstsq(torch.cat(raw), torch.cat(normalised)).solution  # [128, 64]
    old, new = sd15.state_dict(), unet.state_dict()
    for name, value in new.items():
        if name not in old:
            continue
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            value.copy_(old[name] @ towards.T)
        else:
            value.copy_(old[name].reshape(value.shape))  # SD1.5 projects by 1 x 1 convolutions, SDXL by linear layers
    for name, module in unet.named_modules():
        if name.endswith("proj_out") and f"{name}.weight" not in old:
            _silence(module)
    _silence(unet.add_embedding.linear_2)


@torch.no_grad()
def sd3_from_flux(transformer: SD3Transformer2DModel, flux: FluxTransformer2DModel) -> None:
    """Fill SD3's transformer with FLUX's weights: its two-stream blocks, then its one-stream blocks in both streams.

    FLUX rotates queries and keys by position, and runs attention and feed-forward of a one-stream block in parallel.
    SD3 does neither, so the result is only a starting point. Guidance is set to 1.
    """
    old: Weights = flux.state_dict()
    new = _unguided_time(flux) | _copied(
        old, "time_text_embed.text_embedder.linear_2", "time_text_embed.text_embedder.linear_2"
    )
    pooled = old["time_text_embed.text_embedder.linear_1.weight"]
    new["time_text_embed.text_embedder.linear_1.weight"] = torch.cat([pooled, pooled], dim=1) / 2  # the same one twice
    new["time_text_embed.text_embedder.linear_1.bias"] = old["time_text_embed.text_embedder.linear_1.bias"]
    new |= _copied(old, "context_embedder", "context_embedder")
    new |= _copied(old, "norm_out.linear", "norm_out.linear")
    width, channels = len(old["x_embedder.weight"]), transformer.out_channels
    new["pos_embed.proj.weight"] = old["x_embedder.weight"].reshape(width, channels, 2, 2)
    new["pos_embed.proj.bias"] = old["x_embedder.bias"]
    for name in ("proj_out.weight", "proj_out.bias"):  # FLUX has channels first in a token, SD3 last
        new[name] = old[name].unflatten(0, (channels, 4)).transpose(0, 1).flatten(0, 1)

    new |= _blocks(flux)
    last = f"transformer_blocks.{len(transformer.transformer_blocks) - 1}"
    # the last block only reads the text: its norm has a scale and a shift, in this order
    for kind in ("weight", "bias"):
        shift, scale = new[f"{last}.norm1_context.linear.{kind}"].chunk(6)[:2]
        new[f"{last}.norm1_context.linear.{kind}"] = torch.cat([scale, shift])
    own = transformer.state_dict()
    transformer.load_state_dict(own | {name: value for name, value in new.items() if name in own})


@torch.no_grad()
def qwen_from_flux(
    transformer: QwenImageTransformer2DModel,
    flux: FluxTransformer2DModel,
    pooled: Tensor,
    text: Tensor,
    t5_text: Tensor,
) -> None:
    """Fill Qwen-Image's transformer with FLUX's weights: its two-stream blocks, then its one-stream blocks in both.

    FLUX has all of the text at one place, Qwen-Image each token at its own, so the result is only a starting point.
    The pooled vector, which Qwen-Image does not have, is fixed at its mean effect, and guidance at 1.

    Args:
        pooled: pooled features of some captions, [N, 64].
        text: features of tokens for Qwen-Image, [M, 64].
        t5_text: those of the tokens that say the same to FLUX.
    """
    old: Weights = flux.state_dict()
    new = _unguided_time(flux)
    new["time_text_embed.timestep_embedder.linear_2.bias"] += flux.time_text_embed.text_embedder(pooled).mean(dim=0)
    for source, target in (("x_embedder", "img_in"), ("norm_out.linear", "norm_out.linear"), ("proj_out", "proj_out")):
        new |= _copied(old, source, target)
    inputs = transformer.txt_norm(text)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    solution = torch.linalg.lstsq(inputs, flux.context_embedder(t5_text)).solution  # [65, 96]
    new["txt_in.weight"], new["txt_in.bias"] = solution[:-1].T, solution[-1]
    names = {
        "norm1.linear.": "img_mod.1.",
        "norm1_context.linear.": "txt_mod.1.",
        "ff.": "img_mlp.",
        "ff_context.": "txt_mlp.",
    }
    for name, value in _blocks(flux).items():
        block, part = name.split(".", 2)[1:]
        for one, other in names.items():
            if part.startswith(one):
                part = other + part.removeprefix(one)
                break
        new[f"transformer_blocks.{block}.{part}"] = value
    transformer.load_state_dict(transformer.state_dict() | new)


def _unguided_time(flux: FluxTransformer2DModel) -> Weights:
    """Return the embedding of time with that of guidance 1 as part of a bias."""
    new = _copied(flux.state_dict(), "time_text_embed.timestep_embedder", "time_text_embed.timestep_embedder")
    no_guidance = flux.time_text_embed.guidance_embedder(flux.time_text_embed.time_proj(torch.tensor([1000.0])))[0]
    bias = "time_text_embed.timestep_embedder.linear_2.bias"
    return new | {bias: new[bias] + no_guidance}


def _blocks(flux: FluxTransformer2DModel) -> Weights:
    """Return FLUX's two-stream blocks, then its one-stream blocks with the same weights in both streams."""
    old: Weights = flux.state_dict()
    num_two_stream, new = len(flux.transformer_blocks), {}
    for number in range(num_two_stream):
        new |= _copied(old, f"transformer_blocks.{number}", f"transformer_blocks.{number}")
    for number in range(len(flux.single_transformer_blocks)):
        new |= _two_streams(old, number, num_two_stream + number, flux.inner_dim)
    return new


def _two_streams(old: Weights, number: int, target: int, width: int) -> Weights:
    """Return a two-stream block whose streams both have the weights of FLUX's one-stream block `number`."""
    source, block = f"single_transformer_blocks.{number}", f"transformer_blocks.{target}"
    new: Weights = {}
    for kind in ("weight", "bias"):
        shift, scale, gate = old[f"{source}.norm.linear.{kind}"].chunk(3)
        for norm in ("norm1", "norm1_context"):
            new[f"{block}.{norm}.linear.{kind}"] = torch.cat([shift, scale, gate] * 2)
        for part in ("q", "k", "v"):
            for name in (f"to_{part}", f"add_{part}_proj"):
                new[f"{block}.attn.{name}.{kind}"] = old[f"{source}.attn.to_{part}.{kind}"]
        for ff in ("ff", "ff_context"):
            new[f"{block}.{ff}.net.0.proj.{kind}"] = old[f"{source}.proj_mlp.{kind}"]
    for part in ("q", "k"):
        for name in (f"norm_{part}", f"norm_added_{part}"):
            new[f"{block}.attn.{name}.weight"] = old[f"{source}.attn.norm_{part}.weight"]
    out, bias = old[f"{source}.proj_out.weight"], old[f"{source}.proj_out.bias"]
    for attention, ff in (("to_out.0", "ff"), ("to_add_out", "ff_context")):
        new[f"{block}.attn.{attention}.weight"], new[f"{block}.attn.{attention}.bias"] = out[:, :width], bias
        new[f"{block}.{ff}.net.2.weight"], new[f"{block}.{ff}.net.2.bias"] = out[:, width:], torch.zeros_like(bias)
    return new


def _copied(old: Weights, source: str, target: str) -> Weights:
    return {target + name.removeprefix(source): value for name, value in old.items() if name.startswith(f"{source}.")}


def _silence(module: nn.Linear) -> None:
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
