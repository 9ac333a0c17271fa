"""Models of videos: which settings they have, what is refused, and that those of images keep their names."""

import json

import pytest

from alignbench.configuration.build import frames_of, run_name
from alignbench.configuration.checks import check
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.videos import FrameSpec


def test_models_of_images_keep_the_names_that_their_runs_had():
    assert run_name(composed(["method=base", "model=wan"])) == "base-wan-098655be6f"
    command = ["method=dpo", "model=wan", "data=local", "data.path=FOLDER"]
    assert run_name(composed(command)) == run_name(composed([*command, "model.fps=24"])) == "dpo-wan-cc1be50570"


def test_the_frames_of_videos_change_the_run_of_a_method_and_its_base():
    assert frames_of(composed(["method=base", "model=wan_video"]).model) == FrameSpec(81, 16.0)
    assert frames_of(composed(["method=base", "model=wan"]).model) is None
    assert frames_of(composed(["method=base", "model=flux"]).model) is None
    for command in (["method=base", "model=wan"], ["method=dpo", "model=wan", "data=local", "data.path=FOLDER"]):
        changes = ([], ["model.num_frames=5"], ["model.num_frames=9"], ["model.num_frames=9", "model.fps=8"])
        assert len({run_name(composed([*command, *change])) for change in changes}) == 4


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "p", "image_w": "a.webp", "image_l": "b.webp"}))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model=wan", "model.num_frames=6"],
            "model.num_frames=6 must be one more than a multiple of 4, as 1, 5 or 81",
        ),
        (["model=wan_video", "model.fps=0"], "model.fps=0 must be a number above 0"),
        (
            ["model=wan_video", "data=shapes"],
            "is trained on videos, and data=shapes has pictures; add data=captions or ",
        ),
        (["model=wan_video", "data.num_frames=5"], "data.num_frames and data.fps are those of the model, which has 81"),
        (["model=wan", "data.num_frames=5", "data.fps=16"], "those of the model, which has images; leave them out"),
        (
            ["model=wan_video", "real_images=FOLDER"],
            "real_images=FOLDER are pictures, and model=wan_video makes videos",
        ),
        (["model=wan_video", "features=shapes"], "features=shapes_clip are of images, and model=wan_video makes"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_loads(words, message, folder):
    data = [] if "data=shapes" in words else ["data=local", f"data.path={folder}"]
    with pytest.raises(UserError) as told:
        check(composed(["method=dpo", "evaluators=shapes", "prompts=shapes", *data, *words]))
    assert message in str(told.value)


def test_a_key_of_videos_is_unknown_to_models_of_images():
    with pytest.raises(UserError, match=r"num_frames"):
        composed(["method=base", "model=flux", "model.num_frames=5"])
