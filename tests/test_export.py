"""Exported weights, loaded by diffusers as their card says, make the images of the run that they come from."""

import csv
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file

from alignbench.configuration.build import conf_folder, config_hash, recipe_hash, run_name
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.export import arguments, export, push
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.low_rank import extract
from alignbench.report.columns import LEADERBOARD_COLUMNS
from alignbench.stages.trained_weights import find_source
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from tests.families import FIRST

CONFIGURATIONS = {file.stem: OmegaConf.load(file) for file in (conf_folder() / "model").glob("*.yaml")}
MODELS: dict[str, Any] = {  # those with weights of their own, and the name of their family
    name: cfg.adapter._target_.split(".")[-2]
    for name, cfg in sorted(CONFIGURATIONS.items())
    if "pretrained_model_name_or_path" in cfg and OmegaConf.select(cfg, "adapter._target_")  # others are like another
}


WITHOUT_COMFYUI = [name for name, family in MODELS.items() if not FAMILIES[family].has_comfyui_keys]
OWN_ARGUMENTS: dict[str, Any] = {  # of pipelines, beside those that all have
    "WanPipeline": {"num_frames": 1},
    "FluxKontextPipeline": {"max_area": 32 * 32},
    "Flux2Pipeline": {"text_encoder_out_layers": (1, 2, 3)},
    "Flux2KleinPipeline": {"text_encoder_out_layers": (1, 2, 3)},
    "SanaPipeline": {"use_resolution_binning": False},
}


def images(pipeline):
    """Return pixels of a pipeline of diffusers, without anything of ours."""
    pipeline.set_progress_bar_config(disable=True)
    kind = type(pipeline).__name__
    call: dict[str, Any] = {"guidance_scale": 2.0}
    if kind == "QwenImage21Pipeline":
        call = {"true_cfg_scale": 2.0, "negative_prompt": ""}
    elif hasattr(pipeline, "transformer"):
        call["max_sequence_length"] = 32
    call |= OWN_ARGUMENTS.get(kind, {})
    generator = torch.Generator().manual_seed(0)
    call |= {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np", "generator": generator}
    return torch.from_numpy(pipeline(prompt="a red circle", return_dict=False, **call)[0])


def change(network, seed=0, only=("weight",)):
    """Move what is trainable far enough for an image to show it."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and name.endswith(only):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(
    params=[
        name if family in FIRST else pytest.param(name, marks=pytest.mark.matrix) for name, family in MODELS.items()
    ]
)
def name(request):
    return request.param


@pytest.fixture
def make_run(name, tmp_path):
    """Return a function that makes a run as training would leave it, and says what its images are."""

    def make(tuning, start=None):
        model = tiny_adapter(MODELS[name])
        model.pipeline.save_pretrained(tmp_path / "base")
        given = [f"model.policy={start}"] if start else []
        cfg = composed([
            "method=dpo", f"model={name}", "data=shapes", f"model.pretrained_model_name_or_path={tmp_path / 'base'}",
            "model.resolution=32", "model.adapter.pipeline.torch_dtype=float32", f"train.tuning={tuning}", *given,
        ])  # fmt: skip
        run = RunFolder(tmp_path / "results" / run_name(cfg))
        manifest = Manifest(run.name, "dpo", name, 0, config_hash(cfg), recipe_hash(cfg))
        run.open(manifest)
        run.config_file.write_text(OmegaConf.to_yaml(cfg, resolve=True))
        model.prepare_training(tuning, rank=2, alpha=6)
        change(model.denoiser)
        model.save_policy(run.policy)
        run.complete("train", files=[run.policy])
        return run, images(model.pipeline)

    return make


def loaded(folder, monkeypatch):
    """Return the pipeline that the three lines of a card make, run inside its folder."""
    lines = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert lines
    assert len([line for line in lines[1].splitlines() if line]) == 3
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(lines[1], names)
    return names["pipeline"]


def test_what_a_lora_run_exports_makes_its_images(make_run, name, tmp_path, monkeypatch):
    run, expected = make_run("lora")
    for kind in ("merged", "lora", *(() if name in WITHOUT_COMFYUI else ("comfyui",))):
        export(find_source(str(run.path), []), kind, tmp_path / kind)
        pipeline = loaded(tmp_path / kind, monkeypatch)
        torch.testing.assert_close(images(pipeline), expected, rtol=0, atol=1e-4)
        assert len(list((tmp_path / kind).rglob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "name",
    [name if name == "wan" else pytest.param(name, marks=pytest.mark.matrix) for name in WITHOUT_COMFYUI],
    indirect=True,
)
def test_no_keys_are_made_up_for_comfyui(make_run, tmp_path):
    run, _ = make_run("lora")
    with pytest.raises(UserError, match=r"ComfyUI.*--format lora"):
        export(find_source(str(run.path), []), "comfyui", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["flux"], indirect=True)
def test_what_a_whole_run_exports_merged_makes_its_images(make_run, tmp_path, monkeypatch):
    run, expected = make_run("full")
    with pytest.raises(UserError, match=r"was trained whole; add --rank N"):
        export(find_source(str(run.path), []), "lora", tmp_path / "out")
    export(find_source(str(run.path), []), "merged", tmp_path / "out")
    torch.testing.assert_close(images(loaded(tmp_path / "out", monkeypatch)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("sdxl", "lora"), ("sd3", "comfyui")], indirect=["name"])
def test_adapters_extracted_at_a_low_rank_are_those_that_made_the_change(make_run, name, kind, tmp_path, monkeypatch):
    """A change of rank 2 is found again whole at rank 3, and in part at rank 1."""
    lora, expected = make_run("lora")
    export(find_source(str(lora.path), []), "merged", tmp_path / "whole")
    settings = [f"model={name}", f"model.pretrained_model_name_or_path={tmp_path / 'base'}", "model.resolution=32"]
    settings += ["model.adapter.pipeline.torch_dtype=float32"]
    source = find_source(str(tmp_path / "whole"), settings)
    (fact,) = export(source, kind, tmp_path / "out", rank=3)
    assert "they keep 100.0 % of the squared change" in fact
    torch.testing.assert_close(images(loaded(tmp_path / "out", monkeypatch)), expected, rtol=0, atol=1e-3)
    (fact,) = export(source, kind, tmp_path / "less", rank=1)
    assert 30 < float(re.search(r"([\d.]+) %", fact)[1]) < 99


def test_the_share_kept_is_what_the_adapters_leave_of_the_change():
    network = tiny_adapter("stable_diffusion").denoiser.requires_grad_(True)
    start = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match="nothing to extract"):
        extract(network, start, 2)
    change(network, only=("weight", "bias"))
    total = sum(float((tensor - start[key]).double().square().sum()) for key, tensor in network.state_dict().items())
    shares = []
    for rank in (1, 4, 1000):
        state, kept = extract(network, start, rank)
        left = {key: tensor.double() - start[key] for key, tensor in network.state_dict().items()}
        for key in (key for key in state if key.endswith("lora_A.weight")):
            down, up = state[key], state[key.replace("lora_A", "lora_B")]
            assert len(down) <= rank
            weight = key.replace("lora_A.weight", "weight")
            left[weight] -= (up.flatten(1).double() @ down.flatten(1).double()).view_as(left[weight])
        assert kept == pytest.approx(1 - sum(float(rest.square().sum()) for rest in left.values()) / total, abs=1e-6)
        shares.append(kept)
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[1] < shares[2] < 1  # norms and biases are never kept


def test_large_matrices_are_decomposed_as_well_as_small_ones(monkeypatch):
    from alignbench.models.weights import low_rank

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(96, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    exact = torch.matmul(*low_rank._decompose(matrix, 5))
    monkeypatch.setattr(low_rank, "EXACT_SIDE", 1)
    before = torch.random.get_rng_state()
    torch.testing.assert_close(torch.matmul(*low_rank._decompose(matrix, 5)), exact, rtol=1e-3, atol=1e-3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["sd15"], indirect=True)
def test_keys_for_comfyui_are_those_that_it_reads(make_run, tmp_path):
    """As comfy/lora.py maps them: `lora_unet_<key of diffusers>` with lora_down, lora_up and alpha."""
    run, _ = make_run("lora")
    export(find_source(str(run.path), []), "comfyui", tmp_path / "out")
    state = load_file(tmp_path / "out" / f"{run.name}_comfyui.safetensors")
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert state[f"{key}.alpha"] == 6
    assert state[f"{key}.lora_down.weight"].shape == (2, 16)
    assert all(re.fullmatch(r"lora_unet_\w+\.(lora_down\.weight|lora_up\.weight|alpha)", key) for key in state)


@pytest.mark.parametrize("name", ["sdxl"], indirect=True)
def test_convolutions_too_are_found_again_under_the_keys_of_comfyui(make_run, name, tmp_path):
    """Loading is strict, so a layer that diffusers would look for under another name is an error."""
    run, _ = make_run("full")
    (fact,) = export(find_source(str(run.path), []), "comfyui", tmp_path / "out", rank=1000)
    model = tiny_adapter(MODELS[name])
    model.load_policy(tmp_path / "out")
    model.fold_adapters()
    trained = load_file(run.policy / "unet" / "diffusion_pytorch_model.safetensors")
    inside = {key: t for key, t in trained.items() if "blocks." in key and t.ndim > 1}
    assert {tensor.ndim for tensor in inside.values()} == {2, 4}
    for key, tensor in inside.items():
        torch.testing.assert_close(model.denoiser.state_dict()[key], tensor, rtol=1e-4, atol=1e-4, msg=key)
    assert 50 < float(re.search(r"([\d.]+) %", fact)[1]) < 100


@pytest.mark.parametrize("name", ["flux"], indirect=True)
def test_adapters_on_top_of_a_policy_are_not_passed_off_as_the_base_models(make_run, tmp_path, monkeypatch):
    first, _ = make_run("lora")
    second, _ = make_run("lora", start=first.path)
    source = find_source(str(second.path), [])
    with pytest.raises(UserError, match=r"belong on top of model.policy=.*add --rank N"):
        export(source, "lora", tmp_path / "out")
    export(source, "merged", tmp_path / "merged")
    export(source, "lora", tmp_path / "out", rank=4)  # twice the same change of rank 2
    merged, extracted = (loaded(tmp_path / folder, monkeypatch) for folder in ("merged", "out"))
    torch.testing.assert_close(images(extracted), images(merged), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["sd15"], indirect=True)
def test_the_card_tells_scores_settings_and_licence(make_run, tmp_path):
    run, _ = make_run("full")
    export(find_source(str(run.path), []), "merged", tmp_path / "early")
    assert "Not measured yet." in (tmp_path / "early" / "README.md").read_text()
    row = dict.fromkeys(LEADERBOARD_COLUMNS, "")
    row |= {"run": f"{run.name} other", "group": "all", "prompt_set": "parti", "evaluator": "pickscore", "version": "1"}
    row |= {"n": "64", "median": "0.21234567", "median_ci_low": "0.2", "median_ci_high": "0.22", "trained_on": "True"}
    row |= {"summary": "median", "mean": "0.5", "mean_ci_low": "0.4", "mean_ci_high": "0.6"}
    row |= {"win_rate_vs_base": "0.75", "win_ci_low": "0.7", "win_ci_high": "0.8"}
    with (run.path.parent / "leaderboard.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, LEADERBOARD_COLUMNS)
        writer.writeheader()
        writer.writerows([row, row | {"group": "anime"}, row | {"run": "other"}])
        writer.writerow(row | {"evaluator": "geneval", "summary": "mean"})
    export(find_source(str(run.path), []), "merged", tmp_path / "out", repository="owner/name")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("pickscore") == 1
    assert "| parti | 64 | `pickscore@1` | median 0.2123 [0.2, 0.22] | 75.0 % [70.0, 80.0] | yes |" in card
    assert "`geneval@1` | mean 0.5 [0.4, 0.6] |" in card
    assert 'from_pretrained("owner/name", subfolder="unet")' in card
    assert "whose licence holds for them too" in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "diffusers"
    assert "base_model" not in front  # a folder of this machine is no id of the hub
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert settings["method"]["name"] == "dpo"
    assert settings["train"]["tuning"] == "full"
    assert settings["seed"] == 0


@pytest.mark.parametrize("name", ["sd15"], indirect=True)
def test_commands_that_cannot_work_end_in_a_sentence(make_run, tmp_path):
    run, _ = make_run("full")
    source = find_source(str(run.path), [])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    for complaint, ask in (
        ("exists and is not empty", lambda: export(source, "merged", tmp_path / "used")),
        ("--format merged keeps everything", lambda: export(source, "merged", tmp_path / "out", rank=4)),
        ("at least 1", lambda: export(source, "lora", tmp_path / "out", rank=0)),
        ("leave out model=sd15", lambda: find_source(str(run.path), ["model=sd15"])),
        ("does not say what it was made of", lambda: find_source(str(run.policy), [])),
        ("neither here nor a hub id", lambda: find_source("/no/such/run", ["model=sd15"])),
    ):
        with pytest.raises(UserError, match=complaint):
            ask()
    assert (tmp_path / "used" / "thesis.txt").exists()
    assert not (tmp_path / "out").exists()
    (run.policy / "unet" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has changed since it was written"):
        find_source(str(run.path), [])


def test_nothing_is_uploaded_unless_asked_for_and_then_in_private(tmp_path):
    assert arguments(["RUN", "--format", "lora", "--out", "FOLDER"]).push_to_hub is None
    calls = []
    api = SimpleNamespace(
        create_repo=lambda *args, **kwargs: calls.append(("create_repo", args, kwargs)),
        upload_folder=lambda repo_id, **kwargs: calls.append((repo_id, kwargs["repo_type"], kwargs["folder_path"])),
    )
    for kind in ("model", "dataset"):
        push(tmp_path, "owner/name", api, kind)
    assert calls == [
        ("create_repo", ("owner/name",), {"repo_type": "model", "private": True, "exist_ok": True}),
        ("owner/name", "model", str(tmp_path)),
        ("create_repo", ("owner/name",), {"repo_type": "dataset", "private": True, "exist_ok": True}),
        ("owner/name", "dataset", str(tmp_path)),
    ]
