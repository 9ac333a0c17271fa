"""A9: `model=flux` with a folder whose transformer has no guidance input makes one call a step, and says so."""

import json

import pytest

from alignbench.configuration.compose import composed
from alignbench.configuration.missing_guidance import drop_missing_guidance
from alignbench.models.tiny_random import tiny_flux
from tests.program import alignbench, manifests


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name, embeds in {"dev": True, "schnell": False}.items():
        found[name] = tmp_path_factory.mktemp(name)
        tiny_flux(guidance_embeds=embeds).save_pretrained(found[name])
    return found


@pytest.fixture
def calls(monkeypatch):
    """The number of calls of transformers."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    made, forward = [], FluxTransformer2DModel.forward
    monkeypatch.setattr(FluxTransformer2DModel, "forward", lambda *a, **k: made.append(1) or forward(*a, **k))
    return made


def given(folder, *more):
    return [
        "method=base", "model=flux", f"model.pretrained_model_name_or_path={folder}", "model.resolution=32",
        "model.sampling_resolution=null", "model.adapter.max_sequence_length=32", "prompts=shapes", "prompts.limit=2",
        "sampling.num_inference_steps=4", "evaluators=shapes", "stages=[generate]", *more,
    ]  # fmt: skip


def sampled_with(root):
    (run,) = manifests(root)
    (file,) = (root / run).rglob("sampling.json")
    return json.loads(file.read_text())


def test_weights_without_guidance_input_are_sampled_without_guidance_and_the_head_says_so(folders, calls, tmp_path):
    done = alignbench(*given(folders["schnell"]), f"results={tmp_path}")
    assert len(calls) == 4
    told = " ".join(done.stdout.split())
    assert "4 steps, guidance 1" in told
    assert "guidance none: these weights have no guidance input; sampling.true_cfg_scale=VALUE adds" in told
    assert "sampling.num_inference_steps=4" in told  # the steps of few-step weights
    assert sampled_with(tmp_path)["guidance_scale"] == 1.0


def test_classifier_free_guidance_is_made_where_it_is_asked_for(folders, calls, tmp_path):
    alignbench(*given(folders["schnell"], "sampling.true_cfg_scale=3.5"), f"results={tmp_path}")
    assert len(calls) == 8
    assert sampled_with(tmp_path)["true_cfg_scale"] == 3.5


def test_weights_with_a_guidance_input_keep_their_scale_and_nothing_is_said(folders, calls, tmp_path):
    done = alignbench(*given(folders["dev"]), f"results={tmp_path}")
    assert len(calls) == 4
    assert "guidance input" not in done.stdout
    assert sampled_with(tmp_path)["guidance_scale"] == 3.5


def test_validation_has_no_guidance_either(folders):
    cfg = composed([*given(folders["schnell"]), "method=sft", "data=shapes", "validation=shapes"])
    assert drop_missing_guidance(cfg) is not None
    assert cfg.validation.guidance_scale == 1.0


@pytest.mark.parametrize("model", ["flux_mini", "sd15_mini", "sdxl"])
def test_other_models_are_left_as_they_are(model):
    cfg = composed(["method=base", f"model={model}"])
    before = cfg.copy()
    assert drop_missing_guidance(cfg) is None
    assert cfg == before
