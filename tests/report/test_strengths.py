"""Images of a run at several strengths: a row for each, beside the others, everywhere that rows are shown."""

import io

import pytest
from rich.console import Console

from alignbench.exports.model_card import _table
from alignbench.report.diagnostics import diagnose
from alignbench.report.display import sections
from alignbench.report.page.images import image_entry, section_images
from alignbench.report.page.store import Store
from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run
from alignbench.report.write import write_run_pictures
from alignbench.store.image_records import SamplingRecord
from alignbench.store.manifest import ResultsError


@pytest.fixture
def curve(world):
    """A run that gains with its strength; and one that started from it."""
    world.run("base", [1, 2, 3, 4], picture="red")
    run = world.run("sft", [1, 2, 4, 5], picture="green")
    world.run("sft", [2, 3, 4, 5], picture="blue", strength=1.5)
    return world, run


def wins(tables, column="method"):
    """Return the win rate over base of each row on all prompts."""
    return {row[column]: row["win_rate_vs_base"] for row in tables.leaderboard if row["group"] == "all"}


def test_every_strength_is_a_row_over_the_base_at_strength_1(curve):
    """At strength 1 two of four prompts are won and two tie; at 1.5 all are won."""
    tables = build(curve[0].root)
    found = wins(tables)
    assert list(found) == ["base", "sft", "sft strength=1.5"]
    assert (found["sft"], found["sft strength=1.5"]) == (0.75, 1.0)
    assert {row["prompt_set"] for row in tables.leaderboard} == {"shapes"}
    pair = [row for row in tables.win_rates if row["method_a"] == "sft strength=1.5" and row["group"] == "all"]
    assert {row["method_b"]: row["win_rate"] for row in pair} == {"base": 1.0, "sft": 0.75}


def test_repetitions_with_other_seeds_join_strength_by_strength(curve):
    curve[0].run("sft", [2, 3, 4, 5], seed=1, strength=1.5)
    rows = {row["method"]: row for row in build(curve[0].root).leaderboard if row["group"] == "all"}
    assert (rows["sft"]["num_seeds"], rows["sft strength=1.5"]["num_seeds"]) == (1, 2)


def test_the_start_of_a_training_is_the_policy_at_strength_1(curve):
    """Training starts from the weights, whatever images were made of them besides."""
    world, sft = curve
    world.run("dpo", [2, 2, 2, 2]).update(start_run=sft.name)
    tables = build(world.root)
    assert {row["start"] for row in tables.leaderboard if row["method"] == "dpo"} == {"sft"}


def test_the_page_has_images_of_each_strength(curve):
    world, _ = curve
    tables, jobs = build(world.root, 50), {}
    [section] = sections(tables)
    store = Store(world.root)
    found = image_entry(section, section_images(tables, section, store, jobs), store)["sets"]
    assert sorted(one["method"] for one in found) == ["base", "sft", "sft strength=1.5"]
    assert len({one["file"] for one in found}) == 3
    assert len(jobs) == 3


def test_statistics_of_images_are_told_apart_by_strength(curve):
    world, run = curve
    tables = build(world.root, 50)
    rows = [row for row in diagnose(world.root, tables, 50) if row["kind"] == "image"]
    saturation = {row["method"]: row["value"] for row in rows if row["measure"] == "saturation"}
    assert saturation == {"base": 1.0, "sft": 1.0, "sft strength=1.5": 1.0}  # red, green and blue
    assert {row["run"] for row in rows if row["method"].startswith("sft")} == {run.name}


def test_the_terminal_shows_a_table_for_each_strength(curve):
    world, run = curve
    console = Console(file=io.StringIO(), width=100)
    print_run(run, build(world.root), console)
    text = console.file.getvalue()
    assert text.index("sft on sd15_mini") < text.index("sft strength=1.5 on sd15_mini")


def test_pictures_stand_beside_those_of_base(curve):
    _, run = curve
    names = [file.name for file in write_run_pictures(run)]
    assert names == ["training.png", "shapes-1a2b.png", "shapes-1a2b15.png"]


def test_the_card_of_exported_weights_tells_scores_at_strength_1_alone(curve):
    world, run = curve
    build(world.root).write(world.root)
    lines = _table(run)
    assert len(lines) == 3  # head, rule, one row
    assert "75.0 %" in lines[2]


def test_a_record_that_leads_out_of_its_folder_is_refused():
    with pytest.raises(ResultsError, match=r"base_sampling is '\.\./x' in sampling\.json, expected a hash"):
        SamplingRecord("shapes", 20, 4.0, "per_prompt", 0, 1, 4, False, strength=2.0, base_sampling="../x")
