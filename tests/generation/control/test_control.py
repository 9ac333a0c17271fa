"""Maps for prompts: found by name or by list, made of pictures once, and part of what a sampling is called."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.generation.control.control import Control
from alignbench.generation.control.controlnet import check_family
from alignbench.generation.control.makers import Canny, Depth
from alignbench.generation.control.pictures import digest, pictures_by_prompt, refuse_prompts_without
from alignbench.generation.generate import Sampling
from alignbench.models.families.flux import Flux
from alignbench.models.families.stable_diffusion import StableDiffusion
from alignbench.models.families.stable_diffusion_3 import StableDiffusion3
from alignbench.models.tiny_random import tiny_adapter, tiny_controlnet

CPU = torch.device("cpu")
PROMPTS = PromptSet("mine", (Prompt("a", "a red circle"), Prompt("b", "a blue square")), 2)


def draw(path, size=(40, 24), seed=0):
    """Save a picture of a few large rectangles."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 30, np.uint8)
    for _ in range(4):
        y, x = rng.integers(0, size[1] - 6), rng.integers(0, size[0] - 6)
        pixels[y : y + 8, x : x + 8] = rng.integers(0, 255, 3)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw(folder / "a.png")
    draw(folder / "b.jpg", size=(24, 40), seed=1)
    return folder


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controlnet")
    tiny_controlnet(tiny_adapter("stable_diffusion")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    """A tiny random depth network, as transformers saves one."""
    folder = tmp_path_factory.mktemp("depth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DPTConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32,
            patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            reassemble_factors=[4, 2, 1, 0.5], is_hybrid=False, head_in_index=-1,
        )  # fmt: skip
        DPTForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def control(controlnet, /, **changes):
    values = {
        "controlnet": str(controlnet), "revision": None, "conditioning_scale": 1.0, "images": None, "pictures": None,
        "maker": Canny(100, 200),
    }  # fmt: skip
    return Control(**values | changes)


# ---- which picture


def test_files_are_called_after_prompts(pictures):
    found = pictures_by_prompt(pictures, "KEY")
    assert {prompt_id: file.name for prompt_id, file in found.items()} == {"a": "a.png", "b": "b.jpg"}


def test_a_list_names_files_by_prompt(pictures):
    (pictures / "list.csv").write_text("prompt_id,file\nx,b.jpg\ny,b.jpg\n")
    found = pictures_by_prompt(pictures / "list.csv", "KEY")
    assert {prompt_id: file.name for prompt_id, file in found.items()} == {"x": "b.jpg", "y": "b.jpg"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt_id,file\na,none.png\n", r"1 of 1 files in .*list.csv do not exist, the first being .*none.png"),
        ("prompt,file\na,a.png\n", "must have the column prompt_id and one of file, .*; its columns are prompt, file"),
        ("prompt_id,file\na,a.png\na,b.jpg\n", r"has a.png and b.jpg for one prompt; keep one"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(pictures, content, message):
    (pictures / "list.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        pictures_by_prompt(pictures / "list.csv", "KEY")


def test_a_folder_without_pictures_and_a_place_that_is_none_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"KEY=.* holds no pictures; expected files like PROMPT_ID.png"):
        pictures_by_prompt(tmp_path, "KEY")
    with pytest.raises(UserError, match=r"KEY=.*nowhere is neither a folder nor a list in .jsonl, .csv, .tsv"):
        pictures_by_prompt(tmp_path / "nowhere", "KEY")


def test_prompts_without_a_picture_are_named(pictures):
    files = pictures_by_prompt(pictures, "KEY")
    refuse_prompts_without(files, PROMPTS, "KEY", "FOLDER")
    more = PromptSet("mine", (*PROMPTS.prompts, Prompt("c", "x"), Prompt("d", "y")), 4)
    with pytest.raises(UserError, match=r"2 of 4 prompts of prompts=mine have no picture in KEY=FOLDER: c, d; .*c.png"):
        refuse_prompts_without(files, more, "KEY", "FOLDER")


# ---- maps


def sampler_of(one, tmp_path):
    call = {"num_inference_steps": 2, "guidance_scale": 2.0}
    return one.sampler(tiny_adapter("stable_diffusion"), tmp_path / "cache", **call)


def test_maps_are_made_of_the_middle_square_and_kept(controlnet, pictures, tmp_path, monkeypatch):
    one = control(controlnet, pictures=str(pictures))
    sampler = sampler_of(one, tmp_path)
    made = sampler.map_of("a")
    with Image.open(pictures / "a.png") as whole:
        square = whole.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS, box=(8, 0, 32, 24))
    assert np.array_equal(np.asarray(made), np.asarray(Canny(100, 200)(square, CPU)))
    assert np.asarray(made).any()
    assert len(list((tmp_path / "cache" / "control").glob("a-*.png"))) == 1
    monkeypatch.setattr(Canny, "__call__", None)  # read, not made
    assert np.array_equal(np.asarray(sampler.map_of("a")), np.asarray(made))


def test_a_changed_picture_is_never_taken_for_the_map_of_the_old_one(controlnet, pictures, tmp_path):
    before = sampler_of(control(controlnet, pictures=str(pictures)), tmp_path).map_of("a")
    draw(pictures / "a.png", seed=5)
    after = sampler_of(control(controlnet, pictures=str(pictures)), tmp_path).map_of("a")
    assert not np.array_equal(np.asarray(before), np.asarray(after))


def test_given_maps_are_used_as_they_are_and_have_to_be_square(controlnet, pictures, tmp_path):
    Image.new("L", (20, 20), 200).save(pictures / "b.png")
    (pictures / "b.jpg").unlink()
    sampler = sampler_of(control(controlnet, images=str(pictures)), tmp_path)
    assert np.unique(np.asarray(sampler.map_of("b"))).tolist() == [200]
    assert sampler.map_of("b").mode == "RGB"
    with pytest.raises(UserError, match=r"a.png is 40 x 24 pixels; maps must be square"):
        sampler.map_of("a")
    assert not (tmp_path / "cache").exists()


def test_depth_is_stretched_over_all_levels_and_bright_where_the_network_says_more(estimator):
    maker = Depth(str(estimator))
    maker.check()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8))
    made = maker(picture, CPU)
    assert (made.size, made.mode) == ((48, 48), "RGB")
    levels = np.asarray(made)[..., 0]
    assert (levels.min(), levels.max()) == (0, 255)

    network, processor = DPTForDepthEstimation.from_pretrained(estimator), DPTImageProcessor.from_pretrained(estimator)
    with torch.no_grad():
        outputs = network.eval()(**processor(images=picture, return_tensors="pt"))
    depth = processor.post_process_depth_estimation(outputs, target_sizes=[(48, 48)])[0]["predicted_depth"]
    expected = (depth - depth.min()) / (depth.max() - depth.min()) * 255
    assert np.abs(levels - expected.numpy()).max() < 0.51  # rounding to a level


def test_a_network_that_is_no_estimator_or_gives_metres_is_refused(controlnet, estimator, tmp_path):
    with pytest.raises(UserError, match=r"maker.estimator must be set"):
        Depth(None).check()
    with pytest.raises(UserError, match=r"holds a ControlNetModel; give .* DPTForDepthEstimation or Depth"):
        Depth(str(controlnet)).check()
    config = json.loads((estimator / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"depth_estimation_type": "metric"}))
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="returns depth in metres"):
        Depth(str(tmp_path)).check()


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(UserError, match="low_threshold=300 must lie between 0 and high_threshold=200"):
        Canny(300, 200).check()


# ---- names


def test_whatever_changes_the_images_changes_the_name_of_their_sampling(controlnet, pictures, estimator, tmp_path):
    def name(**changes):
        return Sampling(2, 2.0, control=control(controlnet, **{"pictures": str(pictures)} | changes)).hash

    names = [name(), Sampling(2, 2.0).hash]
    names.append(name(conditioning_scale=0.5))
    names.append(name(pictures=None, images=str(pictures)))
    names.append(name(maker=Canny(100, 201)))
    names.append(name(maker=Depth(str(estimator))))
    names.append(name(revision="main"))
    draw(pictures / "b.jpg", seed=7)
    names.append(name())
    assert len(set(names)) == len(names)
    assert name() == names[-1]


def test_pictures_of_other_prompts_have_another_digest(pictures):
    first, second = pictures / "a.png", pictures / "b.jpg"
    assert digest({"a": first, "b": second}) == digest({"b": second, "a": first})
    assert digest({"a": first, "b": second}) != digest({"a": second, "b": first})


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controlnet": None}, "controlnet must be set, because this model has no default"),
        ({"conditioning_scale": 0}, "conditioning_scale=0 must be a number above 0"),
        ({}, "needs one source of maps: add sampling.control.pictures=FOLDER"),
        ({"pictures": ".", "images": "."}, "needs one source of maps"),
    ],
)
def test_what_is_missing_is_asked_for(controlnet, changes, message):
    with pytest.raises(UserError, match=message):
        control(controlnet, **changes)


def test_the_check_covers_network_prompts_and_maker(controlnet, pictures):
    def check(family=StableDiffusion, prompts=PROMPTS, **changes):
        control(controlnet, **{"pictures": str(pictures)} | changes).check(family, prompts)

    check()
    with pytest.raises(UserError, match=r"holds a ControlNetModel; give .* of the class FluxControlNetModel"):
        check(Flux)
    with pytest.raises(UserError, match=r"lacks config.json; give .* of the class ControlNetModel"):
        check(controlnet=str(pictures))
    with pytest.raises(UserError, match="1 of 1 prompts of prompts=mine have no picture"):
        check(prompts=PromptSet("mine", (Prompt("z", "x"),), 1))
    with pytest.raises(UserError, match="low_threshold=-1"):
        check(maker=Canny(-1, 1))


def test_families_and_schedulers_that_cannot_be_controlled_are_refused():
    check_family(StableDiffusion, "mine", "UniPCMultistep")
    check_family(Flux, "mine", "FlowMatchEulerDiscrete")
    with pytest.raises(
        UserError,
        match=r"not sampled by a ControlNet: .* without a seed.*; choose .* FluxPipeline or Sta",
    ):
        check_family(StableDiffusion3, "mine", None)
    with pytest.raises(UserError, match=r"scheduler=UniPCMultistep does not work with a ControlNet .*FlowMatchEuler"):
        check_family(Flux, "mine", "UniPCMultistep")
