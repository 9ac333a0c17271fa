"""Absent, incomplete and unfitting weights end in one sentence; whole ones load whatever their family."""

import json
import shutil
import subprocess
import sys
from unittest.mock import Mock

import pytest
from huggingface_hub import constants, errors

from alignbench.errors import UserError
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.tiny_random.stable_diffusion_3 import tiny_stable_diffusion_3
from alignbench.models.tiny_random.stable_diffusion_xl import tiny_stable_diffusion_xl
from alignbench.models.weights import hub
from alignbench.models.weights.loading import check_weights, load_pipeline

FIELD = "model.pretrained_model_name_or_path"


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    tiny_flux().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def refuse_with(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)


def sentence_of(path, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        check_weights(str(path), **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder_passes_and_tells_its_class(flux_folder):
    assert check_weights(str(flux_folder))["_class_name"] == "FluxPipeline"
    assert check_weights(str(flux_folder), pipeline_class="FluxPipeline")["_class_name"] == "FluxPipeline"


def test_a_folder_without_an_index_is_refused(tmp_path):
    assert sentence_of(tmp_path).startswith(f"{FIELD}={tmp_path} lacks model_index.json; give")


def test_missing_weights_are_named(flux_folder, tmp_path):
    folder = shutil.copytree(flux_folder, tmp_path / "partial")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(folder / "tokenizer_2")
    sentence = sentence_of(folder)
    assert "the weights of transformer/" in sentence
    assert "tokenizer_2/" in sentence


def test_a_missing_shard_is_noticed(flux_folder, tmp_path):
    folder = shutil.copytree(flux_folder, tmp_path / "sharded")
    index = folder / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"}}))
    assert "lacks vae/" in sentence_of(folder)


def test_another_family_is_refused(flux_folder):
    sentence = sentence_of(flux_folder, pipeline_class="StableDiffusionPipeline")
    assert "holds a FluxPipeline, but this model needs a StableDiffusionPipeline" in sentence


def test_a_path_that_is_no_hub_id_is_refused():
    assert "neither here nor a hub id" in sentence_of("/no/such/folder")


@pytest.mark.parametrize(
    "error",
    [errors.HTTPError("no route"), errors.OfflineModeIsEnabled("offline"), TimeoutError()],
    ids=lambda e: str(e),
)
def test_without_a_connection_the_sentence_says_what_to_download(monkeypatch, error):
    refuse_with(monkeypatch, error)
    sentence = sentence_of("some/model")
    assert "the hub cannot be reached" in sentence
    assert "hf download some/model" in sentence


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errors.GatedRepoError, "accept its licence"),
        (errors.RevisionNotFoundError, "check the revision"),
        (errors.RepositoryNotFoundError, "check the spelling"),
        (errors.RemoteEntryNotFoundError, "give a diffusers folder"),
    ],
)
def test_what_the_hub_answers_is_passed_on(monkeypatch, error, advice):
    refuse_with(monkeypatch, error("no", response=Mock(status_code=404, headers={})))
    assert advice in sentence_of("some/model", revision="abc")


def test_a_cached_index_without_its_weights_does_not_pass(flux_folder, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    refs = tmp_path / "hub" / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    shutil.copy(flux_folder / "model_index.json", snapshot)
    refuse_with(monkeypatch, errors.OfflineModeIsEnabled("offline"))
    assert "nor whole in the local hub cache" in sentence_of("some/model")
    shutil.copytree(flux_folder, snapshot, dirs_exist_ok=True)
    assert check_weights("some/model")["_class_name"] == "FluxPipeline"
    assert type(load_pipeline("some/model")).__name__ == "FluxPipeline"


def test_the_check_loads_neither_torch_nor_diffusers(flux_folder):
    program = (
        "import sys; from alignbench.models.weights.loading import check_weights; "
        f"check_weights({str(flux_folder)!r}); "
        "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_saved_pipeline_loads_with_its_tokenizers_and_in_the_dtype_asked_for(tmp_path):
    pipeline = tiny_stable_diffusion()
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), "StableDiffusionPipeline", torch_dtype="bfloat16")
    assert {str(loaded.unet.dtype), str(loaded.vae.dtype)} == {"torch.bfloat16"}
    assert loaded.safety_checker is None
    text = "Un cercle rouge, 你好!"
    assert loaded.tokenizer(text).input_ids == pipeline.tokenizer(text).input_ids


@pytest.mark.parametrize("tiny", [tiny_stable_diffusion_xl, tiny_stable_diffusion_3])
def test_a_pipeline_of_several_text_encoders_needs_them_all(tiny, tmp_path):
    pipeline = tiny()
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), type(pipeline).__name__)
    assert type(loaded.text_encoder_2) is type(pipeline.text_encoder_2)
    shutil.rmtree(tmp_path / "text_encoder_2")
    assert "lacks text_encoder_2/" in sentence_of(tmp_path)


def test_a_stable_diffusion_3_saved_without_t5_is_whole(tmp_path):
    tiny_stable_diffusion_3(with_t5=False).save_pretrained(tmp_path)
    assert load_pipeline(str(tmp_path), "StableDiffusion3Pipeline").text_encoder_3 is None
