"""A run that starts from a policy is compared with this policy, too, not with the untouched model alone."""

import io

import pytest
from rich.console import Console

from alignbench.report import markdown
from alignbench.report.display import sections
from alignbench.report.page.store import Store
from alignbench.report.page.tables import section_entry
from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run
from tests.program import alignbench, manifests, rows

FEW = ["train.max_train_steps=1", "train.total_batch_size=2", "train.micro_batch_size=2", "data.num_prompts=8"]
SMALL = ["model=sd15_mini", "prompts.limit=2", "sampling.num_inference_steps=1", "data.num_pairs=8"]


@pytest.fixture
def started(world):
    """sft ruins three of four images of base; dpo starts from it and mends two of the three."""
    world.run("base", [2, 2, 2, 2])
    sft = world.run("sft", [1, 1, 1, 3])
    dpo = world.run("dpo", [1.5, 1.5, 1, 3])
    dpo.update(start_run=sft.name)
    return dpo


def test_the_win_rate_over_the_start_stands_beside_that_over_base(started, world):
    tables = build(world.root)
    starts = {row["method"]: row["start"] for row in tables.leaderboard if row["group"] == "all"}
    assert starts == {"base": None, "sft": None, "dpo": "sft"}
    [section] = sections(tables)
    [over_start] = section.over_start.values()
    [over_base] = [row for row in section.rows.values() if row["method"] == "dpo"]
    assert (over_base["win_rate_vs_base"], over_start["win_rate"]) == (0.25, 0.75)
    text = markdown.markdown(tables)
    assert "**Win rate over the start, sd15_mini, shapes**" in text
    assert "| dpo | sft | 75.0" in text
    assert section_entry(tables, section, Store(world.root))["startTable"]["rows"][0][:2] == ["dpo", "sft"]


def test_it_is_the_win_rate_of_the_method_whatever_the_order_of_the_names(world):
    """In win_rates.csv the pair is zzz over sft: here sft starts from zzz."""
    world.run("base", [2, 2, 2, 2])
    start = world.run("zzz", [1, 1, 1, 3])
    world.run("sft", [2, 2, 1, 2]).update(start_run=start.name)
    [section] = sections(build(world.root))
    [row] = section.over_start.values()
    assert (row["method_a"], row["method_b"], row["win_rate"], row["wins"]) == ("sft", "zzz", 0.625, 2)
    assert row["ci_low"] <= row["win_rate"] <= row["ci_high"]


def test_the_terminal_shows_it_within_100_columns(started, world):
    console = Console(file=io.StringIO(), width=100)
    print_run(started, build(world.root), console)
    text = console.file.getvalue()
    assert "dpo over its start, sft" in text
    assert "75.0 [" in text


@pytest.mark.slow
@pytest.mark.matrix
def test_the_start_is_made_and_scored_with_the_run(tmp_path):
    """The start is a run of the results folder that only trained; its row is made with the run that started from it."""
    alignbench("method=sft", "stages=[train]", f"results={tmp_path}", *SMALL, *FEW)
    [start] = manifests(tmp_path)
    alignbench(
        "method=dpo", f"model.policy={tmp_path / start}", f"results={tmp_path}", *SMALL, *FEW
    )  # fmt: skip
    found = manifests(tmp_path)
    assert sorted(one["method"] for one in found.values()) == ["base", "dpo", "sft"]
    [dpo] = [one for one in found.values() if one["method"] == "dpo"]
    assert dpo["start_run"] == start
    assert "shapes_annotators" in dpo["trained_on"]
    table = rows(tmp_path / "leaderboard.csv")
    assert {row["start"] for row in table if row["method"] == "dpo"} == {"sft"}


@pytest.mark.slow
@pytest.mark.matrix
def test_a_start_from_elsewhere_gets_a_row_as_well(tmp_path):
    alignbench("method=sft", "stages=[train]", f"results={tmp_path / 'other'}", *SMALL, *FEW)
    [start] = manifests(tmp_path / "other")
    alignbench("method=dpo", f"model.policy={tmp_path / 'other' / start}", f"results={tmp_path}", *SMALL, *FEW)
    assert {row["start"] for row in rows(tmp_path / "leaderboard.csv") if row["method"] == "dpo"} != {""}
    assert len(manifests(tmp_path)) == 3
