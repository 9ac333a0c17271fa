import json

import pytest

from alignbench.interface.results import load_results
from alignbench.report import markdown
from alignbench.report.columns import GUIDANCE_COLUMNS, read_table
from alignbench.report.tables import build
from alignbench.report.write import write_report


@pytest.fixture
def distilled(world):
    """Base is better by `clip` the larger the guidance; sft gains as much as base at 8, dpo more."""
    for scale, gain in ((1.0, -2), (4.0, 0), (8.0, 2)):
        world.run("base", [1 + gain, 2 + gain, 3 + gain, 4 + gain], guidance_scale=scale)
    world.run("sft", [3, 4, 5, 6])
    world.run("dpo", [4, 5, 6, 7], trained_on=["clip"])
    return world


def rates(rows, method):
    return {row["base_guidance_scale"]: row["win_rate"] for row in rows if row["method"] == method}


def test_a_gain_that_is_guidance_alone_is_none_over_base_at_its_best(distilled):
    rows = build(distilled.root).guidance
    assert rates(rows, "sft") == {1.0: 1.0, 4.0: 1.0, 8.0: 0.5}
    assert rates(rows, "dpo") == {1.0: 1.0, 4.0: 1.0, 8.0: 1.0}
    assert rates(rows, "base") == {1.0: 1.0, 8.0: 0.0}
    assert {row["base_guidance_scale"] for row in rows if row["best"]} == {8.0}
    assert {row["guidance_scale"] for row in rows} == {4.0}
    assert {row["method"] for row in rows if row["trained_on"]} == {"dpo"}


def test_base_is_best_where_the_evaluator_likes_it_best(world):
    """An evaluator by which less is better prefers base without guidance here, another its own scale."""
    for scale, gain in ((1.0, -2), (4.0, 0), (8.0, 2)):
        world.run("base", [1 + gain, 2, 3, 4], guidance_scale=scale, higher_is_better=False)
        world.run("base", [1 - abs(gain), 2, 3, 4], guidance_scale=scale, evaluator="hps")
    world.run("sft", [1, 2, 3, 4], higher_is_better=False)
    world.run("sft", [1, 2, 3, 4], evaluator="hps")
    best = {(row["evaluator"], row["base_guidance_scale"]) for row in build(world.root).guidance if row["best"]}
    assert best == {("clip", 1.0), ("hps", 4.0)}


def test_base_at_other_guidance_has_no_table_of_its_own(distilled):
    tables = build(distilled.root)
    assert {row["prompt_set"] for row in tables.leaderboard} == {"shapes"}
    assert {row["prompt_set"] for row in tables.guidance} == {"shapes"}


def test_methods_at_two_scales_are_each_compared_with_base_at_all(distilled):
    distilled.run("sft", [5, 6, 7, 8], guidance_scale=8.0)
    tables = build(distilled.root)
    names = {row["prompt_set"] for row in tables.guidance}
    assert names == {row["prompt_set"] for row in tables.leaderboard} == {"shapes@1a2b", "shapes@1a2b080"}
    at_8 = [row for row in tables.guidance if row["guidance_scale"] == 8]
    assert rates(at_8, "sft") == {1.0: 1.0, 4.0: 1.0, 8.0: 1.0}
    assert "dpo" not in {row["method"] for row in at_8}


def test_base_alone_at_two_scales_keeps_its_tables(world):
    for scale in (1.0, 4.0):
        world.run("base", [1, 2, 3, 4], guidance_scale=scale)
    tables = build(world.root)
    assert {row["prompt_set"] for row in tables.leaderboard} == {"shapes@1a2b", "shapes@1a2b010"}
    assert tables.guidance == []


def test_the_table_is_written_and_shown(distilled):
    tables = build(distilled.root)
    tables.write(distilled.root)
    table = read_table(distilled.root / "guidance.csv")
    assert tuple(table.columns) == GUIDANCE_COLUMNS
    assert len(table) == 8
    text = markdown.markdown(tables)
    assert "| method | base at 1 | base at 4 | base at 8 (best) |" in text
    assert "| base | 100.0 [" in text
    assert "guidance gains without training" in text


def test_a_report_shows_it_in_a_picture_a_frame_and_on_the_page(distilled):
    write_report(distilled.root, num_resamples=50)
    assert (distilled.root / "report" / "guidance-sd15_mini-shapes.png").stat().st_size > 10_000
    assert set(load_results(distilled.root).guidance["base_guidance_scale"]) == {1.0, 4.0, 8.0}
    page = (distilled.root / "index.html").read_text()
    assert json.dumps(["method", "base at 1", "base at 4", "base at 8 (best)"], separators=(",", ":")) in page


def test_without_base_at_other_scales_there_is_no_table(small_table):
    tables = build(small_table.root)
    tables.write(small_table.root)
    assert not (small_table.root / "guidance.csv").exists()
    assert "at other guidance" not in markdown.markdown(tables)
