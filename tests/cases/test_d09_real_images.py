"""Real images of the prompts are a row, so that a score above theirs is seen."""

import json

import numpy as np
import pytest
from PIL import Image

from alignbench.configuration.checks import check
from alignbench.configuration.compose import composed
from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.report.hacking import above_data, all_clear, below_base
from alignbench.report.markdown import markdown
from alignbench.report.tables import build
from alignbench.stages.real_images import real_records
from tests.program import alignbench, manifests, rows

NUM = 40
PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(NUM)}


def pictures(folder, captions):
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number, caption in enumerate(captions):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "text": caption})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_images_are_found_by_their_captions(tmp_path):
    prompts = PromptSet("mine", (Prompt("a", "a cat", ()), Prompt("b", "a dog", ())), 2)
    folder = pictures(tmp_path / "real", ["a dog", "a dog", "a bird"])
    [record] = real_records(str(folder), prompts, num_images=1)
    assert (record.prompt_id, record.images) == ("b", (str(folder / "0.png"),))
    with pytest.raises(UserError, match="has no image whose caption is a prompt of prompts=mine"):
        real_records(str(pictures(tmp_path / "others", ["a fish"])), prompts, num_images=1)


def test_beside_existing_images_they_are_a_folder_as_any_other():
    with pytest.raises(UserError, match=r"with model=images give the folder among model\.folders"):
        check(composed(["model=images", "model.folders=[a,b]", "real_images=c"]))


@pytest.fixture
def tables(world):
    """dpo trained on the judge, which prefers its images to real ones; kto's images are below the real ones."""
    means = {"base": 0.0, "data": 0.1, "dpo": 0.3, "kto": 0.05}
    for method, mean in means.items():
        scores = [mean + 0.001 * (i * 7 % NUM) for i in range(NUM)]
        trained_on = ["anna"] if method in ("dpo", "kto") else []
        world.run(method, scores, evaluator="anna", prompts=PROMPTS, groups={}, trained_on=trained_on)
        world.run(method, [0.0] * NUM, evaluator="aesthetic", prompts=PROMPTS, groups={}, trained_on=trained_on)
    return build(world.root)


def test_a_score_above_that_of_real_images_is_told_in_words(tables):
    [found] = above_data(tables)
    text = str(found)
    assert text.startswith(
        "above real images: dpo on sd15_mini, shapes: anna, which it trained on (reward, labels or shared data), "
        "prefers its images to"
    )
    assert "in 100.0 [" in text
    assert "> above real images: dpo" in markdown(tables)


def test_real_images_hack_no_reward(tables):
    assert "data" not in all_clear(tables, "sd15_mini", "shapes")
    assert below_base(tables) == []


def test_an_evaluator_that_prefers_base_to_real_images_is_doubted(world):
    for method, mean in {"base": 0.3, "data": 0.1, "dpo": 0.2}.items():
        scores = [mean + 0.001 * (i * 7 % NUM) for i in range(NUM)]
        world.run(method, scores, evaluator="clip", prompts=PROMPTS, groups={})
    tables = build(world.root)
    [found] = below_base(tables)
    assert "clip on sd15_mini, shapes, prefers base's images to the real ones of the same prompts in 100.0 [" in str(
        found
    )
    assert "> doubtful evaluator: clip" in markdown(tables)


@pytest.mark.slow
def test_they_are_scored_as_a_row_of_the_evaluation(tmp_path):
    from alignbench.configuration.build import build as build_node

    command = [
        "method=base",
        "model=sd15_mini",
        "prompts.limit=4",
        "sampling.num_inference_steps=1",
        "evaluators=shapes",
    ]
    captions = build_node(composed(command).prompts).texts[:3]
    folder = pictures(tmp_path / "real", captions)
    alignbench(*command, f"real_images={folder}", f"results={tmp_path / 'results'}", "calibration=false")
    table = [row for row in rows(tmp_path / "results" / "leaderboard.csv") if row["group"] == "all"]
    found = {(row["method"], row["n"]) for row in table}
    assert found == {("base", "4"), ("data", "3")}
    assert all(row["win_rate_vs_base"] for row in table if row["method"] == "data")
    assert len(manifests(tmp_path / "results")) == 2
