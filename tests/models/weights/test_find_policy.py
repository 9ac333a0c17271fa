"""Published policies load in every layout they come in, to the last tensor, or are refused by what is wrong."""

import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants, errors
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from alignbench.errors import UserError
from alignbench.models.adapter import ModelAdapter
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights import find_policy as policies
from alignbench.models.weights.find_policy import check_policy, find_policy, policy_label
from tests.families import EVERY, marked

UNETS = [name for name, family in FAMILIES.items() if family.denoiser_name == "unet"]
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(params=EVERY)
def family(request) -> str:
    return request.param


@pytest.fixture(params=marked(name for name, family in FAMILIES.items() if family.single_file_keys))
def original_family(request) -> str:
    return request.param


@pytest.fixture
def donor(family) -> ModelAdapter:
    return tiny_adapter(family, seed=5)


@pytest.fixture
def model(family) -> ModelAdapter:
    return tiny_adapter(family)


def weights(model: ModelAdapter) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in model.denoiser.state_dict().items()}


def assert_same(model, state, **tolerance):
    found = model.denoiser.state_dict()
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        torch.testing.assert_close(found[key], tensor, **(tolerance or {"rtol": 0, "atol": 0}), msg=key)


def refusal(model, path, *parts):
    with pytest.raises(UserError) as refused:
        model.load_policy(path)
    message = str(refused.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message
    return message


# ---- whole networks


def test_a_network_in_its_subfolder_or_that_folder_or_its_file(donor, model, tmp_path):
    donor.save_policy(tmp_path)
    for path in (tmp_path, tmp_path / donor.denoiser_name, tmp_path / donor.denoiser_name / FILE):
        model.load_policy(path)
        assert_same(model, weights(donor))


@pytest.mark.parametrize("family", ["flux"], indirect=True)
@pytest.mark.parametrize("wrapper", ["", "module.", "unet.", "transformer.", "module._orig_mod.", "_orig_mod.unet."])
def test_a_bare_file_with_or_without_what_programs_put_before_its_keys(donor, model, wrapper, tmp_path):
    save_file({wrapper + key: tensor for key, tensor in weights(donor).items()}, tmp_path / FILE)
    model.load_policy(tmp_path)
    assert_same(model, weights(donor))


@pytest.mark.parametrize(
    ("name", "nested"), [("unet.pth", False), ("model.bin", False), ("last.ckpt", True), ("step_20.safetensors", False)]
)
def test_a_state_dict_under_any_name(name, nested, tmp_path):
    donor, model = tiny_adapter("stable_diffusion", seed=5), tiny_adapter("stable_diffusion")
    if name.endswith("safetensors"):
        save_file(weights(donor), tmp_path / name)
    else:
        torch.save({"state_dict": weights(donor), "step": 3} if nested else weights(donor), tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        model.load_policy(path)
        assert_same(model, weights(donor))


def test_shards_are_put_together_and_missed_by_name(tmp_path):
    donor, model = tiny_adapter("flux", seed=5), tiny_adapter("flux")
    donor.denoiser.save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("*-of-*"))
    assert len(shards) > 1
    for path in (tmp_path, tmp_path / f"{FILE}.index.json"):
        model.load_policy(path)
        assert_same(model, weights(donor))
    shards[0].unlink()
    refusal(model, tmp_path, f"lacks {shards[0].name}, which {FILE}.index.json lists")


def test_half_precision_weights_are_widened_and_plain_ones_preferred(tmp_path):
    donor, model = tiny_adapter("stable_diffusion", seed=5), tiny_adapter("stable_diffusion")
    half = {key: tensor.half() for key, tensor in weights(donor).items()}
    save_file(half, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    model.load_policy(tmp_path)
    assert_same(model, {key: tensor.float() for key, tensor in half.items()})
    save_file(weights(donor), tmp_path / FILE)
    model.load_policy(tmp_path)
    assert_same(model, weights(donor))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_original_layout_is_converted(original_family, prefix, to_original, tmp_path):
    donor, model = tiny_adapter(original_family, seed=5), tiny_adapter(original_family)
    save_file({prefix + key: t for key, t in to_original(donor.denoiser).items()}, tmp_path / "model.safetensors")
    model.load_policy(tmp_path / "model.safetensors")
    assert_same(model, weights(donor))


def test_what_is_missing_or_left_over_is_named(donor, model, tmp_path):
    state = weights(donor)
    lost = max(state)
    save_file({key: tensor for key, tensor in state.items() if key != lost}, tmp_path / "a.safetensors")
    refusal(model, tmp_path / "a.safetensors", f"missing: {lost}")
    save_file(state | {"extra.weight": torch.zeros(1)}, tmp_path / "b.safetensors")
    refusal(model, tmp_path / "b.safetensors", "left over: ", "extra.weight")


@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_what_is_missing_or_left_over_in_the_original_layout_is_named(donor, model, to_original, tmp_path):
    state = to_original(donor.denoiser)
    ours, lost = {
        "unet": ("conv_out.weight", "out.2.weight"),
        "transformer": ("proj_out.weight", "final_layer.linear.weight"),
    }[model.denoiser_name]
    save_file({key: tensor for key, tensor in state.items() if key != lost}, tmp_path / "a.safetensors")
    # diffusers' converter of UNets goes on without it, so it is missed under its new name
    refusal(model, tmp_path / "a.safetensors", f"missing: {ours if model.denoiser_name == 'unet' else lost}")
    save_file(state | {"extra.weight": torch.zeros(1)}, tmp_path / "b.safetensors")
    refusal(model, tmp_path / "b.safetensors", "left over: ", "extra.weight")


def test_a_whole_pipeline_in_one_file_is_no_policy(to_original, tmp_path):
    model = tiny_adapter("stable_diffusion")
    state = {f"model.diffusion_model.{key}": tensor for key, tensor in to_original(model.denoiser).items()}
    state |= {f"first_stage_model.{key}": tensor for key, tensor in to_original(model.pipeline.vae).items()}
    save_file(state, tmp_path / "model.safetensors")
    refusal(model, tmp_path, "left over: first_stage_model.", "give a file of the network alone")


def test_the_network_of_another_family_is_refused(to_original, tmp_path):
    sd3, flux, sd = (tiny_adapter(name) for name in ("stable_diffusion_3", "flux", "stable_diffusion"))
    save_file(to_original(sd3.denoiser), tmp_path / "sd3.safetensors")
    refusal(flux, tmp_path / "sd3.safetensors", "do not fit the FluxTransformer2DModel", "that they were made of")
    sd3.save_policy(tmp_path / "policy")
    refusal(flux, tmp_path / "policy", "do not fit the FluxTransformer2DModel")
    refusal(sd, tmp_path / "policy", "holds a transformer, but this model has a unet")


# ---- adapters


def adapters(model: ModelAdapter, seed: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Return random adapters of some layers, (A, B, alpha), of different ranks and alphas."""
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, _ in model.denoiser.named_modules() if name.endswith((".to_q", ".to_v", ".to_out.0"))]
    found = {}
    for number, name in enumerate(names):
        rows, columns = model.denoiser.get_submodule(name).weight.shape
        rank = 2 + number % 3
        down = torch.randn(rank, columns, generator=generator)
        found[name] = (down, torch.randn(rows, rank, generator=generator), (1.0, 2.0, 8.0)[number % 2])
    return found


def by_hand(model: ModelAdapter, changes) -> dict[str, torch.Tensor]:
    """Return the weights W + alpha / rank * B A."""
    state = weights(model)
    for name, (down, up, alpha) in changes.items():
        state[f"{name}.weight"] += alpha / len(down) * up @ down
    return state


def assert_adds_up(model, path, expected):
    model.load_policy(path)
    assert model.is_lora
    model.fold_adapters()
    assert_same(model, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefixed", [True, False])
def test_adapters_in_the_keys_of_diffusers_with_and_without_alpha(model, prefixed, tmp_path):
    changes = adapters(model)
    prefix = f"{model.denoiser_name}." if prefixed else ""
    state = {}
    for name, (down, up, _) in changes.items():
        state |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    plain = {name: (down, up, float(len(down))) for name, (down, up, _) in changes.items()}
    assert_adds_up(model, tmp_path, by_hand(model, plain))

    state |= {f"{prefix}{name}.alpha": torch.tensor(alpha) for name, (*_, alpha) in changes.items()}
    save_file(state, tmp_path / "my_lora.safetensors")
    assert_adds_up(model, tmp_path / "my_lora.safetensors", by_hand(model, changes))


def test_adapters_that_peft_saved(model, tmp_path):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_v"], rank_pattern={"to_v": 2})
    expected_start = weights(model)
    model.denoiser.add_adapter(config)
    for number, (name, parameter) in enumerate(sorted(model.denoiser.named_parameters())):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    state = {key: tensor.clone() for key, tensor in get_peft_model_state_dict(model.denoiser).items()}
    model.denoiser.unload_lora()
    assert_same(model, expected_start)
    save_file(
        {f"base_model.model.{key}": tensor for key, tensor in state.items()}, tmp_path / "adapter_model.safetensors"
    )
    config.save_pretrained(tmp_path)
    changes = {}
    for key in (key for key in state if key.endswith("lora_A.weight")):
        name = key.removesuffix(".lora_A.weight")
        changes[name] = (state[key], state[f"{name}.lora_B.weight"], 6.0)
        assert len(state[key]) == (2 if name.endswith("to_v") else 4)
    assert_adds_up(model, tmp_path, by_hand(model, changes))


@pytest.mark.parametrize("family", UNETS, indirect=True)
@pytest.mark.parametrize("with_alpha", [True, False])
def test_adapters_of_kohya_and_comfyui_on_a_unet(model, with_alpha, tmp_path):
    changes = adapters(model)
    state = {}
    for name, (down, up, alpha) in changes.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        state |= {f"{key}.alpha": torch.tensor(alpha)} if with_alpha else {}
    save_file(state, tmp_path / "lora.safetensors")
    if not with_alpha:
        changes = {name: (down, up, float(len(down))) for name, (down, up, _) in changes.items()}
    assert_adds_up(model, tmp_path, by_hand(model, changes))


def test_adapters_of_kohya_on_flux_where_queries_keys_and_values_are_one(tmp_path):
    model = tiny_adapter("flux")
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 32, generator=generator), torch.randn(96, 2, generator=generator)
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    state = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
    save_file(state, tmp_path / "lora.safetensors")
    parts = zip(("to_q", "to_k", "to_v"), up.chunk(3), strict=True)
    changes = {f"transformer_blocks.0.attn.{name}": (down, part, 1.0) for name, part in parts}
    assert_adds_up(model, tmp_path, by_hand(model, changes))


def test_a_loaded_adapter_replaces_the_one_before(model, tmp_path):
    for seed in (1, 2):
        state = {}
        for name, (down, up, _) in adapters(model, seed).items():
            state |= {f"{model.denoiser_name}.{name}.lora_A.weight": down}
            state |= {f"{model.denoiser_name}.{name}.lora_B.weight": up}
        save_file(state, tmp_path / f"{seed}.safetensors")
    plain = {name: (down, up, float(len(down))) for name, (down, up, _) in adapters(model, 2).items()}
    expected = by_hand(model, plain)
    model.load_policy(tmp_path / "1.safetensors")
    assert_adds_up(model, tmp_path / "2.safetensors", expected)


def test_adapters_that_do_not_fit_are_named(model, tmp_path):
    name, (down, up, _) = next(iter(adapters(model).items()))
    prefix, file = model.denoiser_name, tmp_path / "lora.safetensors"
    whole = {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}

    save_file({f"{prefix}.{name}.lora_A.weight": down}, file)
    refusal(model, file, f"missing: {name}.lora_B.weight")
    save_file(whole | {f"{prefix}.nowhere.lora_A.weight": down.clone()}, file)
    refusal(model, file, "left over: nowhere.lora_A.weight")
    save_file(whole | {f"{prefix}.{name}.lora_A.weight": down[:, 1:].contiguous()}, file)
    refusal(model, file, f"of another shape: {name}.lora_A.weight is")
    save_file(whole | {f"{prefix}.nowhere.alpha": torch.tensor(1.0)}, file)
    refusal(model, file, f"left over: {prefix}.nowhere.alpha")
    save_file(whole | {"text_encoder.layers.0.lora_A.weight": down.clone()}, file)
    refusal(model, file, f"adapters of more than the {prefix}", "left over: text_encoder.layers.0.lora_A.weight")
    assert not model.is_lora


# ---- finding them


def folder_of(tmp_path, *names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "holds no trained weights; expected unet/ or diffusion_pytorch_model.safetensors"),
        (("README.md", "config.json"), "holds no trained weights"),
        (("manifest.json", "config.yaml"), "holds no trained weights; expected policy/unet/"),
        ((f"unet/{FILE}", "pytorch_lora_weights.safetensors"), f"(unet/{FILE}, pytorch_lora_weights.safetensors)"),
        (("a.safetensors", "b.pth"), "more than one set of weights (a.safetensors, b.pth); give the one that is meant"),
        ((f"transformer/{FILE}",), "holds a transformer, but this model has a unet"),
    ],
)
def test_a_folder_that_says_nothing_or_too_much_is_refused(names, sentence, tmp_path):
    with pytest.raises(UserError) as refused:
        check_policy(str(folder_of(tmp_path, *names)), "unet")
    assert sentence in str(refused.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected one of \.safetensors"):
        check_policy(str(folder_of(tmp_path, "unet.onnx") / "unet.onnx"), "unet")


def test_a_run_of_this_program_is_a_policy_and_so_is_a_whole_pipeline(tmp_path):
    run = folder_of(tmp_path / "run", "manifest.json", "images/a.png", f"policy/unet/{FILE}")
    assert find_policy(str(run), "unet").files == (run / f"policy/unet/{FILE}",)
    whole = folder_of(tmp_path / "whole", "model_index.json", f"unet/{FILE}", f"vae/{FILE}", "unet/config.json")
    assert find_policy(str(whole), "unet").files == (whole / f"unet/{FILE}",)


def test_what_was_loaded_is_told_by_its_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = folder_of(tmp_path, "unet.pth") / "unet.pth"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert find_policy(str(file), "unet").origin == {"policy": str(file), "policy_sha256": empty}
    peft = folder_of(tmp_path / "peft", "adapter_config.json", "adapter_model.safetensors")
    first = find_policy(str(peft), "unet").origin["policy_sha256"]
    (peft / "adapter_config.json").write_text('{"lora_alpha": 4}')
    assert find_policy(str(peft), "unet").origin["policy_sha256"] != first


def test_tables_call_a_policy_by_the_part_of_its_path_that_says_something():
    names = {
        "mhdang/dpo-sd1.5-text2image-v1": "dpo-sd1.5-text2image-v1",
        "runs/SmPO/unet/diffusion_pytorch_model.safetensors": "SmPO",
        "/data/my unet.pth": "my_unet",
        "results/dpo-sd15-0123456789/policy": "dpo-sd15-0123456789",
        "base": "base",
        "unet": "unet",
        "../policy": "policy",
    }
    assert {path: policy_label(path) for path in names} == {path: f"published_{name}" for path, name in names.items()}


# ---- the hub

COMMIT = "0123456789" * 4


class Hub:
    """What the hub would answer, from a folder."""

    def __init__(self, folder, cache):
        self.folder, self.cache, self.fetched = folder, cache / "models--owner--name", []

    def model_info(self, repository, revision, timeout):
        assert repository == "owner/name"
        names = [f.relative_to(self.folder).as_posix() for f in self.folder.rglob("*") if f.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

    def fetch(self, names):
        (self.cache / "refs").mkdir(parents=True, exist_ok=True)
        (self.cache / "refs" / "main").write_text(COMMIT)
        snapshot = self.cache / "snapshots" / COMMIT
        for name in names:
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / name, snapshot / name)
        self.fetched += names
        return snapshot


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "origin").mkdir()
    hub = Hub(tmp_path / "origin", tmp_path / "hub")
    cached: Any = policies.snapshot_download

    def download(repository, revision=None, local_files_only=False, allow_patterns=()):
        if local_files_only:
            return cached(repository, revision=revision, local_files_only=True)
        return str(hub.fetch(list(allow_patterns)))

    monkeypatch.setattr(policies, "HfApi", lambda: hub)
    monkeypatch.setattr(policies, "snapshot_download", download)
    monkeypatch.setattr(policies, "hf_hub_download", lambda repo, name, revision: str(hub.fetch([name]) / name))
    return hub


def test_a_hub_id_fetches_what_is_needed_and_no_more_and_then_needs_no_hub(hub, monkeypatch):
    donor, model = tiny_adapter("flux", seed=5), tiny_adapter("flux")
    donor.denoiser.save_pretrained(hub.folder / "ours", max_shard_size="30KB")
    folder_of(hub.folder, "README.md", "other/huge.safetensors")
    check_policy("owner/name/ours", "transformer")
    assert hub.fetched == []
    model.load_policy("owner/name/ours")
    assert_same(model, weights(donor))
    assert not any("huge" in name or "README" in name for name in hub.fetched)

    def refuse(*_, **__):
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(hub, "model_info", refuse)
    assert find_policy("owner/name/ours", "transformer").origin == {
        "policy": "owner/name/ours",
        "policy_revision": COMMIT,
    }
    with pytest.raises(UserError, match=r"model.policy=owner/name/other is neither here nor whole in the local hub"):
        check_policy("owner/name/other", "transformer")


def test_a_part_that_was_fetched_is_not_taken_for_the_whole(hub):
    donor, model = tiny_adapter("stable_diffusion", seed=5), tiny_adapter("stable_diffusion")
    donor.denoiser.save_pretrained(hub.folder / "unet", max_shard_size="100KB")
    hub.fetch([f"unet/{FILE}.index.json"])
    model.load_policy("owner/name")
    assert_same(model, weights(donor))


def test_what_is_neither_a_path_nor_an_id_is_refused():
    with pytest.raises(UserError, match=r"model.policy=/no/such/folder is neither here nor a hub id"):
        check_policy("/no/such/folder", "unet")


def test_the_metadata_of_diffusers_gives_its_alpha(tmp_path):
    model = tiny_adapter("flux")
    model.prepare_training("lora", rank=4, alpha=16)
    for parameter in model.denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.save_policy(tmp_path)
    state = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    changes = {}
    for key in (key for key in state if ".lora_A." in key):
        name = key.removeprefix("transformer.").removesuffix(".lora_A.weight")
        changes[name] = (state[key], state[key.replace("lora_A", "lora_B")], 16.0)
    fresh = tiny_adapter("flux")
    assert_adds_up(fresh, tmp_path, by_hand(fresh, changes))
