"""A single file of the original layout gives the pipeline that a folder gives, with what it lacks from `config`."""

import shutil

import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import save_file

from alignbench.errors import UserError
from alignbench.models.tiny_random import TINY
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.weights import hub
from alignbench.models.weights.loading import check_weights, load_pipeline
from alignbench.models.weights.without_weights import is_without_weights, weights_digest

PIPELINES = {tiny.adapter.pipeline_class: tiny for tiny in TINY.values() if tiny.adapter.single_file_keys}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def without_weights(folder, *but):
    """Take all weights out of a folder of diffusers but those of some parts."""
    for file in folder.rglob("*.safetensors"):
        if file.parent.name not in but:
            file.unlink()


def parameters(pipeline):
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            yield from ((f"{name}.{key}", tensor) for key, tensor in part.state_dict().items())


def assert_same(pipeline, other):
    ours, theirs = dict(parameters(pipeline)), dict(parameters(other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    settings = ({k: v for k, v in one.scheduler.config.items() if k[0] != "_"} for one in (pipeline, other))
    assert next(settings) == next(settings)


def test_a_file_with_everything_needs_only_the_words_of_a_folder(tmp_path, to_original):
    pipeline = tiny_stable_diffusion(seed=3)
    text = pipeline.text_encoder.state_dict()
    state = prefixed("model.diffusion_model.", to_original(pipeline.unet))
    state |= prefixed("first_stage_model.", to_original(pipeline.vae))
    state |= {f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": text[key] for key in text}
    save_file(state, tmp_path / "model.safetensors")
    pipeline.save_pretrained(tmp_path / "config")
    without_weights(tmp_path / "config")
    given = (str(tmp_path / "model.safetensors"), "StableDiffusionPipeline")
    loaded = load_pipeline(*given, config=str(tmp_path / "config"))
    assert_same(loaded, pipeline)

    networks = ["text_encoder", "vae", "unet"]
    left_out = load_pipeline(*given, config=str(tmp_path / "config"), without=networks)
    for name in networks:
        assert is_without_weights(getattr(left_out, name))
        assert weights_digest(getattr(left_out, name)) == weights_digest(getattr(loaded, name))
    assert loaded.safety_checker is None


@pytest.mark.parametrize("kind", PIPELINES)
def test_what_a_file_lacks_comes_from_the_folder(kind, tmp_path, to_original):
    pipeline, name = PIPELINES[kind].pipeline(seed=3), PIPELINES[kind].adapter.denoiser_name
    state = prefixed("model.diffusion_model.", to_original(getattr(pipeline, name)))
    save_file(state, tmp_path / "model.safetensors")
    folder, file = tmp_path / "config", str(tmp_path / "model.safetensors")
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / name)
    (folder / name).mkdir()
    getattr(pipeline, name).save_config(folder / name)
    loaded = load_pipeline(file, kind, config=str(folder), torch_dtype="bfloat16")
    assert {tensor.dtype for _, tensor in parameters(loaded) if tensor.is_floating_point()} == {torch.bfloat16}
    assert_same(load_pipeline(file, kind, config=str(folder)), pipeline)

    without_weights(folder, "vae")
    with pytest.raises(UserError, match=r"what model.safetensors lacks, lacks the weights of text_encoder/"):
        check_weights(file, None, kind, str(folder))


@pytest.fixture
def flux_file(tmp_path, to_original):
    save_file(to_original(tiny_flux().transformer), tmp_path / "flux1.safetensors")
    return tmp_path / "flux1.safetensors"


def sentence_of(file, kind="FluxPipeline", config=None):
    with pytest.raises(UserError) as caught:
        check_weights(str(file), None, kind, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_alone_is_told_to_add_a_folder(flux_file):
    assert "says nothing of its tokenizers and its scheduler; add model.config=FOLDER" in sentence_of(flux_file)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "v1-5.ckpt").write_bytes(b"")
    assert "give a .safetensors file" in sentence_of(tmp_path / "v1-5.ckpt")


def test_a_folder_of_another_family_is_refused(flux_file, tmp_path):
    tiny_stable_diffusion().save_pretrained(tmp_path / "sd")
    config = str(tmp_path / "sd")
    assert f"model.config={config} holds a StableDiffusionPipeline, but" in sentence_of(flux_file, config=config)
    sentence = sentence_of(flux_file, "StableDiffusionPipeline", config)
    assert "holds no unet of a StableDiffusionPipeline in the original layout: keys begin with" in sentence


def test_a_network_in_the_layout_of_diffusers_is_no_pipeline(tmp_path):
    pipeline = tiny_flux()
    pipeline.save_pretrained(tmp_path)
    sentence = sentence_of(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", config=str(tmp_path))
    assert "holds no transformer of a FluxPipeline in the original layout" in sentence
    assert "model.policy=FILE" in sentence


def test_a_hub_id_beside_the_file_is_checked_like_any_other(flux_file, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    sentence = sentence_of(flux_file, config="some/model")
    assert "model.config=some/model is neither here nor whole in the local hub cache" in sentence

    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("0" * 40)
    (tmp_path / "hub" / "models--some--model" / "refs").mkdir(parents=True)
    (tmp_path / "hub" / "models--some--model" / "refs" / "main").write_text("0" * 40)
    pipeline = tiny_flux()
    pipeline.save_pretrained(snapshot)
    without_weights(snapshot, "vae", "text_encoder")
    assert "has to have what flux1.safetensors lacks" in sentence_of(flux_file, config="some/model")
    pipeline.text_encoder_2.save_pretrained(snapshot / "text_encoder_2")
    assert_same(load_pipeline(str(flux_file), "FluxPipeline", config="some/model"), pipeline)
