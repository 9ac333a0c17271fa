"""The table of turning points: read from the validation of runs, seeds together, in network passes."""

import csv
import io
from dataclasses import asdict

import numpy as np
import pytest

from alignbench.files import write_text
from alignbench.interface.results import load_results
from alignbench.report.columns import TURNING_POINT_COLUMNS
from alignbench.report.curves.turning_points import turning_points, validation_curves
from alignbench.report.write import write_report
from alignbench.store.image_records import PromptRecord, image_name, write_prompts
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.training.validation import EvaluationResult

PROMPTS = {f"p{n:02}": f"prompt {n}" for n in range(20)}


def add_validation(folder, evaluator, curve, passes, version="1", better=True):
    """Give a run the validation in which an evaluator prefers `curve[k]` of the 20 images at point k to the start's."""
    rows = []
    for step, (won, at) in enumerate(zip(curve, passes, strict=True)):
        look = RunFolder(folder.path / "validation" / f"step-{step}")
        name = f"step-{step}"
        look.open(Manifest(name, name, "sd15_mini", 0, "c", "r"))
        images = look.images("held_out", "1a2b")
        if not (images / "prompts.jsonl").exists():
            records = [PromptRecord(key, text, (), (image_name(key, 0),)) for key, text in PROMPTS.items()]
            write_prompts(images, records)
        score = [0.0 if step == 0 else (1.0 if n < won else -1.0) * (1 if better else -1) for n in range(len(PROMPTS))]
        info = ScoreInfo(evaluator, version, higher_is_better=better)
        Scores.of(info, list(PROMPTS), [0] * len(PROMPTS), score, ["d"] * len(PROMPTS)).write(
            look.score_file("held_out", "1a2b", evaluator, version)
        )
        rate = won / len(PROMPTS) if step else 0.5
        found = (step, evaluator, version, len(PROMPTS), 0.0, rate, rate, rate, at)
        rows.append(asdict(EvaluationResult(*found)))
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(folder.validation_table, text.getvalue())


@pytest.fixture
def root(world):
    world.run("base", [1, 1, 1, 1])
    for seed in (0, 1):
        folder = world.run("refl", [2, 2, 2, 2], seed=seed, trained_on=["reward"])
        folder.complete("train")
        add_validation(folder, "reward", [0, 10, 15, 20], [0, 1000, 2000, 3000 + 200 * seed])
        add_validation(folder, "people", [0, 18, 12, 4], [0, 1000, 2000, 3000 + 200 * seed], version="2", better=False)
    return world.root


def test_the_curve_of_an_evaluator_is_the_share_of_images_that_beat_the_start(root):
    people, reward = validation_curves(run_folders(root))
    assert (people.evaluator, people.version, people.trained_on) == ("people", "2", False)
    assert (reward.evaluator, reward.trained_on) == ("reward", True)
    np.testing.assert_allclose(people.rates, [0.5, 0.9, 0.6, 0.2])
    np.testing.assert_allclose(reward.rates, [0.5, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(people.network_passes, [0, 1000, 2000, 3100])
    assert people.wins.shape == (2, 4, 20)


def test_the_table_says_where_each_curve_turns(root):
    people, reward = turning_points(validation_curves(run_folders(root)))
    assert tuple(people) == TURNING_POINT_COLUMNS
    assert (people["peak_passes"], people["end_passes"], people["num_seeds"], people["n"]) == (1000, 3100, 2, 40)
    assert people["turned"]
    assert people["drop"] == pytest.approx(0.7, abs=0.05)
    assert (reward["peak_passes"], reward["drop"], reward["turned"]) == (3100, 0, False)


def test_a_report_writes_the_table_and_a_picture_for_each_model(root):
    write_report(root, num_resamples=50)
    table = load_results(root).turning_points
    assert table["evaluator"].tolist() == ["people", "reward"]
    assert table["turned"].tolist() == [True, False]
    assert (root / "report" / "turning_points-sd15_mini.png").stat().st_size > 10_000


def test_points_beyond_the_shortest_seed_are_left_out(root, world):
    folder = world.run("refl", [2, 2, 2, 2], seed=2, trained_on=["reward"])
    folder.complete("train")
    add_validation(folder, "reward", [0, 10, 15], [0, 1000, 2000])
    (reward,) = validation_curves(run_folders(root))
    assert reward.wins.shape == (3, 3, 20)


def test_unfinished_runs_and_two_points_make_no_curve(world):
    folder = world.run("nft", [2, 2, 2, 2])
    add_validation(folder, "people", [0, 10, 15], [0, 1000, 2000])
    assert validation_curves(run_folders(world.root)) == []
    folder.complete("train")
    assert len(validation_curves(run_folders(world.root))) == 1
    short = world.run("awm", [2, 2, 2, 2])
    add_validation(short, "people", [0, 10], [0, 1000])
    short.complete("train")
    assert [curve.method for curve in validation_curves(run_folders(world.root))] == ["nft"]
