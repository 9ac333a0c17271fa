"""A6: a file of adapters is used to its last tensor, or refused by the name of what would not be used."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{LAYER.replace('.', '_')}"


@pytest.fixture
def model():
    return tiny_adapter("stable_diffusion")


def lora(model, layer=LAYER, rank=2):
    rows, columns = model.denoiser.get_submodule(layer).weight.shape
    return torch.ones(rank, columns), torch.ones(rows, rank)


def kohya(model):
    down, up = lora(model)
    return {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.alpha": torch.tensor(1.0)}


def refusal(model, path):
    before = {key: tensor.clone() for key, tensor in model.denoiser.state_dict().items()}
    with pytest.raises(UserError) as refused:
        model.load_policy(path)
    assert "\n" not in str(refused.value)
    assert f"model.policy={path}" in str(refused.value)
    assert not model.is_lora
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.denoiser.state_dict().items())
    return str(refused.value)


def saved(tmp_path, state, name="lora.safetensors"):
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    "key",
    [
        f"{KOHYA}.dora_scale",  # DoRA
        f"{KOHYA}.lora_mid.weight",  # LoCon by Tucker's decomposition
        f"{KOHYA}.diff",  # a whole change of weights
        f"{KOHYA}.diff_b",
        f"{KOHYA}.oft_blocks",
        f"{KOHYA}.bias",
        f"unet.{LAYER}.lora_magnitude_vector",
        f"unet.{LAYER}.lora_B.bias",
        "unet.conv_in.weight",
        "bundle_emb.cat.string_to_param.*",
    ],
)
def test_a_tensor_that_is_no_part_of_a_plain_lora_is_refused_by_name(model, tmp_path, key):
    model.load_policy(saved(tmp_path, kohya(model)))
    model.fold_adapters()
    told = refusal(model, saved(tmp_path, kohya(model) | {key: torch.ones(2)}, "more.safetensors"))
    assert f"left over: {key}; merge it into the network" in told


@pytest.mark.parametrize(
    ("key", "kind"), [("dora_scale", "DoRA"), ("diff_b", "whole changes of weights"), ("lora_B.bias", "biases")]
)
def test_what_else_a_file_has_is_told_by_its_kind(model, tmp_path, key, kind):
    told = refusal(model, saved(tmp_path, kohya(model) | {f"{KOHYA}.{key}": torch.ones(2)}))
    assert f"holds more than LoRA, LoKr and LoHa ({kind}), which would not be used" in told


@pytest.mark.parametrize("part", ["hada_w1_a", "lokr_w1"])
def test_a_part_of_loha_or_lokr_beside_a_lora_of_the_same_layer_is_refused(model, tmp_path, part):
    told = refusal(model, saved(tmp_path, kohya(model) | {f"{KOHYA}.{part}": torch.ones(2, 2)}))
    assert f"cannot be read: {part} is one too many" in told


@pytest.mark.parametrize("names", [("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("lokr_w1", "lokr_w2")])
def test_loha_and_lokr_of_other_sizes_are_refused(model, tmp_path, names):
    state = {f"{KOHYA}.{name}": torch.ones(2, 2) for name in names}
    assert f"of another shape: {LAYER} is (" in refusal(model, saved(tmp_path, state))


@pytest.mark.parametrize("encoder", ["lora_te_text_model", "lora_te1_text_model", "text_encoder.text_model"])
def test_adapters_of_a_text_encoder_are_refused(model, tmp_path, encoder):
    joined = ".encoder.layers.0.self_attn.q_proj"
    ends = (".lora_A.weight", ".lora_B.weight")
    own = {f"unet.{LAYER}{end}": tensor for end, tensor in zip(ends, lora(model), strict=True)}
    if encoder.startswith("lora_te"):
        joined, ends, own = joined.replace(".", "_"), (".lora_down.weight", ".lora_up.weight"), kohya(model)
    state = own | {f"{encoder}{joined}{end}": torch.ones(2, 2) for end in ends}
    assert "text_encoder" in refusal(model, saved(tmp_path, state)).replace("lora_te_", "text_encoder")


def test_an_alpha_without_its_matrices_is_refused(model, tmp_path):
    state = kohya(model) | {"lora_unet_nowhere.alpha": torch.tensor(1.0)}
    assert "left over: lora_unet_nowhere.alpha" in refusal(model, saved(tmp_path, state))


def test_adapters_of_fluxs_t5_that_diffusers_drops_with_a_note_in_its_log_are_refused(tmp_path):
    model, state = tiny_adapter("flux"), {}
    known, dropped = "lora_unet_double_blocks_0_img_attn_proj", "lora_te2_encoder_block_0_layer_0_SelfAttention_q"
    for key in (known, dropped):
        state |= {f"{key}.lora_down.weight": torch.ones(2, 32), f"{key}.lora_up.weight": torch.ones(32, 2)}
    told = refusal(model, saved(tmp_path, state))
    assert f"left over: {dropped}.lora_down.weight, {dropped}.lora_up.weight" in told
    own = {key: tensor for key, tensor in state.items() if known in key}
    model.load_policy(saved(tmp_path, own, "own.safetensors"))
    assert model.is_lora


def test_modules_that_peft_saved_whole_beside_its_adapters_are_refused(model, tmp_path):
    config = LoraConfig(r=2, target_modules=["to_q"])
    model.denoiser.add_adapter(config)
    state = {f"base_model.model.{key}": value for key, value in get_peft_model_state_dict(model.denoiser).items()}
    model.denoiser.unload_lora()
    config.save_pretrained(tmp_path)
    saved(tmp_path, state, "adapter_model.safetensors")
    model.load_policy(tmp_path)
    model.fold_adapters()
    saved(tmp_path, state | {"base_model.model.conv_out.bias": torch.ones(4)}, "adapter_model.safetensors")
    assert "left over: base_model.model.conv_out.bias" in refusal(model, tmp_path)


def test_dora_of_peft_is_refused(model, tmp_path):
    config = LoraConfig(r=2, target_modules=["to_q"], use_dora=True)
    model.denoiser.add_adapter(config)
    state = {f"base_model.model.{key}": value for key, value in get_peft_model_state_dict(model.denoiser).items()}
    model.denoiser.unload_lora()
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["use_dora"]
    saved(tmp_path, state, "adapter_model.safetensors")
    assert "lora_magnitude_vector" in refusal(model, tmp_path)
