"""A9: distilled weights are sampled as they need it, without guidance and in few steps, and the head says so."""

import json

import pytest
from hydra.utils import get_class

from alignbench.configuration.build import conf_folder, resolve, run_name
from alignbench.configuration.checks import check
from alignbench.configuration.compose import composed
from alignbench.configuration.distilled_weights import follow_distilled_weights
from alignbench.errors import UserError
from alignbench.generation.generate import Sampling
from alignbench.models.families.qwen_image_21 import QwenImage21
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.flux2_klein import tiny_flux2_klein
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.weights.loading import read_index, used_parts
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
        "evaluators=shapes", "stages=[generate]", *more,
    ]  # fmt: skip


def sampled_with(root):
    (run,) = manifests(root)
    (file,) = (root / run).rglob("sampling.json")
    return json.loads(file.read_text())


def test_weights_without_guidance_input_take_four_steps_without_guidance_and_the_head_says_so(folders, calls, tmp_path):
    done = alignbench(*given(folders["schnell"]), f"results={tmp_path}")
    assert len(calls) == 4
    told = " ".join(done.stdout.split())
    assert "4 steps, guidance 1" in told
    assert "guidance none: these weights have no guidance input; sampling.true_cfg_scale=VALUE adds" in told
    assert "steps 4: weights of this kind were distilled for few steps; sampling.num_inference_steps=NUMBER" in told
    sampled = sampled_with(tmp_path)
    assert (sampled["guidance_scale"], sampled["num_inference_steps"]) == (1.0, 4)


def test_classifier_free_guidance_is_made_where_it_is_asked_for(folders, calls, tmp_path):
    alignbench(*given(folders["schnell"], "sampling.true_cfg_scale=3.5"), f"results={tmp_path}")
    assert len(calls) == 8
    assert sampled_with(tmp_path)["true_cfg_scale"] == 3.5


def test_weights_with_a_guidance_input_keep_their_scale_and_nothing_is_said(folders, calls, tmp_path):
    done = alignbench(*given(folders["dev"], "sampling.num_inference_steps=3"), f"results={tmp_path}")
    assert len(calls) == 3
    assert "guidance input" not in done.stdout
    assert "few steps" not in done.stdout
    assert sampled_with(tmp_path)["guidance_scale"] == 3.5


def test_validation_is_as_the_images_at_the_end(folders):
    cfg = composed([*given(folders["schnell"]), "method=sft", "data=shapes", "validation=shapes"])
    assert len(follow_distilled_weights(cfg)) == 2
    assert (cfg.validation.guidance_scale, cfg.validation.num_inference_steps) == (1.0, 4)


# ---- the number of steps


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], 4),
        (["sampling.num_inference_steps=50"], 50),
        (["model.num_inference_steps=50"], 50),
        (["model.steps.few=2"], 2),
    ],
)
def test_a_number_of_steps_that_was_typed_is_taken_and_no_other_is_spoken_of(folders, typed, expected):
    cfg = composed(given(folders["schnell"], *typed))
    lines = follow_distilled_weights(cfg)
    assert cfg.sampling.num_inference_steps == expected
    assert any("few steps" in line for line in lines) == (expected < 50)


def test_the_sampling_hash_has_the_number_that_was_taken(folders):
    """Without saying so and by typing it, images are the same and lie in the same folder."""
    hashes = set()
    for typed in ([], ["sampling.num_inference_steps=4"], ["model.num_inference_steps=4"]):
        cfg = composed(given(folders["schnell"], *typed))
        follow_distilled_weights(cfg)
        hashes.add(Sampling(**resolve(cfg)["sampling"]).hash)
    assert len(hashes) == 1


@pytest.fixture(scope="module")
def lcm(tmp_path_factory):
    """A folder of Stable Diffusion that was distilled for the scheduler LCM."""
    from diffusers import LCMScheduler

    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(folder := tmp_path_factory.mktemp("lcm"))
    return folder


def of_lcm(folder, *more):
    return composed([
        "method=base", "model=sd15", f"model.pretrained_model_name_or_path={folder}", "model.resolution=32",
        "prompts=shapes", "evaluators=shapes", "stages=[generate]", *more,
    ])  # fmt: skip


def test_weights_that_come_with_the_scheduler_of_few_steps_take_few(lcm):
    cfg = of_lcm(lcm, "sampling.scheduler=LCM")
    check(cfg)
    (line,) = follow_distilled_weights(cfg)
    assert line.startswith("steps       4: ")
    assert (cfg.sampling.num_inference_steps, cfg.sampling.guidance_scale) == (4, 7.5)


def test_the_scheduler_in_the_file_of_the_model_is_not_taken_for_such_weights(lcm):
    """That of sd15 is PNDM."""
    with pytest.raises(UserError, match=r"another would show another model; add sampling.scheduler=LCM$"):
        check(of_lcm(lcm))
    check(of_lcm(lcm, "sampling.scheduler=PNDM"))
    check(of_lcm(lcm, "model.scheduler=LCM"))


# ---- weights that are told by their index


@pytest.fixture(scope="module")
def kleins(tmp_path_factory):
    """Folders of FLUX.2-klein without any weights: the base, and what was distilled from it."""
    found = {}
    for name, distilled in {"base": False, "distilled": True}.items():
        found[name] = tmp_path_factory.mktemp(name)
        tiny_flux2_klein(is_distilled=distilled).save_pretrained(found[name])
        for file in found[name].rglob("*.safetensors"):
            file.unlink()
    return found


def of_klein(folder, *more):
    return composed([
        "model=flux2_klein", f"model.pretrained_model_name_or_path={folder}", "model.resolution=32", "prompts=shapes",
        "evaluators=shapes", *more,
    ])  # fmt: skip


def test_distilled_klein_is_known_before_it_is_loaded(kleins):
    cfg = of_klein(kleins["distilled"], "method=base")
    steps, guidance = follow_distilled_weights(cfg)
    assert steps.startswith("steps       4: weights of this kind were distilled for few steps")
    assert guidance.startswith("guidance    1.0: weights of this kind")
    assert (cfg.sampling.num_inference_steps, cfg.sampling.guidance_scale) == (4, 1.0)

    cfg = of_klein(kleins["base"], "method=base")
    assert follow_distilled_weights(cfg) == []
    assert (cfg.sampling.num_inference_steps, cfg.sampling.guidance_scale) == (50, 4.0)


def test_qwen_image_21_with_noise_levels_of_its_own_is_distilled(tmp_path):
    index = {"_class_name": "QwenImage21Pipeline", "sample_sigmas": [1.0, 0.7, 0.3], "vae": ["diffusers", "Vae"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    read = read_index(tmp_path / "model_index.json")
    assert used_parts(read) == {"vae": ["diffusers", "Vae"]}
    assert QwenImage21.takes_few_steps(read, {}, {})
    assert not QwenImage21.takes_few_steps({"sample_sigmas": None}, {}, {})


@pytest.mark.parametrize(
    ("model", "name"),
    [("flux2_klein", "base-flux2_klein-b4dc189ba6"), ("flux2_klein_9b", "base-flux2_klein_9b-c3b4571824")],
)
def test_runs_of_klein_have_the_names_from_before_it_had_two_guidance_scales(model, name):
    assert run_name(composed(["method=base", f"model={model}"])) == name


@pytest.mark.parametrize("model", ["flux_mini", "sd15_mini"])
def test_miniatures_are_left_as_they_are(model):
    cfg = composed(["method=base", f"model={model}"])
    before = cfg.copy()
    assert follow_distilled_weights(cfg) == []
    assert cfg == before


def test_other_weights_are_left_as_they_are(folders, tmp_path):
    tiny_stable_diffusion().save_pretrained(tmp_path)
    for cfg in (composed(given(folders["dev"])), of_lcm(tmp_path)):
        before = cfg.copy()
        assert follow_distilled_weights(cfg) == []
        assert cfg == before
        assert cfg.sampling.num_inference_steps == 50


# ---- every model whose weights may be of few steps

EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0}
PNDM = {"_class_name": "PNDMScheduler"}
LCM, TCD = {"_class_name": "LCMScheduler"}, {"_class_name": "TCDScheduler"}
# what tells them: model_index.json, the network's config.json and scheduler_config.json; those of the others follow
TOLD = {
    "flux": (({}, {"guidance_embeds": False}, EULER), ({}, {"guidance_embeds": True}, EULER)),
    "flux_schnell": (({}, {"guidance_embeds": False}, EULER), ({}, {"guidance_embeds": True}, EULER)),
    "flux2_klein": (({"is_distilled": True}, {}, EULER), ({"is_distilled": False}, {}, EULER)),
    "flux2_klein_9b": (({"is_distilled": True}, {}, EULER), ({}, {}, EULER)),
    "qwen_image_21": (({"sample_sigmas": [1.0, 0.7, 0.3]}, {}, EULER), ({"sample_sigmas": None}, {}, EULER)),
    "z_image": (({}, {}, EULER | {"shift": 3.0}), ({}, {}, EULER)),
    "sd15": (({}, {}, LCM), ({}, {}, PNDM)),
    "sdxl": (({}, {}, TCD), ({}, {}, PNDM)),
}
GIVEN_IMAGES = ["method=sft", "data=shapes"]
OWN_IMAGES = ["method=nft", "data=prompts", "data.path=prompts.txt", "reward=shapes_clip"]


def told_for(folder, model, files, *words):
    """Return what is said of weights of which there are only these files."""
    cfg = composed([f"model={model}", f"model.pretrained_model_name_or_path={folder}", "prompts=shapes", *words])
    network = get_class(cfg.model.adapter._target_).denoiser_name
    names = ("model_index.json", f"{network}/config.json", "scheduler/scheduler_config.json")
    for name, content in zip(names, files, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps({"_class_name": "Any", **content}))
    return follow_distilled_weights(cfg)


def test_every_family_that_tells_weights_of_few_steps_is_here():
    tells = {f"alignbench.models.families.{name}." for name, one in FAMILIES.items() if "takes_few_steps" in vars(one)}
    files = "".join((conf_folder() / "model" / f"{model}.yaml").read_text() for model in TOLD)
    assert [name for name in tells if name not in files] == []


@pytest.mark.matrix
@pytest.mark.parametrize("model", TOLD)
def test_a_loss_on_given_images_of_weights_of_few_steps_is_warned_of(tmp_path, model):
    few, many = TOLD[model]
    warning = "warning     method=sft trains on noise levels that weights of few steps were not distilled for"
    assert told_for(tmp_path, model, few, *GIVEN_IMAGES)[-1].startswith(warning)
    for files, words in ((few, OWN_IMAGES), (many, GIVEN_IMAGES), (few, [*GIVEN_IMAGES, "stages=[generate]"])):
        assert not any(line.startswith("warning") for line in told_for(tmp_path, model, files, *words))


def test_z_image_turbo_takes_9_steps_without_guidance_and_the_head_says_so(tmp_path):
    few, many = TOLD["z_image"]
    steps, guidance = told_for(tmp_path, "z_image", few, "method=base")
    assert steps.startswith("steps       9: weights of this kind were distilled for few steps")
    assert guidance.startswith("guidance    0.0: weights of this kind were distilled for few steps")
    assert told_for(tmp_path, "z_image", many, "method=base") == []
