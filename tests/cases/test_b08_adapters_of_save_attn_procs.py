"""B8: adapters as `unet.save_attn_procs` of diffusers wrote them, without `unet.` before their keys, are read."""

import pytest
import torch
from safetensors.torch import save_file

from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.low_rank import adapters_of

RANK, TARGETS = 2, ("to_q", "to_k", "to_v", "to_out.0")


def adapters(network):
    """The factors of each adapter by the name of its layer: down [r, in] and up [out, r]."""
    draw = torch.Generator().manual_seed(0)
    layers = {name: layer for name, layer in network.named_modules() if name.endswith(TARGETS)}
    return {
        name: (torch.randn(RANK, layer.weight.shape[1], generator=draw),
               torch.randn(layer.weight.shape[0], RANK, generator=draw))
        for name, layer in layers.items()
    }  # fmt: skip


def processor_key(name):
    """Before 2024: down_blocks...attn1.processor.to_q_lora.down.weight"""
    attention, _, layer = name.removesuffix(".0").rpartition(".")
    return f"{attention}.processor.{layer}_lora"


def layer_key(name):
    """Since then: down_blocks...attn1.to_q.lora.down.weight"""
    return f"{name}.lora"


@pytest.mark.parametrize("prefix", ["", "unet."])
@pytest.mark.parametrize("key", [processor_key, layer_key])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_factors_of_every_layer_arrive(tmp_path, prefix, key, suffix):
    model = tiny_adapter("stable_diffusion")
    factors = adapters(model.denoiser)
    state = {}
    for name, (down, up) in factors.items():
        state |= {f"{prefix}{key(name)}.down.weight": down, f"{prefix}{key(name)}.up.weight": up}
    file = tmp_path / f"pytorch_lora_weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, file)
    model.load_policy(str(tmp_path))
    loaded = adapters_of(model.denoiser)
    assert loaded.keys() == factors.keys()
    for name, (down, up) in factors.items():
        assert loaded[name][0].equal(down)
        assert loaded[name][1].equal(up)


def test_an_alpha_beside_them_scales_them(tmp_path):
    model = tiny_adapter("stable_diffusion")
    state = {}
    for name, (down, up) in adapters(model.denoiser).items():
        key = processor_key(name)
        state |= {f"{key}.down.weight": down, f"{key}.up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    model.load_policy(str(tmp_path))
    loaded = adapters_of(model.denoiser)
    for name, (down, up) in adapters(tiny_adapter("stable_diffusion").denoiser).items():
        torch.testing.assert_close(loaded[name][1] @ loaded[name][0], up @ down / RANK)


def test_those_of_a_text_encoder_are_still_refused(tmp_path):
    model = tiny_adapter("stable_diffusion")
    name, (down, up) = next(iter(adapters(model.denoiser).items()))
    state = {f"{layer_key(name)}.down.weight": down, f"{layer_key(name)}.up.weight": up}
    state |= {f"text_encoder.layers.0.q_proj.lora.{way}.weight": torch.zeros(2, 2) for way in ("down", "up")}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="has adapters of more than the unet"):
        model.load_policy(str(tmp_path))
