"""The comparison with official packages draws the same everywhere, builds once, and reports what it finds."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignbench.calibrate import __main__ as calibrate
from alignbench.calibrate.environments import Requirements, environment
from alignbench.calibrate.official import random_weights
from alignbench.calibrate.samples import SAMPLES, picture
from alignbench.errors import UserError

SHAPES = {"a.weight": (4, 3), "a.bias": (4,), "norm.weight": (3,), "patch.weight": (2, 3, 4, 4), "start": (1, 1, 3)}
FIRST_ROW = [0.66088173, -0.05214940, 0.32555029]
PIXELS = "caf022c106fff2f01eee527e965145afe7c88ac5faa5722ab4d2dcd9852b4b37"  # sha256 of all samples
REQUIREMENTS = Requirements(resolved=("some==1",), alone=("other==2",))


def test_random_weights_are_frozen():
    weights = random_weights(SHAPES, 0)
    assert {name: tuple(value.shape) for name, value in weights.items()} == SHAPES
    assert weights["a.weight"][0].tolist() == pytest.approx(FIRST_ROW, abs=1e-7)
    assert weights["norm.weight"].sub(1.0).abs().max() <= 0.1


def test_random_weights_depend_on_seed_and_name_but_not_on_the_order():
    forward, backward = random_weights(SHAPES, 0), random_weights(dict(reversed(SHAPES.items())), 0)
    assert all(torch.equal(forward[name], backward[name]) for name in SHAPES)
    assert not torch.equal(forward["a.weight"], random_weights(SHAPES, 1)["a.weight"])
    assert not torch.equal(forward["a.weight"], random_weights({"b.weight": (4, 3)}, 0)["b.weight"])


def test_the_sample_images_are_frozen():
    digest = hashlib.sha256()
    for number, (size, mode, _) in enumerate(SAMPLES):
        image = picture(size, mode, seed=number)
        assert (image.size, image.mode) == (size, mode)
        digest.update(image.tobytes())
    assert digest.hexdigest() == PIXELS


def test_the_official_script_imports_nothing_of_ours():
    script = Path(calibrate.__file__).with_name("official.py").read_text(encoding="utf-8")
    assert "import alignbench" not in script
    assert "from alignbench" not in script


def test_an_environment_is_built_once_and_again_when_its_requirements_change(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("shutil.which", lambda name: name)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda command, cwd, check: commands.append(command) or done)
    for _ in range(2):
        python = environment(tmp_path, REQUIREMENTS)
        assert python.is_relative_to(tmp_path)
        assert [command[1] for command in commands] == ["venv", "pip", "pip"]
    assert commands[1][-1] == "some==1"
    assert commands[2][-2:] == ["--no-deps", "other==2"]
    environment(tmp_path, Requirements(resolved=("some==2",), alone=("other==2",)))
    assert len(commands) == 6


def test_a_failed_build_is_told_and_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(subprocess, "run", lambda command, cwd, check: failed)
    for _ in range(2):
        with pytest.raises(UserError, match=r"venv .* failed"):
            environment(tmp_path, REQUIREMENTS)


def test_without_uv_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match="pip install uv"):
        environment(tmp_path, REQUIREMENTS)


@pytest.mark.parametrize(("offset", "status"), [(0.0, 0), (2e-5, 1)])
def test_the_exit_status_says_whether_the_difference_keeps_within_the_bound(
    tmp_path, monkeypatch, capsys, offset, status
):
    scores, token_ids = [0.1 * number for number in range(len(SAMPLES))], [[101, 102]] * len(SAMPLES)
    official = calibrate.OFFICIAL["image_reward"]

    class Ours:
        def score(self, images, prompts):
            return torch.tensor(scores, dtype=torch.float64) + offset

        def encode_prompts(self, prompts):
            return torch.tensor(token_ids)

    theirs = {
        "weights": "here", "packages": dict.fromkeys(official.packages, "1"),
        "scores": scores,
        "token_ids": token_ids,
    }  # fmt: skip
    monkeypatch.setattr(calibrate, "environment", lambda folder, requirements: Path("python"))
    monkeypatch.setattr(calibrate, "run_official", lambda python, job, folder: theirs)
    monkeypatch.setattr(calibrate, "instantiate", lambda config, **arguments: Ours())
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["calibrate", "--official", "image_reward", "--reduced", "--out", str(out)])
    with pytest.raises(SystemExit) as stopped:
        calibrate.main()
    assert stopped.value.code == status
    assert json.loads(out.read_text(encoding="utf-8"))["largest_difference"] == pytest.approx(offset, abs=1e-9)
    assert capsys.readouterr().out.count("official") == len(SAMPLES)
