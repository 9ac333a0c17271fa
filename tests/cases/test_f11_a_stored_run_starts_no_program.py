"""F11: programs and functions of the user's run where a command types them, and never because a folder names them."""

import json
import sys

import pytest
import yaml

from alignbench.soup import find_parent, make_soup
from alignbench.stages.trained_weights import find_source
from tests.program import alignbench, manifests, rows

SMALL = [
    "model=sd15_mini", "train.max_train_steps=1", "train.total_batch_size=4", "train.micro_batch_size=2",
    "method.group_size=2", "method.num_rollout_steps=2", "method.updates_per_round=1", "method.levels.num=1",
    "method.levels.stop=2", "data.num_prompts=8", "prompts.limit=4", "sampling.num_inference_steps=2",
]  # fmt: skip
ORACLE = ["evaluators=none", "+evaluator@evaluators.shapes_oracle_realism=shapes_oracle_realism"]
MODULE = """
from pathlib import Path
Path({ran!r}).touch()

def score(images, prompts):
    return [image.getpixel((0, 0))[0] / 255 for image in images]
"""
PROGRAM = """
import json, sys
from pathlib import Path
Path({ran!r}).touch()
for line in sys.stdin:
    print(json.dumps({{"score": len(json.loads(line)["prompt"])}}), flush=True)
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run that trained on a sum with a function and a program: its results folder and what these leave."""
    folder = tmp_path_factory.mktemp("stored")
    ran = {name: folder / f"{name}_ran" for name in ("function", "program")}
    (folder / "users_reward.py").write_text(MODULE.format(ran=str(ran["function"])))
    (folder / "length.py").write_text(PROGRAM.format(ran=str(ran["program"])))
    mine = {"name": "corner", "version": "1", "function": "users_reward:score"}
    length = {"name": "length", "version": "1", "command": f"[{sys.executable},{folder / 'length.py'}]"}
    words = ["reward=[shapes_clip,function,program]", "reward.weights.program=0.1"]
    words += [f"reward.components.function.{key}={value}" for key, value in mine.items()]
    words += [f"reward.components.program.{key}={value}" for key, value in length.items()]
    words += ["evaluators=none", "+evaluator@evaluators.mine=function"]
    words += [f"evaluators.mine.{key}={value}" for key, value in mine.items()]
    sys.path.insert(0, str(folder))
    alignbench("method=nft", *SMALL, *words, f"results={folder / 'results'}")
    sys.path.remove(str(folder))
    sys.modules.pop("users_reward")
    return folder / "results", ran


def trained(results):
    """Return the folder of the run that trained on the sum."""
    [name] = [name for name, manifest in manifests(results).items() if manifest["method"] == "nft"]
    return results / name


@pytest.mark.slow
def test_a_method_trains_on_them_beside_a_network_and_tables_have_their_scores(stored):
    results, ran = stored
    assert all(file.exists() for file in ran.values())
    run = trained(results)
    logged = json.loads((run / "train.jsonl").read_text().splitlines()[0])
    parts = {name: logged[f"reward_{name}"] for name in ("shapes_clip", "function", "program")}
    assert logged["reward"] == pytest.approx(
        parts["shapes_clip"] + parts["function"] + 0.1 * parts["program"], rel=1e-4
    )
    assert manifests(results)[run.name]["trained_on"] == ["shapes_clip", "corner", "length"]
    table = {row["method"]: row for row in rows(results / "leaderboard.csv") if row["group"] == "all"}
    assert {row["evaluator"] for row in table.values()} == {"corner"}
    assert table["nft"]["trained_on"] == "True"
    assert 0 <= float(table["nft"]["median"]) <= 1


@pytest.mark.slow
@pytest.mark.matrix
def test_reports_exports_soups_and_measurements_of_a_stored_run_start_neither(stored, tmp_path):
    """Its configuration names both. They may be a stranger's."""
    results, ran = stored
    run = trained(results)
    named = yaml.safe_load((run / "config.yaml").read_text())["method"]["reward"]["components"]
    assert named["function"]["function"] == "users_reward:score"
    for file in ran.values():
        file.unlink()
    (tmp_path / "users_reward.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        alignbench("method=base", *SMALL[:1], *SMALL[-2:], *ORACLE, "stages=[score,report]", f"results={results}")
        find_source(str(run), [])
        make_soup([find_parent(str(run))], [1.0], tmp_path / "soup")
        measured = ["method=base", "model=sd15_mini", f"model.policy={run}", *SMALL[-2:], *ORACLE]
        alignbench(*measured, f"results={tmp_path / 'measured'}")
        start = ["method=sft", f"model.policy={run}", "data.num_pairs=8", *SMALL[:4], *SMALL[-3:], *ORACLE]
        alignbench(*start, f"results={results}")  # measures the start by its own configuration
        folders = f"model.folders=[{results / find_base(results)},{run}]"
        alignbench("model=images", folders, *ORACLE, f"results={tmp_path / 'images'}")
    finally:
        sys.path.remove(str(tmp_path))
    assert not any(file.exists() for file in ran.values())
    assert "users_reward" not in sys.modules
    assert (tmp_path / "measured" / "leaderboard.csv").exists()


def find_base(results):
    return next(name for name, manifest in manifests(results).items() if manifest["method"] == "base")
