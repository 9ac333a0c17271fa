"""The key layouts that weights were published in before diffusers, made of tiny networks of diffusers.

What is written here is undone by diffusers' own converters, so a mistake on this side cannot pass.
"""

import re

import pytest
import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(key, names):
    for new, old in names.items():
        key = key.replace(f".{new}.", f".{old}.")
    return key


def unet(network):
    """Return CompVis's keys of a UNet."""
    layers = network.config.layers_per_block + 1
    known = {}
    for kind in ("layers", *(["addition_embed_type"] if network.config.addition_embed_type else [])):
        known |= DIFFUSERS_TO_LDM_MAPPING["unet"][kind]

    def original(key):
        if key in known:
            return known[key]
        if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
            kind, number, rest = found.groups()
            place = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
        else:
            side, block, kind, number, rest = re.match(r"(\w+)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key).groups()
            block, number = int(block), int(number)
            match side, kind:
                case "down", "downsamplers":
                    return f"input_blocks.{(block + 1) * layers}.0.op.{rest.removeprefix('conv.')}"
                case "up", "upsamplers":
                    after = 2 if hasattr(network.up_blocks[block], "attentions") else 1
                    return f"output_blocks.{(block + 1) * layers - 1}.{after}.{rest}"
                case "down", _:
                    place = f"input_blocks.{block * layers + number + 1}"
                case _:
                    place = f"output_blocks.{block * layers + number}"
            place += ".0" if kind == "resnets" else ".1"
        return f"{place}.{renamed('.' + rest, RESNET)[1:] if kind == 'resnets' else rest}"

    return {original(key): tensor for key, tensor in network.state_dict().items()}


def vae(network):
    """Return CompVis's keys of a VAE."""
    last = len(network.config.up_block_types) - 1
    known = DIFFUSERS_TO_LDM_MAPPING["vae"]
    state = {}
    for key, tensor in network.state_dict().items():
        if key in known:
            state[known[key]] = tensor
            continue
        key = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{last - int(found[1])}", key)
        key = re.sub(r"down_blocks\.(\d)", r"down.\1", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace(".resnets.", ".block.")
        key = key.replace("conv_shortcut", "nin_shortcut")
        key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        if "attn_1" in key:
            key = renamed(key, VAE_ATTENTION)
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        state[key] = tensor
    return state


def swapped(tensor):
    """Shift before scale instead of scale before shift."""
    return torch.cat(tensor.chunk(2)[::-1])


def transformer(network, names, joined, swaps):
    """Return keys of a transformer: renamed, with some tensors joined and some with their halves swapped."""
    state, parts = {}, {}
    for key, tensor in network.state_dict().items():
        for pattern, new, place in joined:
            if found := re.fullmatch(pattern, key):
                parts.setdefault(found.expand(new), {})[place] = tensor
                break
        else:
            new = key
            for pattern, replacement in names:
                new = re.sub(f"^{pattern}", replacement, new)
            state[new] = swapped(tensor) if any(re.match(swap, key) for swap in swaps) else tensor
    return state | {key: torch.cat([pieces[place] for place in sorted(pieces)]) for key, pieces in parts.items()}


def sd3(network):
    """Return Stability's keys of a Stable Diffusion 3."""
    last = network.config.num_layers - 1
    joined = [
        (rf"transformer_blocks\.(\d+)\.{ours}_?{letter}{end}\.(\w+)", rf"joint_blocks.\1.{theirs}.qkv.\2", place)
        for ours, theirs, end in (
            (r"attn\.to", "x_block.attn", ""),
            (r"attn2\.to", "x_block.attn2", ""),
            (r"attn\.add", "context_block.attn", "_proj"),
        )
        for place, letter in enumerate("qkv")
    ]
    block = r"transformer_blocks\.(\d+)\."
    names = [
        (r"pos_embed\.pos_embed", "pos_embed"),
        (r"pos_embed\.proj", "x_embedder.proj"),
        (r"time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
        (r"time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
        (r"time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
        (r"time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
        (r"norm_out\.linear", "final_layer.adaLN_modulation.1"),
        (r"proj_out", "final_layer.linear"),
        (block + r"norm1\.linear", r"joint_blocks.\1.x_block.adaLN_modulation.1"),
        (block + r"norm1_context\.linear", r"joint_blocks.\1.context_block.adaLN_modulation.1"),
        (block + r"(attn2?)\.norm_([qk])", r"joint_blocks.\1.x_block.\2.ln_\3"),
        (block + r"attn\.norm_added_([qk])", r"joint_blocks.\1.context_block.attn.ln_\2"),
        (block + r"(attn2?)\.to_out\.0", r"joint_blocks.\1.x_block.\2.proj"),
        (block + r"attn\.to_add_out", r"joint_blocks.\1.context_block.attn.proj"),
        (block + r"ff\.net\.0\.proj", r"joint_blocks.\1.x_block.mlp.fc1"),
        (block + r"ff\.net\.2", r"joint_blocks.\1.x_block.mlp.fc2"),
        (block + r"ff_context\.net\.0\.proj", r"joint_blocks.\1.context_block.mlp.fc1"),
        (block + r"ff_context\.net\.2", r"joint_blocks.\1.context_block.mlp.fc2"),
    ]
    return transformer(network, names, joined, [r"norm_out", rf"transformer_blocks\.{last}\.norm1_context"])


def flux(network):
    """Return Black Forest Labs' keys of a FLUX.1."""
    double, single = r"transformer_blocks\.(\d+)\.", r"single_transformer_blocks\.(\d+)\."
    joined = [
        (double + rf"attn\.{ours.format(letter)}\.(\w+)", rf"double_blocks.\1.{theirs}.qkv.\2", place)
        for ours, theirs in (("to_{}", "img_attn"), ("add_{}_proj", "txt_attn"))
        for place, letter in enumerate("qkv")
    ]
    joined += [
        (single + rf"{ours}\.(\w+)", r"single_blocks.\1.linear1.\2", place)
        for place, ours in enumerate((r"attn\.to_q", r"attn\.to_k", r"attn\.to_v", "proj_mlp"))
    ]
    norms = {"q": "query_norm.scale", "k": "key_norm.scale"}
    names = [
        (r"time_text_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
        (r"time_text_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
        (r"time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
        (r"time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
        (r"time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
        (r"time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
        (r"context_embedder", "txt_in"),
        (r"x_embedder", "img_in"),
        (r"norm_out\.linear", "final_layer.adaLN_modulation.1"),
        (r"proj_out", "final_layer.linear"),
        (single + r"norm\.linear", r"single_blocks.\1.modulation.lin"),
        (single + r"proj_out", r"single_blocks.\1.linear2"),
        (double + r"norm1\.linear", r"double_blocks.\1.img_mod.lin"),
        (double + r"norm1_context\.linear", r"double_blocks.\1.txt_mod.lin"),
        (double + r"attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
        (double + r"attn\.to_add_out", r"double_blocks.\1.txt_attn.proj"),
        (double + r"ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.0"),
        (double + r"ff\.net\.2", r"double_blocks.\1.img_mlp.2"),
        (double + r"ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.0"),
        (double + r"ff_context\.net\.2", r"double_blocks.\1.txt_mlp.2"),
    ]
    for letter, norm in norms.items():
        names += [
            (single + rf"attn\.norm_{letter}\.weight", rf"single_blocks.\1.norm.{norm}"),
            (double + rf"attn\.norm_{letter}\.weight", rf"double_blocks.\1.img_attn.norm.{norm}"),
            (double + rf"attn\.norm_added_{letter}\.weight", rf"double_blocks.\1.txt_attn.norm.{norm}"),
        ]
    return transformer(network, names, joined, [r"norm_out"])


def chroma(network):
    """Return the keys of a Chroma: those of FLUX.1, but for a network of its own that makes all modulations."""
    names = {".linear_1.": ".in_layer.", ".linear_2.": ".out_layer."}
    state = flux(network)
    for key in [key for key in state if key.startswith("distilled_guidance_layer.")]:
        new = re.sub(r"norms\.(\d+)\.weight", r"norms.\1.scale", key)
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        state[new] = state.pop(key)
    return state


@pytest.fixture(autouse=True)
def narrow_flux(monkeypatch):
    """Let diffusers' converters of FLUX.1's layout, which know the real width alone, read the tiny networks of 32."""
    import inspect

    from diffusers.loaders import single_file_model, single_file_utils

    for kind in ("Flux", "Chroma"):
        entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[f"{kind}Transformer2DModel"]
        convert = entry["checkpoint_mapping_fn"]
        source = inspect.getsource(convert)
        assert "inner_dim = 3072" in source
        names = dict(vars(single_file_utils))
        exec(source.replace("inner_dim = 3072", "inner_dim = 32"), names)
        monkeypatch.setitem(entry, "checkpoint_mapping_fn", names[convert.__name__])


def z_image(network):
    """Return the keys of Z-Image, whose query, key and value are one."""
    names = {
        "all_final_layer.2-1.": "final_layer.",
        "all_x_embedder.2-1.": "x_embedder.",
        ".attention.to_out.0.": ".attention.out.",
        ".attention.norm_k.": ".attention.k_norm.",
        ".attention.norm_q.": ".attention.q_norm.",
    }
    state, original = network.state_dict(), {}
    for key, tensor in state.items():
        if ".attention.to_q." in key:
            fused = [state[key.replace("to_q", name)] for name in ("to_q", "to_k", "to_v")]
            original[key.replace("to_q", "qkv")] = torch.cat(fused)
        elif ".attention.to_k." not in key and ".attention.to_v." not in key:
            for new, old in names.items():
                key = key.replace(new, old)
            original[key] = tensor
    return original


@pytest.fixture
def to_original():
    """The original keys of a denoiser or VAE, without the prefix that they have in a file of a whole pipeline."""
    kinds = {
        "UNet2DConditionModel": unet,
        "AutoencoderKL": vae,
        "SD3Transformer2DModel": sd3,
        "FluxTransformer2DModel": flux,
        "ChromaTransformer2DModel": chroma,
        "ZImageTransformer2DModel": z_image,
    }
    return lambda network: {key: t.clone() for key, t in kinds[type(network).__name__](network).items()}
