"""The stage `prepare`: training after it loads no encoder and ends where it would have ended."""

import io
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.data.batches.feature_cache import Caches
from alignbench.errors import UserError
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion_xl import tiny_stable_diffusion_xl
from alignbench.stages.prepare import Preparation, build_adapter, prepare_data
from alignbench.store.run_folder import RunFolder
from alignbench.training.memory_estimate import estimate
from alignbench.training.train import Auxiliary, train
from alignbench.work_share import WorkShare

CPU = torch.device("cpu")
SMALL = [
    "model.resolution=32",
    "data=shapes",
    "data.num_pairs=6",
    "data.num_prompts=4",
    "data.posterior=sample",
    "train.max_train_steps=2",
    "train.total_batch_size=4",
    "train.micro_batch_size=2",
    "train.mixed_precision='no'",
    "train.learning_rate=1e-3",
    "train.weights_dtype=null",
    "train.weight_updates=nearest",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {"sdxl": tmp_path_factory.mktemp("sdxl"), "flux": tmp_path_factory.mktemp("flux")}
    tiny_stable_diffusion_xl(force_zeros_for_empty_prompt=False).save_pretrained(found["sdxl"])
    tiny_flux(guidance_embeds=False).save_pretrained(found["flux"])
    return found


def configuration(folders, model, *overrides):
    return composed([f"model={model}", f"model.pretrained_model_name_or_path={folders[model]}", *SMALL, *overrides])


def preparation(cfg, root):
    data = build(cfg.data)
    terms = [(build(cfg.method), data), *((build(node.term), data) for node in cfg.auxiliary.values())]
    return Preparation(cfg, terms, root / "cache", CPU)


def prepare(cfg, root, work_share=None):
    """Return what was told."""
    console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    preparation(cfg, root).run(work_share or WorkShare(), console)
    return console.export_text()


def trained(cfg, root):
    """Train as the stage does; return the weights and what was not loaded."""
    prepared = preparation(cfg, root)
    left_out = prepared.left_out()
    (method, data), *others = prepared.terms
    auxiliary = [Auxiliary(node.weight, *term) for node, term in zip(cfg.auxiliary.values(), others, strict=True)]
    model = build_adapter(cfg.model, left_out)
    folder = RunFolder(root / "run")
    train(cfg, model, method, data, folder, Accelerator(cpu=True), auxiliary)
    (file,) = folder.policy.rglob("*.safetensors")
    return load_file(file), left_out


def refuse(name, *_, **__):
    raise AssertionError(f"{name} was loaded")


def same(weights, others):
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def test_training_from_the_cache_loads_no_encoder_and_ends_with_the_same_weights(folders, tmp_path, monkeypatch):
    cfg = configuration(folders, "sdxl", "method=dpo", "auxiliary=denoising", "train.dataloader_num_workers=1")
    expected, left_out = trained(cfg, tmp_path / "plain")
    assert not left_out
    told = prepare(cfg, tmp_path)
    assert "dpo: 5 prompts (0 there), 12 images of data=shapes (0 there)" in told
    assert "prepare: all is there" in told
    assert "5 prompts (5 there), 12 images of data=shapes (12 there)" in prepare(cfg, tmp_path)

    for kind in (CLIPTextModel, CLIPTextModelWithProjection):
        monkeypatch.setattr(kind, "from_pretrained", partial(refuse, kind.__name__))
    monkeypatch.setattr("diffusers.AutoencoderKL.from_pretrained", partial(refuse, "AutoencoderKL"))
    weights, left_out = trained(cfg, tmp_path)
    assert left_out == ["text_encoder", "text_encoder_2", "vae"]
    assert same(weights, expected)


@pytest.mark.matrix
def test_what_is_cut_in_a_few_ways_is_prepared_and_what_is_cut_anew_keeps_the_vae(folders, tmp_path):
    few = configuration(folders, "sdxl", "method=dpo", "train.random_flip=true", "train.size_conditioning=true_size")
    expected, _ = trained(few, tmp_path / "plain")
    assert "24 images of data=shapes (0 there)" in prepare(few, tmp_path)
    weights, left_out = trained(few, tmp_path)
    assert left_out == ["text_encoder", "text_encoder_2", "vae"]
    assert same(weights, expected)

    anew = configuration(folders, "sdxl", "method=dpo", "train.crop=random")
    told = prepare(anew, tmp_path)
    assert "5 prompts (5 there), images of data=shapes get new crops each time" in told
    assert preparation(anew, tmp_path).left_out() == ["text_encoder", "text_encoder_2"]
    parts = {part.name: part.num_bytes for part in estimate(composed([
        "model=sdxl", "data=shapes", "method=dpo", "stages=[prepare,train]", "train.crop=random"
    ]))}  # fmt: skip
    assert (parts["text encoders"], parts["VAE"]) == (0, pytest.approx(334.6e6, rel=0.01))


@pytest.mark.parametrize("model", ["sdxl", "flux"])
def test_a_method_that_decodes_keeps_the_vae_and_guides_by_the_cached_empty_prompt(folders, tmp_path, model):
    guided = ["method=srpo", "reward=shapes_clip", "method.num_rollout_steps=2", "method.rollout_guidance_scale=3"]
    cfg = configuration(folders, model, *guided, "train.tuning=full", "train.gradient_checkpointing=true")
    expected, _ = trained(cfg, tmp_path / "plain")
    prepare(cfg, tmp_path)
    weights, left_out = trained(cfg, tmp_path)
    assert left_out == ["text_encoder", "text_encoder_2"]
    assert same(weights, expected)


def test_methods_share_what_they_read(folders, tmp_path):
    prepare(configuration(folders, "sdxl", "method=kto"), tmp_path)
    told = prepare(configuration(folders, "sdxl", "method=dpo", "seed=3"), tmp_path)
    assert "dpo: 5 prompts (5 there), 12 images of data=shapes (12 there)" in told


def test_scores_are_prepared_too(folders, tmp_path):
    cfg = configuration(folders, "sdxl", "method=smpo", "reward=shapes_clip")
    prepare(cfg, tmp_path)
    (file,) = (tmp_path / "cache" / "scores").rglob("*.safetensors")
    made = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.warns(RuntimeWarning, match="is damaged and was deleted; what it held is computed again"):
        prepare(cfg, tmp_path)
    assert file.stat().st_mtime_ns > made


def test_shards_of_a_command_leave_the_rest_to_the_others(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("alignbench.data.batches.fill_cache.MAX_ENTRIES", 2)
    cfg = configuration(folders, "sdxl", "method=dpo")
    told = prepare(cfg, tmp_path, WorkShare(0, 1, 1, 2))
    assert "prepare: 8 prompts and images are left for the other shards" in told
    assert not preparation(cfg, tmp_path).left_out()
    assert "all is there" in prepare(cfg, tmp_path, WorkShare(0, 1, 2, 2))


def test_what_is_damaged_is_found_before_training_and_made_again(folders, tmp_path):
    cfg = configuration(folders, "sdxl", "method=dpo")
    prepare(cfg, tmp_path)
    (file,) = (tmp_path / "cache" / "latents").rglob("*.safetensors")
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    file.write_bytes(damaged)
    with pytest.warns(RuntimeWarning, match="is damaged and was deleted"):
        told = prepare(cfg, tmp_path)
    assert "5 prompts (5 there), 12 images of data=shapes (0 there)" in told
    assert file.read_bytes() == whole


def test_a_full_disk_is_told_before_anything_is_written(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match="prepare would write"):
        prepare(configuration(folders, "sdxl", "method=dpo"), tmp_path)
    assert not Caches.exist(tmp_path / "cache")


@pytest.mark.matrix
def test_the_estimate_leaves_out_what_is_not_loaded():
    command = ["model=sdxl", "data=shapes", "method=dpo"]
    sizes = {part.name: part.num_bytes for part in estimate(composed(command))}
    prepared = {part.name: part.num_bytes for part in estimate(composed([*command, "stages=[prepare,train]"]))}
    assert sizes["text encoders"] > 2e9
    assert sizes["VAE"] > 2e8
    assert prepared == sizes | {"text encoders": 0, "VAE": 0}
    srpo = ["model=sdxl", "data=shapes", "method=srpo", "reward=shapes_clip"]
    looked_at = [*command, "stages=[prepare,train]", "validation=shapes"]  # which makes images
    assert {part.name: part.num_bytes for part in estimate(composed(looked_at))} == sizes
    kept = {part.name: part.num_bytes for part in estimate(composed([*srpo, "stages=[prepare,train]"]))}
    assert kept["text encoders"] == 0
    assert kept["VAE"] == sizes["VAE"]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("method", "passes"),
    [(["method=smpo_votes", "method.inversion.inverter=reference"], 6), (["method=kto"], 3)],
)
def test_prepared_reference_values_are_those_that_training_computes_and_in_no_budget(folders, tmp_path, method, passes):
    cfg = configuration(folders, "sdxl", *method, "method.num_draws=2", "train.random_flip=true")
    console = Console(record=True, width=200, file=io.StringIO())
    load = partial(build_adapter, cfg.model)
    prepare_data(cfg, tmp_path / "cache", WorkShare(), Accelerator(cpu=True), console, load)
    data = build(cfg.data)
    samples = len(data.view("labels" if "method=kto" in method else "pairs"))
    assert f"{cfg.method.name}: 2 fixed draws of {samples} samples" in console.export_text()

    found = []
    for root in (tmp_path, tmp_path / "plain"):
        folder, model = RunFolder(root / "run"), build_adapter(cfg.model)
        done = train(cfg, model, build(cfg.method), data, folder, Accelerator(cpu=True))
        assert done.budget["network_passes"] == passes * cfg.train.total_batch_size * cfg.train.max_train_steps
        values = {file.name: file.read_bytes() for file in (root / "cache" / "reference").rglob("*.safetensors")}
        (weights,) = folder.policy.rglob("*.safetensors")
        found.append((load_file(weights), values))
    (weights, values), (others, other_values) = found
    assert same(weights, others)
    assert values == other_values
