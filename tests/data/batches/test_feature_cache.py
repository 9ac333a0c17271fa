"""Folders of caches: what changes a value leads to another one, and what does not leads to the same."""

import json

import pytest
import torch

from alignbench.crop import CropSpec
from alignbench.data.batches.feature_cache import Caches, image_identity, picture_key, prompt_key, text_identity
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.loading import load_pipeline
from alignbench.models.weights.without_weights import drop
from tests.families import EVERY

CPU = torch.device("cpu")


def text(model, device=CPU):
    return json.dumps(text_identity(model, device))


def image(model, posterior="mode", device=CPU):
    return json.dumps(image_identity(model, posterior, device))


@pytest.mark.parametrize("family", EVERY)
def test_equal_models_share_a_folder_after_use_and_with_their_networks_left_out(family):
    model, other = tiny_adapter(family), tiny_adapter(family)
    before = text(model), image(model)
    other.encode_prompts(["changes how tokenizers pad and cut", "a"])
    for part in (*other.frozen_networks, other.denoiser):
        drop(part)
    assert (text(other), image(other)) == before


@pytest.mark.parametrize("family", EVERY)
def test_a_folder_of_weights_is_told_by_its_files_whether_or_not_they_are_loaded(family, tmp_path):
    model = tiny_adapter(family)
    model.pipeline.save_pretrained(tmp_path)
    networks = [*model.frozen_parts, model.denoiser_name]
    found = []
    for without in ([], networks):
        model.pipeline = load_pipeline(str(tmp_path), without=without)
        assert all(next(getattr(model.pipeline, name).parameters()).is_meta == bool(without) for name in networks)
        found.append((text(model), image(model)))
    assert found[0] == found[1]


@pytest.mark.parametrize("family", EVERY)
def test_one_changed_weight_of_a_text_encoder_or_the_vae_leads_to_another_folder(family):
    for name in tiny_adapter(family).frozen_parts:
        model = tiny_adapter(family)
        before = text(model), image(model)
        with torch.no_grad():
            next(getattr(model.pipeline, name).parameters()).flatten()[0] += 1e-3
        assert (text(model) == before[0]) == (name == "vae")
        assert (image(model) == before[1]) == (name != "vae")


def test_so_does_a_changed_file(tmp_path):
    tiny_adapter("flux").pipeline.save_pretrained(tmp_path)
    model = tiny_adapter("flux")
    model.pipeline = load_pipeline(str(tmp_path))
    before = text(model), image(model)
    config = tmp_path / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers"', '"note": 1, "num_hidden_layers"'))
    model.pipeline = load_pipeline(str(tmp_path))
    assert text(model) != before[0]
    assert image(model) == before[1]


def test_what_else_changes_features_leads_to_another_folder():
    before = text(tiny_adapter("flux"))
    model = tiny_adapter("flux")
    model.max_sequence_length += 1
    assert text(model) != before
    for name in ("tokenizer", "tokenizer_2"):
        model = tiny_adapter("flux")
        getattr(model.pipeline, name).model_max_length -= 1
        assert text(model) != before
    model = tiny_adapter("flux")
    model.pipeline.tokenizer.add_tokens(["circle"])
    assert text(model) != before
    model = tiny_adapter("flux")
    model.pipeline.text_encoder.to(torch.bfloat16)
    assert text(model) != before
    model = tiny_adapter("stable_diffusion_xl")
    before = text(model)
    model.resolution *= 2  # which SDXL is told
    assert text(model) != before
    assert text(tiny_adapter("stable_diffusion_3", with_t5=False)) != text(tiny_adapter("stable_diffusion_3"))


def test_what_else_changes_latents_leads_to_another_folder_or_key():
    model = tiny_adapter("flux")
    before = image(model)
    assert image(model, "sample") != before
    assert image(model, device=torch.device("cuda")) != before
    model.pipeline.vae.to(torch.bfloat16)
    assert image(model) != before
    assert len({picture_key(a, CropSpec((r, r))) for a in ("a", "b") for r in (32, 64)}) == 4
    assert prompt_key("a") != prompt_key("a ")


def test_a_folder_says_what_made_it(tmp_path):
    model = tiny_adapter("stable_diffusion")
    assert not Caches.exist(tmp_path)
    caches = Caches.open(tmp_path, model, "mode", CPU)
    assert not Caches.exist(tmp_path)  # looking leaves nothing behind
    caches.describe()
    assert Caches.exist(tmp_path)
    note = json.loads((caches.prompts.folder / "made_by.json").read_text())
    assert note["networks"]["text_encoder"]["class"] == "CLIPTextModel"
    assert note == text_identity(model, CPU)


@pytest.mark.parametrize(("resolution", "per_call"), [(64, 8), (256, 4), (512, None), (1024, None)])
def test_images_that_are_encoded_in_batches_have_a_folder_of_their_own(resolution, per_call):
    model = tiny_adapter("stable_diffusion")
    model.resolution = resolution
    assert image_identity(model, "mode", CPU).get("per_call") == per_call


@pytest.mark.parametrize(("num_tokens", "per_call"), [(77, 8), (256, 2), (512, None)])
def test_prompts_that_are_encoded_in_batches_have_a_folder_of_their_own(num_tokens, per_call):
    model = tiny_adapter("flux")
    model.max_sequence_length = num_tokens
    assert text_identity(model, CPU).get("per_call") == per_call


def test_prompts_of_unlike_length_are_encoded_alone():
    assert "per_call" not in text_identity(tiny_adapter("qwen_image"), CPU)
