"""Images that exist already are scored and compared by the command that scores any others."""

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignbench.configuration.checks import check
from alignbench.configuration.compose import composed
from alignbench.data.existing_images.folders import read_compared_folders
from alignbench.errors import UserError
from alignbench.miniature.captions import caption
from alignbench.miniature.scenes import render, sample_scene
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores
from tests.program import alignbench

SHAPES = ["model=images", "evaluators=shapes"]
CLEANLINESS = ["evaluators=none", "+evaluator@evaluators.cleanliness=shapes_oracle_cleanliness"]


def scenes(folder: Path, num: int, style: str, seed: int = 0, suffix: str = "png") -> dict[str, str]:
    """Write rendered scenes of the same content in one style; return the prompt of each file."""
    folder.mkdir(parents=True)
    prompts = {}
    for i in range(num):
        rng = np.random.default_rng([seed, i])
        scene = sample_scene(rng, num_shapes=1, style=style)
        Image.fromarray(render(scene, rng)).save(folder / f"{style}{i}.{suffix}")
        prompts[f"{style}{i}.{suffix}"] = caption(scene, np.random.default_rng(i), False)
    return prompts


@pytest.fixture
def two_folders(tmp_path) -> list[Path]:
    """A base folder with a csv list, and another with the same prompts in another order as jsonl."""
    flat, shaded = (scenes(tmp_path / name, 12, style) for name, style in (("plain", "flat"), ("ours", "shaded")))
    with (tmp_path / "plain" / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "prompt"), *flat.items()])
    lines = [json.dumps({"image": name, "caption": prompt}) for name, prompt in reversed(shaded.items())]
    (tmp_path / "ours" / "list.jsonl").write_text("\n".join(lines))
    return [tmp_path / "plain", tmp_path / "ours"]


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return alignbench(*SHAPES, *arguments, check=False)


def folders_argument(folders: list[Path]) -> str:
    return f"model.folders=[{','.join(map(str, folders))}]"


@pytest.mark.slow
def test_two_folders_are_enough_for_a_table_and_a_repeated_command_scores_nothing(two_folders, tmp_path):
    root = tmp_path / "results"
    command = [folders_argument(two_folders), "stages=[score,report]", f"results={root}"]
    done = program(*command)
    assert done.returncode == 0, done.stderr
    assert "ours on plain_images: own, 12 images" in done.stdout
    with (root / "leaderboard.csv").open() as file:
        rows = {(row["method"], row["evaluator"]): row for row in csv.DictReader(file) if row["group"] == "all"}
    assert {method for method, _ in rows} == {"base", "ours"}
    assert rows["ours", "shapes_oracle_realism"]["win_rate_vs_base"] == "1"
    assert rows["ours", "shapes_oracle_agreement"]["n"] == "12"
    (picture,) = (root / "report").glob("ours-*/own-existing.png")
    left, right = np.asarray(Image.open(picture))[40:80, :128], np.asarray(Image.open(picture))[40:80, 136:264]
    assert (left != right).any()  # each run's own images

    (table,) = root.glob("ours-*/scores/own/existing/shapes_clip@1.parquet")
    before, when = Scores.read(table), table.stat().st_mtime_ns
    assert len(before.score) == 12
    assert program(*command).returncode == 0
    assert table.stat().st_mtime_ns == when

    Image.new("RGB", (64, 64), "white").save(two_folders[1] / "shaded3.png")
    assert program(*command).returncode == 0
    assert (Scores.read(table).score != before.score).sum() == 1
    (run,) = root.glob("ours-*")
    assert RunFolder(run).manifest.calibration["shapes_clip@1"]["outcome"] == "as stored"


@pytest.mark.slow
@pytest.mark.matrix
def test_shards_score_existing_images_and_the_last_makes_the_table(two_folders, tmp_path):
    command = [folders_argument(two_folders), f"results={tmp_path / 'results'}"]
    first = program(*command, "shard=1/2")
    assert first.returncode == 0, first.stderr
    assert "12 images are left for the other shards" in first.stdout
    assert not (tmp_path / "results" / "leaderboard.csv").exists()
    assert program(*command, "shard=2/2").returncode == 0
    assert (tmp_path / "results" / "leaderboard.csv").exists()
    assert not list((tmp_path / "results").rglob("*.jsonl")) or all(
        path.name == "prompts.jsonl" for path in (tmp_path / "results").rglob("*.jsonl")
    )


@pytest.mark.slow
def test_a_base_that_has_changed_is_refused_before_anything_is_scored(two_folders, tmp_path):
    command = [folders_argument(two_folders[:1]), f"results={tmp_path / 'results'}", "stages=[score]", *CLEANLINESS]
    assert program(*command).returncode == 0
    (run,) = (tmp_path / "results").glob("base-*")
    with (two_folders[0] / "list.csv").open("a") as file:
        file.write("copy.png,a prompt of its own\n")
    (two_folders[0] / "copy.png").write_bytes((two_folders[0] / "flat0.png").read_bytes())
    done = program(*command)
    assert done.returncode == 2
    assert f"{run} holds a comparison with {two_folders[0]} under the name plain_images already" in done.stderr
    assert list((tmp_path / "results").glob("base-*")) == [run]


@pytest.mark.slow
def test_a_damaged_image_is_named_and_the_command_fails(two_folders, tmp_path):
    (two_folders[1] / "shaded3.png").write_bytes(b"")
    done = program(folders_argument(two_folders), f"results={tmp_path / 'results'}")
    assert done.returncode == 2
    assert "1 of 12 images cannot be scored, such as" in done.stderr
    assert "shaded3.png is damaged" in done.stderr
    assert done.stderr.rstrip().endswith("mend them or take them out")


# ---- refused before anything is loaded


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        check(composed([*SHAPES, *arguments]))
    return str(error.value)


def test_what_cannot_be_compared_is_refused_at_once(two_folders, tmp_path):
    both = folders_argument(two_folders)
    check(composed([*SHAPES, both]))
    assert refusal() == "model.folders must be set: add model.folders=[FOLDER_A,FOLDER_B] to the command"
    assert refusal("model.folders=[]").startswith("model.folders is empty")
    assert "nothing to train or to generate" in refusal(both, "stages=[train,generate]")
    assert "shard=3/2 is not understood" in refusal(both, "shard=3/2")
    assert "evaluators is empty" in refusal(both, "evaluators=none")
    assert "does not exist" in refusal(f"model.folders=[{tmp_path / 'nothing'}]")
    other = scenes(tmp_path / "other", 3, "flat", seed=9)
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(other))
    assert "share no prompt" in refusal(folders_argument([two_folders[0], tmp_path / "other"]))


def test_a_folder_called_base_comes_first(two_folders, tmp_path):
    base = two_folders[0].rename(tmp_path / "base")
    assert "give it as the first folder" in refusal(folders_argument([two_folders[1], base]))
    assert [
        folder.label
        for folder in read_compared_folders(composed([*SHAPES, folders_argument([base, two_folders[1]])]).model.folders)
    ] == [
        "base",
        "ours",
    ]
