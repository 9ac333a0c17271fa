"""F7: the folder of a judge holds data. Whatever its record names, nothing but known evaluators is built."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.evaluator import weight_bytes
from alignbench.store.reward_model_folder import RewardModelRecord
from evaluators import load
from evaluators.judge import STARTS, TARGETS, TrainedRewardModel
from tests.program import alignbench

ROOT = Path(__file__).resolve().parents[2]
JUDGE = ROOT / "tests" / "fixtures" / "v0_1_0" / "results" / "judges" / "head-shapes-b8d19b53da"
HUB = ("torch.hub.load", {"source": "local", "model": "payload"})


@pytest.fixture
def judge(tmp_path):
    """A judge's folder with code in it that would leave a file `ran` beside the folder."""
    folder = shutil.copytree(JUDGE, tmp_path / "judge")
    (folder / "hubconf.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef payload(): return 'x'\n")
    return folder


def nested(folder, target="torch.hub.load"):
    return {"_target_": target, "repo_or_dir": str(folder), "source": "local", "model": "payload"}


def plant(folder, node=None, **judge):
    file = folder / "config.json"
    record = json.loads(file.read_text())
    if node is not None:
        record["start"]["node"] = node
    record["judge"] |= judge
    file.write_text(json.dumps(record))


CLIP = "evaluators.clip_score.ClipScore"
SHAPES = "evaluators.shapes_reward.ShapesReward"
NODES = {
    "a function": lambda folder: nested(folder),
    "an alias": lambda folder: nested(folder, "evaluators.aesthetic.torch.hub.load"),
    "an alias of a start": lambda folder: nested(folder, "evaluators.judge.ShapesReward"),
    "an argument": lambda folder: {"_target_": CLIP, "name": "clip_score", "source": nested(folder)},
    "an argument of a kind": lambda folder: {"kind": "ClipScore", "name": "clip_score", "source": nested(folder)},
    "a mapping": lambda folder: {
        "kind": "ClipScore", "name": "clip_score", "source": str(folder), "architecture": {"text": nested(folder)}
    },
    "the start by its base class": lambda folder: {"_target_": "evaluators.clip_reward.ClipReward", "source": "x"},
    "an evaluator that asks a server": lambda folder: {"_target_": "evaluators.remote.Remote", "url": "http://x"},
    "an unknown argument": lambda folder: {"_target_": SHAPES, "name": "shapes_clip", "_partial_": True},
    "no argument": lambda folder: {"_target_": SHAPES},
    "no kind": lambda folder: {"name": "shapes_clip"},
    "a wrong name": lambda folder: {"_target_": SHAPES, "name": nested(folder)},
}  # fmt: skip


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_what_it_names_is_looked_up_and_never_run(tmp_path, judge, node):
    plant(judge, node(judge))
    with pytest.raises(UserError, match=r"^[^\n]*judge[^\n]*(is not read from a folder|cannot be built)[^\n]*$"):
        load("judge", path=judge)
    with pytest.raises(UserError):
        TrainedRewardModel.weight_bytes({"path": str(judge)})
    assert not (tmp_path / "ran").exists()


def test_a_kind_of_network_that_is_unknown_is_told(judge):
    plant(judge, kind="torch.hub.load")
    with pytest.raises(UserError, match=r"judge of kind torch.hub.load, which is unknown; available: pickscore_like"):
        load("judge", path=judge)


@pytest.mark.parametrize("node", ["an alias", "an argument"])
def test_the_programs_end_with_a_sentence(tmp_path, judge, node):
    plant(judge, NODES[node](judge))
    words = ["method=base", "model=sd15_mini", f"results={tmp_path / 'results'}", "prompts.limit=2"]
    as_evaluator = ["evaluators=none", "+evaluator@evaluators.mine=judge", f"evaluators.mine.path={judge}"]
    as_reward = ["method=srpo", "reward=judge", f"reward.path={judge}"]
    for extra in (as_evaluator, as_reward, [*as_reward, "dry_run=true"]):
        done = alignbench(*words, *extra, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("alignbench: ")
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "ran").exists()


@pytest.mark.matrix
def test_a_server_of_such_a_judge_does_not_start(tmp_path, judge):
    plant(judge, NODES["an alias"](judge))
    command = [sys.executable, "-m", "alignbench.serve", "judge", f"path={judge}", "--port", "0", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "is not read from a folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_judges_of_version_0_1_0_and_of_today_are_built_from_the_table(judge):
    old = load("judge", path=judge)
    plant(judge, {"kind": "ShapesReward", "name": "shapes_clip"})
    new = load("judge", path=judge)
    assert type(old._start) is type(new._start) is STARTS["ShapesReward"]
    assert old.network.state_dict().keys() == new.network.state_dict().keys()
    assert set(TARGETS.values()) == set(STARTS.values())
    assert weight_bytes(STARTS["ShapesReward"], {"name": "shapes_clip"})


def test_a_changed_file_of_a_judge_is_named(judge):
    from alignbench.files import sha256

    file = judge / "config.json"
    record = json.loads(file.read_text())
    record["files"] = {"model.safetensors": sha256(judge / "model.safetensors")}
    file.write_text(json.dumps(record))
    RewardModelRecord.read(judge)
    weights = judge / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"model.safetensors has changed since it was written"):
        RewardModelRecord.read(judge)
