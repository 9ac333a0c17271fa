"""The page shows the very figures of the tables."""

import re

import pytest

from alignbench.report.display import grids, sections
from alignbench.report.page.store import Store
from alignbench.report.page.tables import section_entry
from alignbench.report.tables import build


@pytest.fixture
def entry(small_table):
    tables = build(small_table.root)
    [section] = sections(tables)
    return section_entry(tables, section, Store(small_table.root)), section


def test_medians_win_rates_and_strengths_read_as_in_the_tables(entry):
    shown, section = entry
    heads = [evaluator["head"] for evaluator in shown["evaluators"]]
    found = {name: {} for name in ("score", "win", "strength")}
    for row in shown["rows"]:
        for name, column in found.items():
            value = row.get(name, {"text": ""})
            of_all = [mark for mark in shown["marks"] if (mark, row["method"]) != ("a", "base")]  # it has no seed
            letters = ",".join(sorted({*row["marks"], *of_all}))
            cell = " ".join(filter(None, [value["text"], value.get("stars"), letters]))
            column[row["method"], row["evaluator"]] = cell if value["text"] else ""
    for name, grid in zip(found, grids(section), strict=False):
        assert grid.heads[1 : 1 + len(heads)] == heads
        told = {(row[0], i): row[1 + i] for row in grid.rows if row[0] in section.methods for i in range(len(heads))}
        assert {key: found[name][key] for key in told} == told


def test_a_win_rate_is_told_both_ways(entry):
    shown, _ = entry
    pairs = {(win["a"], win["b"], win["evaluator"]): win for win in shown["wins"]}
    assert len(pairs) == len(shown["wins"]) == 3 * 2 * 2
    for (a, b, evaluator), win in pairs.items():
        other = pairs[b, a, evaluator]
        assert win["value"] == pytest.approx(100 - other["value"])
        assert (win["low"], win["high"]) == pytest.approx((100 - other["high"], 100 - other["low"]))
        assert win["stars"] == other["stars"]
    assert pairs["dpo", "base", 0]["text"].startswith("100.0 [")


def test_figures_are_in_the_scale_of_their_text(entry):
    shown, _ = entry
    for row in shown["rows"]:
        score = row["score"]
        assert float(re.match(r"[-\d.]+", score["text"])[0]) == pytest.approx(score["value"], abs=0.01)
        assert score["low"] <= score["value"] <= score["high"]
    assert shown["evaluators"][0]["scale"] == 100


def test_a_note_that_holds_for_all_stands_once(world):
    world.run("base", [1, 2, 3, 4], full_size=9)
    world.run("sft", [2, 3, 4, 5], full_size=9)
    world.run("dpo", [2, 3, 4, 5], full_size=9, trained_on=["clip"])
    tables = build(world.root)
    [section] = sections(tables)
    shown = section_entry(tables, section, Store(world.root))
    assert shown["marks"] == ["a", "c"]
    assert {row["method"]: row["marks"] for row in shown["rows"]} == {"base": [], "sft": [], "dpo": ["b"]}


def test_styles_are_listed_apart(entry, small_table):
    shown, _ = entry
    text = (small_table.root / shown["groups"]).read_text()
    assert '"group":"flat"' in text
    assert '"group":"shaded"' in text
    assert all(row["n"] == 40 for row in shown["rows"])


def test_a_pair_with_base_has_the_stars_of_the_leaderboard(entry):
    """The families of tests differ, but a reader sees one figure."""
    shown, _ = entry
    of_rows = {(row["method"], row["evaluator"]): row["win"]["stars"] for row in shown["rows"]}
    over_base = [win for win in shown["wins"] if win["b"] == "base"]
    assert len(over_base) == 4
    assert all(win["stars"] == of_rows[win["a"], win["evaluator"]] for win in over_base)


def test_an_evaluator_is_shown_by_the_figure_that_it_names(world):
    world.run("base", [1, 0, 0, 0], summary="mean")
    world.run("base", [1, 0, 0, 0], evaluator="plain")
    tables = build(world.root, 50)
    [section] = sections(tables)
    shown = section_entry(tables, section, Store(world.root))
    assert [(one["head"], one["summary"]) for one in shown["evaluators"]] == [("clip ↑", "mean"), ("plain ↑", "median")]
    assert [row["score"]["value"] for row in shown["rows"]] == [0.25, 0]
    assert [row["mean"]["value"] for row in shown["rows"]] == [0.25, 0.25]
    assert shown["runScores"] == {"base-sd15_mini-rNone": [0.25, 0]}


def test_a_run_has_the_median_of_its_own_images(world):
    for seed, scores in ((0, [1, 2, 3, 10]), (1, [5, 6, 7, 8])):
        world.run("sft", scores, seed=seed)
    world.run("base", [1, 2, 3, 4])
    world.run("base", [1, 1, 1, 1], evaluator="aesthetic")
    tables = build(world.root, 50)
    [section] = sections(tables)
    scores = section_entry(tables, section, Store(world.root))["runScores"]
    assert section.evaluators == [("aesthetic", "1"), ("clip", "1")]
    assert scores == {
        "base-sd15_mini-rNone": [1.0, 2.5],
        "sft-sd15_mini-r0": [None, 2.5],
        "sft-sd15_mini-r1": [None, 6.5],
    }
