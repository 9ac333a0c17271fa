"""Three lines of Python score a picture, in a clone and where the package is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.configuration.find_evaluator import read_settings
from alignbench.errors import UserError
from evaluators import load
from evaluators.hpsv2 import HPSv2

ROOT = Path(__file__).resolve().parents[2]
THREE_LINES = """
import sys, evaluators
assert not {"torch", "hydra", "transformers", "PIL"} & {*sys.modules}
from evaluators import load
scorer = load("shapes_oracle_cleanliness")
assert not {"diffusers", "transformers", "accelerate", "peft", "bitsandbytes"} & {*sys.modules}
print(scorer.score([sys.argv[1]], ["a photo of a cat"]).tolist()[0], evaluators.__file__)
"""


@pytest.fixture
def picture(tmp_path):
    """A picture and its file."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8))
    image.save(tmp_path / "cat.png")
    return image, tmp_path / "cat.png"


@pytest.mark.parametrize("installed", [False, True])
def test_three_lines_score_a_file_and_importing_the_package_loads_nothing(picture, tmp_path, installed):
    root = ROOT
    if installed:  # laid out as the wheel: conf inside the package
        root = tmp_path / "site"
        skip = shutil.ignore_patterns("__pycache__", "*.safetensors", "prompt_sets")
        for name, target in (("alignbench",) * 2, ("evaluators",) * 2, ("conf", "alignbench/conf")):
            shutil.copytree(ROOT / name, root / target, ignore=skip)
    image, file = picture
    command = [sys.executable, "-c", THREE_LINES, str(file)]
    done = subprocess.run(command, cwd=root, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    score, where = done.stdout.split()
    assert float(score) == load("shapes_oracle_cleanliness").score([image], ["a photo of a cat"]).item()
    assert where.startswith(str(root))


def test_values_replace_those_of_the_file(weights, tokenizer_folder, architecture, photos, tmp_path):
    values = {"tokenizer": tokenizer_folder, "architecture": architecture}
    scorer = load("pickscore", source=Path(weights["pickscore"]), **values)
    images = photos(3, 80)
    images[0].save(tmp_path / "0.png")
    scores = scorer.score(images, ["a", "b", "c"])
    torch.testing.assert_close(scorer.score([tmp_path / "0.png", *images[1:]], ["a", "b", "c"], batch_size=2), scores)
    half = load("pickscore", source=weights["pickscore"], precision="bfloat16", **values)
    assert half.precision == "bfloat16"
    assert 0 < (half.score(images, ["a", "b", "c"]) - scores).abs().max() < 0.05


def test_nested_values_replace_key_by_key(weights):
    scorer = load("sgp_hps_softmax", hpsv2={"source": weights["hpsv2_1"]})
    hpsv2 = scorer.hpsv2  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(hpsv2, HPSv2)
    assert (hpsv2.name, hpsv2.source) == ("hpsv2_1", weights["hpsv2_1"])


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("pickscor", {}, ["evaluator pickscor is unknown", "did you mean pickscore"]),
        ("../method/dpo", {}, ["is unknown", "available: aesthetic,"]),
        ("pickscore", {"sorce": "x"}, ["pickscore.sorce is unknown", "did you mean source?", "precision"]),
        ("sgp_hps_softmax", {"hpsv2": {"sorce": "x"}}, ["sgp_hps_softmax.hpsv2.sorce is unknown", "mean source?"]),
        ("pickscore", {"_target_": "os.system"}, ["pickscore._target_ is unknown"]),
        ("pickscore", {"precision": torch.bfloat16}, ["pickscore.precision is a dtype", "expected text"]),
        ("clip_score", {"precision": "int4"}, ["precision=int4 is unknown", "float16"]),
        ("aesthetic_v2_5", {}, ["aesthetic_v2_5 needs head", "give head=VALUE"]),
        ("image_reward", {"source": "/nowhere"}, ["/nowhere", "ImageReward.pt"]),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(name, values, expected):
    with pytest.raises(UserError) as error:
        load(name, **values)
    for part in expected:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_it_works_inside_a_program_that_uses_hydra():
    from hydra import compose, initialize_config_dir

    from alignbench.configuration.build import conf_folder

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        assert load("shapes_oracle_realism").name == "shapes_oracle_realism"
        assert compose("evaluators/none").evaluators == {}


def test_settings_are_read_as_the_command_line_reads_them():
    words = ["source=FOLDER", "hpsv2.source='a b'", "hpsv2.precision=float16", "head=null", "sizes=[1,2]", "m={a: 1.5}"]
    assert read_settings(words) == {
        "source": "FOLDER", "hpsv2": {"source": "a b", "precision": "float16"}, "head": None, "sizes": [1, 2],
        "m": {"a": 1.5},
    }  # fmt: skip


@pytest.mark.parametrize("word", ["source", "a=1,2", "+a=1", "~a", "=1"])
def test_other_words_are_refused(word):
    with pytest.raises(UserError, match="expected key=value"):
        read_settings([word])


def test_a_key_that_is_a_value_and_holds_others_is_refused():
    with pytest.raises(UserError, match="contradicts"):
        read_settings(["a=1", "a.b=2"])
