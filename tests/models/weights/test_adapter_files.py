"""Adapters under the names of other programs change the very layers they were made for, or are refused."""

import re

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from alignbench.errors import UserError
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import tiny_adapter


def exhaustive(names):
    return [pytest.param(name, marks=pytest.mark.matrix) for name in names]


# the layers of one block of each kind in the layout that was first published, and what they are here
LUMINA = {
    "layers.0.attention.qkv": ["layers.0.attn.to_q", "layers.0.attn.to_k", "layers.0.attn.to_v"],
    "noise_refiner.0.attention.out": ["noise_refiner.0.attn.to_out.0"],
    "context_refiner.0.feed_forward.w3": ["context_refiner.0.feed_forward.linear_3"],
    "layers.0.adaLN_modulation.1": ["layers.0.norm1.linear"],
}
FLUX_2 = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{letter}" for letter in "qkv"],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.attn.add_{letter}_proj" for letter in "qkv"],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.linear_out"],
    "single_blocks.0.linear1": ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.attn.to_out"],
}
WAN = {
    "blocks.0.self_attn.q": ["blocks.0.attn1.to_q"],
    "blocks.0.self_attn.o": ["blocks.0.attn1.to_out.0"],
    "blocks.1.cross_attn.v": ["blocks.1.attn2.to_v"],
    "blocks.1.ffn.0": ["blocks.1.ffn.net.0.proj"],
    "blocks.1.ffn.2": ["blocks.1.ffn.net.2"],
}
ORIGINAL = {"lumina2": LUMINA, "flux2": FLUX_2, "flux2_klein": FLUX_2, "wan": WAN}
# of the families whose single files diffusers reads: their own converters say what a layer of them is
READ_WHOLE = ["stable_diffusion_3", *exhaustive(["flux", "flux_kontext", "chroma", "z_image"])]
SPELLINGS = {
    "kohya": lambda name: f"lora_unet_{name.replace('.', '_')}",
    "lycoris": lambda name: f"lycoris_{name.replace('.', '_')}",
    "comfyui": lambda name: f"diffusion_model.{name}",
    "peft": lambda name: f"base_model.model.{name}",
    "bare": lambda name: name,
}


LAYER = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def untouched():
    model = tiny_adapter("stable_diffusion_3")
    return model, weights(model)


@pytest.fixture
def model(untouched):
    """A Stable Diffusion 3 as it was built, whatever the tests before did to it."""
    model, state = untouched
    model.fold_adapters()
    model.denoiser.to(torch.float32).load_state_dict(state)
    return model


def weights(model):
    return {key: tensor.clone() for key, tensor in model.denoiser.state_dict().items()}


def save(state, file):
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, file)
    return file


def assert_adds(model, before, changes, share=1.0):
    """Assert that each weight is what it was before with `share` of its change."""
    model.fold_adapters()
    for key, tensor in model.denoiser.state_dict().items():
        change = share * changes[key].reshape(tensor.shape) if key in changes else 0
        torch.testing.assert_close(tensor, before[key] + change, rtol=1e-6, atol=1e-6, msg=key)


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator) / 2


def lora(generator, rows, columns):
    """Return the parts of a LoRA of rank 2 with alpha 3, and its change."""
    down, up = draw(generator, 2, columns), draw(generator, rows, 2)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(3.0)}, 1.5 * up @ down


def lokr(generator, rows, columns):
    """Return the parts of a LoKr whose second factor has rank 2 and alpha 3, and its change."""
    factor = next(one for one in (4, 3, 2, 1) if rows % one == 0)
    other = next(one for one in (4, 3, 2, 1) if columns % one == 0)
    first, left, right = (
        draw(generator, factor, other), draw(generator, rows // factor, 2), draw(generator, 2, columns // other),
    )  # fmt: skip
    change = torch.einsum("ij,kl->ikjl", first, left @ right).reshape(rows, columns)
    return {"lokr_w1": first, "lokr_w2_a": left, "lokr_w2_b": right, "alpha": torch.tensor(3.0)}, 1.5 * change


def loha(generator, rows, columns):
    """Return the parts of a LoHa of rank 2 without an alpha, and its change."""
    one, two, three, four = (draw(generator, *shape) for shape in ((rows, 2), (2, columns)) * 2)
    return {"hada_w1_a": one, "hada_w1_b": two, "hada_w2_a": three, "hada_w2_b": four}, (one @ two) * (three @ four)


KINDS = {"lora": lora, "lokr": lokr, "loha": loha}


def file_of(kind, spelling, sizes):
    """Return a file of adapters and their changes by the names of modules that have these rows and columns."""
    generator, state, changes = torch.Generator().manual_seed(0), {}, {}
    for name, (rows, columns) in sizes.items():
        parts, changes[name] = KINDS[kind](generator, rows, columns)
        state |= {f"{SPELLINGS[spelling](name)}.{part}": tensor for part, tensor in parts.items()}
    return state, changes


@pytest.mark.parametrize("kind", [*exhaustive(["lora"]), "lokr"])
@pytest.mark.parametrize("family", READ_WHOLE)
def test_layers_of_the_first_layout_are_changed_as_if_that_network_had_been(family, kind, to_original, tmp_path):
    """The expected weights are those of a whole network in that layout, with the changes, as diffusers converts it."""
    model, donor = tiny_adapter(family), tiny_adapter(family)
    whole = {key: tensor.clone() for key, tensor in to_original(model.denoiser).items()}
    inside = [block.split(".")[-1] for block, _ in model.original_blocks]
    names = [
        f"{blocks}.0.{layer}"
        for (blocks, _), block in model.original_blocks.items()
        for layer in block
        if f"{blocks}.0.{layer}.weight" in whole
    ]
    assert len(names) >= 2 * len(inside)
    sizes = {name: whole[f"{name}.weight"].shape for name in names}
    state, changes = file_of(kind, "kohya", sizes)
    for name, change in changes.items():
        whole[f"{name}.weight"] += change
    donor.load_policy(save(whole, tmp_path / "whole.safetensors"))
    model.load_policy(save(state, tmp_path / "adapters.safetensors"))
    assert model.is_lora == (kind == "lora")
    assert_adds(model, weights(donor), {})


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha"])
@pytest.mark.parametrize("family", exhaustive(ORIGINAL))
def test_layers_of_the_first_layout_where_diffusers_reads_no_whole_network(family, kind, tmp_path):
    model = tiny_adapter(family)
    before = weights(model)
    sizes = {
        name: (sum(len(before[f"{layer}.weight"]) for layer in layers), before[f"{layers[0]}.weight"].shape[1])
        for name, layers in ORIGINAL[family].items()
    }
    state, changes = file_of(kind, "comfyui", sizes)
    model.load_policy(save(state, tmp_path / "adapters.safetensors"))
    expected = {}
    for name, layers in ORIGINAL[family].items():
        rows = [len(before[f"{layer}.weight"]) for layer in layers]
        parts = zip(layers, changes[name].split(rows), strict=True)
        expected |= {f"{layer}.weight": part for layer, part in parts}
    assert_adds(model, before, expected)


def test_every_family_with_names_of_its_own_is_tried_here():
    named = {name for name, family in FAMILIES.items() if family.original_blocks}
    assert named == {*ORIGINAL, "stable_diffusion_3", "flux", "flux_kontext", "chroma", "z_image"}


@pytest.mark.parametrize("kind", ["lora", "lokr"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_programs_spell_the_same_layer_in_many_ways(spelling, kind, model, tmp_path):
    before = weights(model)
    state, changes = file_of(kind, spelling, {LAYER: before[f"{LAYER}.weight"].shape})
    if spelling in ("comfyui", "peft"):  # where dots stay dots
        names = {"lora_down": "lora_A", "lora_up": "lora_B"}
        state = {re.sub("lora_down|lora_up", lambda found: names[found[0]], key): t for key, t in state.items()}
    model.load_policy(save(state, tmp_path / "adapters.safetensors"))
    assert_adds(model, before, {f"{LAYER}.weight": changes[LAYER]})


@pytest.mark.parametrize("fused", ["to_qkv", "to_added_qkv"])
def test_projections_that_diffusers_joined_are_split(fused, model, tmp_path):
    before, block = weights(model), "transformer_blocks.0.attn"
    names = {"to_qkv": "to_{}", "to_added_qkv": "add_{}_proj"}[fused]
    layers = [f"{block}.{names.format(letter)}.weight" for letter in "qkv"]
    sizes = {f"{block}.{fused}": (3 * len(before[layers[0]]), before[layers[0]].shape[1])}
    state, changes = file_of("lora", "comfyui", sizes)
    model.load_policy(save(state, tmp_path / "adapters.safetensors"))
    assert_adds(model, before, dict(zip(layers, changes[f"{block}.{fused}"].chunk(3), strict=True)))


# ---- UNets


@pytest.mark.parametrize("kind", ["lokr", *exhaustive(["loha"])])
@pytest.mark.parametrize("family", ["stable_diffusion", *exhaustive(["stable_diffusion_xl"])])
def test_all_layers_of_a_unet_under_the_names_of_kohya(family, kind, tmp_path):
    """Convolutions among them, whose changes are those of their flattened weights."""
    model = tiny_adapter(family)
    before = weights(model)
    sizes = {
        name: (len(before[f"{name}.weight"]), before[f"{name}.weight"][0].numel())
        for name, _ in model.denoiser.named_modules()
        if "_block" in name and before.get(f"{name}.weight", torch.ones(1)).ndim >= 2
    }
    state, changes = file_of(kind, "kohya", sizes)
    model.load_policy(save(state, tmp_path / "adapters.safetensors"))
    assert not model.is_lora
    assert_adds(model, before, {f"{name}.weight": change for name, change in changes.items()})


@pytest.mark.parametrize("kind", exhaustive(["lora", "lokr"]))
def test_sdxl_under_the_names_of_its_first_layout(kind, to_original, tmp_path):
    """Kohya's scripts name SDXL's layers so. Which they are here is known to diffusers alone."""
    model, donor = tiny_adapter("stable_diffusion_xl"), tiny_adapter("stable_diffusion_xl")
    whole = {key: tensor.clone() for key, tensor in to_original(model.denoiser).items()}
    names = [key.removesuffix(".weight") for key in whole if key.endswith(("to_k.weight", "proj_in.weight"))]
    assert any(name.startswith("input_blocks") for name in names)
    state, changes = file_of(kind, "kohya", {name: whole[f"{name}.weight"].shape for name in names})
    for name, change in changes.items():
        whole[f"{name}.weight"] += change
    donor.load_policy(save(whole, tmp_path / "whole.safetensors"))
    model.load_policy(save(state, tmp_path / "adapters.safetensors"))
    assert_adds(model, weights(donor), {})


# ---- what becomes of them


def small(model, kind="lokr", layer=LAYER):
    state, changes = file_of(kind, "lycoris", {layer: model.denoiser.get_submodule(layer).weight.shape})
    return state, changes[layer]


def test_a_lokr_is_part_of_the_start_that_training_and_strength_know(model, tmp_path):
    before = weights(model)
    state, change = small(model)
    model.load_policy(save(state, tmp_path / "lokr.safetensors"), keep_start=True)
    kept = model.reference_network.state_dict()
    assert all(torch.equal(kept[key], tensor) for key, tensor in before.items())
    model.scale_policy(0.5)
    assert_adds(model, before, {f"{LAYER}.weight": change}, share=0.5)

    start = weights(model)
    model.prepare_training("lora", rank=2, alpha=2)
    model.fold_adapters()
    assert_adds(model, start, {})


def test_lora_beside_lokr_becomes_part_of_the_weights_as_well(model, tmp_path):
    before, other = weights(model), LAYER.replace("to_q", "to_v")
    (state, change), (more, second) = small(model), small(model, "lora", other)
    model.load_policy(save(state | more, tmp_path / "mixed.safetensors"))
    assert not model.is_lora
    assert_adds(model, before, {f"{LAYER}.weight": change, f"{other}.weight": second})


def test_a_change_is_rounded_once_in_half_precision(model, tmp_path):
    before = weights(model)[f"{LAYER}.weight"].bfloat16()
    model.denoiser.to(torch.bfloat16)
    state, change = small(model)
    model.load_policy(save(state, tmp_path / "lokr.safetensors"))
    found = model.denoiser.get_submodule(LAYER).weight
    assert torch.equal(found, (before.float() + change).bfloat16())


# ---- what is refused


def refusal(model, state, file):
    before = weights(model)
    with pytest.raises(UserError) as refused:
        model.load_policy(save(state, file))
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)
    assert not model.is_lora
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.denoiser.state_dict().items())
    return str(refused.value)


def test_adapters_of_other_sizes_or_without_a_part_are_refused_by_name(model, tmp_path):
    state, _ = small(model)
    name, file = f"lycoris_{LAYER.replace('.', '_')}", tmp_path / "lokr.safetensors"
    whole, (rows, columns) = state, model.denoiser.get_submodule(LAYER).weight.shape
    cut = whole | {f"{name}.lokr_w2_a": whole[f"{name}.lokr_w2_a"][1:]}
    assert f"of another shape: {LAYER} is ({rows - 4}, {columns})" in refusal(model, cut, file)
    lost = {key: tensor for key, tensor in whole.items() if not key.endswith("w2_b")}
    assert f"the adapter {name} of model.policy={file} cannot be read: lokr_w2_b is missing" in refusal(
        model, lost, file
    )
    large = torch.ones(400, 400)
    huge = {f"{name}.lokr_w1": large, f"{name}.lokr_w2": large}
    assert f"too many rows: {name} has 160000" in refusal(model, huge, file)


@pytest.mark.parametrize("shape", [(), (0, 16)])
@pytest.mark.parametrize("alpha", [True, False])
def test_a_lora_of_no_rank_is_refused(model, tmp_path, shape, alpha):
    name = f"lycoris_{LAYER.replace('.', '_')}"
    state = {f"{name}.lora_down.weight": torch.ones(shape), f"{name}.lora_up.weight": torch.ones(16, 2)}
    told = refusal(model, state | ({f"{name}.alpha": torch.tensor(1.0)} if alpha else {}), tmp_path / "l.safetensors")
    assert ("has an alpha of nothing or that is no number" if alpha else f"{LAYER}.lora_") in told


def test_a_fused_lora_of_another_size_is_refused(model, tmp_path):
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    state = {f"{name}.lora_down.weight": torch.ones(2, 16), f"{name}.lora_up.weight": torch.ones(45, 2)}
    told = refusal(model, state, tmp_path / "lora.safetensors")
    assert f"of another shape: {name}.lora_up.weight is (45, 2) instead of (48, 2)" in told


def test_a_layer_that_is_there_fused_and_alone_is_refused(model, tmp_path):
    fused, alone = "diffusion_model.joint_blocks.0.x_block.attn.qkv", f"transformer.{LAYER}"
    state = {}
    for name, rows in ((fused, 48), (alone, 16)):
        state |= {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(rows, 2)}
    assert f"has two adapters of {LAYER}; one is" in refusal(model, state, tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("kohya's scripts", "lora_unet_joint_blocks_0_strange_layer"),
        ("LyCORIS", "lycoris_strange_layer"),
        ("ComfyUI and ai-toolkit", "diffusion_model.strange.layer"),
        ("OneTrainer", "lora_transformer_strange_layer"),
    ],
)
def test_a_layer_that_is_not_known_is_told_with_the_layout(model, tmp_path, layout, name):
    state, _ = small(model, "lora")
    state |= {f"{name}.lora_down.weight": torch.ones(2, 16), f"{name}.lora_up.weight": torch.ones(16, 2)}
    told = refusal(model, state, tmp_path / "lora.safetensors")
    assert f"the layout of {layout}, in which these layers of a SD3Transformer2DModel are not known" in told
    assert f"left over: {name}.lora_down.weight, {name}.lora_up.weight; convert it" in told


def test_a_lokr_of_a_text_encoder_is_refused(tmp_path):
    model = tiny_adapter("stable_diffusion")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state, _ = file_of("lokr", "kohya", {layer: model.denoiser.get_submodule(layer).weight.shape})
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    state |= {f"{text}.lokr_w1": torch.ones(2, 2), f"{text}.lokr_w2": torch.ones(2, 2)}
    told = refusal(model, state, tmp_path / "lokr.safetensors")
    assert "has adapters of more than the unet, which alone is loaded" in told
    assert "text_encoder" in told


def test_a_lokr_that_peft_saved_has_its_scale_elsewhere(model, tmp_path):
    LoraConfig(r=2, target_modules=["to_q"]).save_pretrained(tmp_path)
    state = {f"base_model.model.{LAYER}.lokr_{w}": torch.ones(4, 4) for w in ("w1", "w2")}
    save(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"is a LoKr or LoHa of PEFT, whose scale .* merge it"):
        model.load_policy(tmp_path)
