"""Rows of a table are over the same prompts and evaluators, and equal pictures tie."""

import numpy as np
from PIL import Image

from alignbench.report.display import grid_notes, mean_ranks, sections
from alignbench.report.page.store import Store
from alignbench.report.page.tables import section_entry
from alignbench.report.tables import build
from alignbench.report.write import write_report
from alignbench.store.scores import Scores

EIGHT = {f"p{i}": f"prompt {i}" for i in range(8)}
FOUR = {f"p{i}": f"prompt {i}" for i in range(4)}


def test_a02_mean_ranks_of_all_methods_are_over_the_same_evaluators(world):
    """By clip, which dpo trained on, sft is last; by the two others both are equal to base."""
    for method, trained_on in (("base", ()), ("sft", ()), ("dpo", ("clip",))):
        world.run(method, {"base": [2] * 4, "sft": [1] * 4, "dpo": [3] * 4}[method], trained_on=trained_on)
        for evaluator in ("pickscore", "aesthetic"):
            world.run(method, [1, 2, 3, 4], evaluator=evaluator, trained_on=trained_on)
    [section] = sections(build(world.root))
    assert mean_ranks(section) == {"base": 2.0, "sft": 2.0, "dpo": 2.0}


def test_a02_no_evaluator_that_all_are_held_out_from_leaves_no_ranks(world):
    world.run("base", [1, 2, 3, 4])
    world.run("dpo", [2, 3, 4, 5], trained_on=("clip",))
    [section] = sections(build(world.root))
    assert mean_ranks(section) == {}


def test_a03_base_counts_as_half_in_the_column_of_win_rates(world):
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [0, 1, 2, 3])
    tables = build(world.root)
    [section] = sections(tables)
    rows = section_entry(tables, section, Store(world.root))["rows"]
    assert {row["method"]: row["win"]["value"] for row in rows} == {"base": 50, "sft": 0}


def test_a05_rows_are_over_the_prompts_that_both_have(world):
    """Without them, the four better prompts alone would make sft's median the higher."""
    world.run("base", [1, 1, 1, 1, 0, 0, 0, 0], prompts=EIGHT, groups={})
    world.run("sft", [1, 1, 1, 1], prompts=FOUR, groups={})
    tables = build(world.root)
    rows = {row["method"]: row for row in tables.leaderboard}
    assert {method: (row["n"], row["median"], row["subset"]) for method, row in rows.items()} == {
        "base": (4, 1, True),
        "sft": (4, 1, True),
    }
    assert rows["sft"]["win_rate_vs_base"] == 0.5
    [section] = sections(tables)
    assert mean_ranks(section) == {"base": 1.5, "sft": 1.5}
    assert any("medians and means are over 4 of 8 prompts" in note for note in grid_notes(section))


def test_a05_a_run_that_was_limited_on_purpose_leaves_the_others_their_prompts(world):
    world.run("base", [1, 1, 1, 1, 0, 0, 0, 0], prompts=EIGHT, groups={})
    world.run("sft", [1, 1, 1, 1, 0, 0, 0, 0], prompts=EIGHT, groups={}, recipe="whole")
    world.run("dpo", [1, 1, 1, 1], prompts=FOUR, groups={}, full_size=8)
    tables = build(world.root)
    rows = {row["method"]: (row["n"], row["subset"]) for row in tables.leaderboard}
    assert rows == {"base": (8, False), "sft": (8, False), "dpo": (4, True)}
    [section] = sections(tables)
    assert set(mean_ranks(section)) == {"base", "sft"}, "a median over other prompts has no rank"


def test_a12_a_run_whose_image_was_overwritten_after_scoring_is_left_out_and_named(world):
    for method in ("base", "sft"):
        folder = world.run(method, [1, 2, 3, 4], picture="white")
    write_report(world.root)
    write_report(world.root)
    image = next(folder.path.glob("images/*/*/*.png"))
    Image.new("RGB", (64, 64), "black").save(image)
    tables = write_report(world.root)
    assert "has changed since it was scored; add score to stages" in tables.left_out[folder.name]
    assert {row["method"] for row in tables.leaderboard} == {"base"}


def test_a13_copies_of_an_image_tie_whatever_the_batch_did_to_their_scores(world):
    world.run("base", [1, 2, 3, 4])
    sft = world.run("sft", [1 + 1e-6, 2 - 1e-6, 3, 5])
    path = {name: next((world.root / name).glob("scores/*/*/*.parquet")) for name in ("base-sd15_mini-rNone", sft.name)}
    base, own = (Scores.read(file) for file in path.values())
    digests = [*base.digest[:3], own.digest[3]]  # three of four are copies
    Scores.of(own.info, own.prompt_id, own.image, own.score, digests).write(path[sft.name])
    sft.complete("score", "shapes/1a2b/clip@1", [path[sft.name]])
    [row] = [row for row in build(world.root).win_rates if row["group"] == "all"]
    assert (row["wins"], row["ties"]) == (1, 3)
    assert np.isclose(row["win_rate"], 5 / 8)
