"""Runs that cannot stand beside the others are left out and named; the tables are as if they were not there."""

import shutil

import pytest

from alignbench.errors import UserError
from alignbench.interface.results import load_results
from alignbench.plan.lines import PlanSettings, plan
from alignbench.report.conflicts.runs import comparable_runs
from alignbench.report.markdown import markdown
from alignbench.report.readable import readable
from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_left_out
from alignbench.report.write import write_report
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.study.results import study_results
from alignbench.terminal.console import open_console
from tests.report.conftest import World
from tests.studies import World as StudyWorld
from tests.studies import no_wait_for_the_disk

__all__ = ["no_wait_for_the_disk"]

TABLES = ("leaderboard.csv", "win_rates.csv", "ranking.csv")
BASE, DPO, SFT = "base-sd15_mini-rNone", "dpo-sd15_mini-r0", "sft-sd15_mini-r0"


def tables_of(root):
    """Return the bytes of the tables of the runs that are kept, and why others are left out."""
    found = readable(root)
    build(root, 50, found.runs).write(root)
    return {name: (root / name).read_bytes() for name in TABLES}, found.left_out


def fill(world):
    world.run("base", [1, 2, 3, 4])
    world.run("dpo", [2, 2, 3, 1])
    world.run("sft", [2, 3, 4, 5])
    return world.root


def copied(folder, name):
    return RunFolder(shutil.copytree(folder, folder.with_name(name)))


def other_base(world, *started_from_it, weights="b", recipe="other", scores=(4, 3, 2, 1)):
    """Add a second base run, and let runs have started from its weights; all others started from `a`."""
    base = world.run("base", list(scores), recipe=recipe)
    for folder in run_folders(world.root):
        name = weights if folder.name in (base.name, *started_from_it) else "a"
        folder.update(start_weights={"pretrained_model_name_or_path": "x", "revision": name})
    return base


@pytest.mark.parametrize(("run", "name"), [(BASE, "a-copy"), (SFT, "z-copy")])
def test_a_copy_of_a_run_is_left_out_and_named(world, tmp_path, run, name):
    fill(World(tmp_path / "without"))
    copied(fill(world) / run, name)
    tables = write_report(world.root, 50)
    written = {name: (world.root / name).read_bytes() for name in TABLES}
    assert written == tables_of(tmp_path / "without")[0]
    assert list(tables.left_out) == [name]
    told = f"{name} is left out of this report: it has the same recipe and training seed as {run}, which is shown"
    assert told in markdown(tables).replace("\\", "")
    assert told in (world.root / "index.html").read_text()


def test_a_command_about_a_run_that_is_left_out_fails_after_the_report_is_written(world, capsys):
    copy = copied(fill(world) / SFT, "copy")
    tables = write_report(world.root, 50)
    print_left_out(tables, RunFolder(world.root / DPO), open_console())
    assert "copy is left out of this report: it has the same recipe" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"move it into another results folder; the report of all others is written"):
        print_left_out(tables, copy, open_console(quiet=True))


def test_of_two_runs_of_a_recipe_and_seed_that_with_more_scores_is_kept(world):
    old = fill(world) / SFT
    old.rename(world.root / "old")
    world.run("sft", [9, 9, 9, 9], prompt_set="held_out")
    RunFolder(world.root / "old").complete("score", "x", [RunFolder(world.root / "old").path / "scores" / "shapes"])
    kept, left_out = comparable_runs(run_folders(world.root))
    assert list(left_out) == [SFT]
    assert comparable_runs(reversed(run_folders(world.root)))[1] == left_out
    assert [run.name for run in kept] == [BASE, DPO, "old"]


def started_from_one_base(tmp_path):
    """Return a results folder whose runs all started from the weights of its one base run."""
    without = World(tmp_path / "without")
    fill(without)
    for folder in run_folders(without.root):
        folder.update(start_weights={"pretrained_model_name_or_path": "x", "revision": "a"})
    return without


def test_the_base_run_is_kept_from_whose_weights_most_runs_started(world, tmp_path):
    without = started_from_one_base(tmp_path)
    fill(world)
    base = other_base(world)
    found, left_out = tables_of(world.root)
    assert found == tables_of(without.root)[0]
    assert list(left_out) == [base.name]
    told = left_out[base.name]
    assert told.startswith(f"sd15_mini has another base run, {BASE}, that its methods are compared with")
    assert "and the two differ in revision ('b' and 'a'); delete the one" in told
    assert comparable_runs(reversed(run_folders(world.root)))[1] == left_out


def test_a_run_that_started_from_the_weights_of_another_base_run_goes_with_it(world, tmp_path):
    """It would be compared with weights that it never had."""
    without = started_from_one_base(tmp_path)
    fill(world)
    run = world.run("kto", [9, 9, 9, 9])
    base = other_base(world, run.name)
    found, left_out = tables_of(world.root)
    assert found == tables_of(without.root)[0]
    assert list(left_out) == [base.name, run.name]
    assert left_out[run.name] == (
        f"it started from the model of the base run {base.name}, and the methods of sd15_mini are compared with "
        f"{BASE}; move this run and {base.name} into another results folder"
    )


def test_of_base_runs_of_the_same_weights_that_is_kept_which_methods_share_images_with(world):
    world.run("base", [1, 2, 3, 4], recipe="a", sampling_hash="ffff")
    world.run("base", [1, 2, 3, 4], recipe="b")
    world.run("sft", [2, 3, 4, 5])
    kept, left_out = comparable_runs(run_folders(world.root))
    assert [run.name for run in kept] == ["base-sd15_mini-bNone", SFT]
    assert "differ" not in left_out["base-sd15_mini-aNone"]
    rows = build(world.root, 50).leaderboard
    assert {row["method"]: row["win_rate_vs_base"] for row in rows if row["group"] == "all"}["sft"] == 1


def test_a_run_at_the_resolution_of_another_base_run_goes_with_it(world):
    fill(world)
    world.run("base", [1, 2, 3, 4], recipe="small")
    world.run("kto", [9, 9, 9, 9])
    for folder in run_folders(world.root):
        resolution = 32 if folder.name in ("base-sd15_mini-smallNone", "kto-sd15_mini-r0") else 64
        folder.config_file.write_text(f"train: {{learning_rate: 0.1}}\nmodel: {{resolution: {resolution}}}\n")
    left_out = comparable_runs(run_folders(world.root))[1]
    assert list(left_out) == ["base-sd15_mini-smallNone", "kto-sd15_mini-r0"]
    assert "and the two differ in resolution (32 and 64)" in left_out["base-sd15_mini-smallNone"]


def test_models_have_a_base_run_each(world):
    for model in ("sd15_mini", "sdxl_mini"):
        world.run("base", [1, 2, 3, 4], model=model)
        world.run("sft", [1, 2, 3, 4], model=model)
    assert comparable_runs(run_folders(world.root))[1] == {}


def test_a_study_of_a_run_that_is_left_out_is_named_and_keeps_its_own_tables(tmp_path, no_wait_for_the_disk):
    votes = StudyWorld(tmp_path)
    study = votes.study("base", "dpo", preset="smpo")
    own, dpo = (next(tmp_path.glob(f"{method}-*")) for method in ("base", "dpo"))
    for run in (votes.run("base", recipe="other"), dpo):
        votes.score(run, [1, 2, 3, 4])
    found, name = readable(tmp_path), f"studies/{study.path.name}"
    assert list(found.left_out) == [own.name, name]
    assert f"compares {own.name}, which is left out or gone" in found.left_out[name]
    assert study_results(study).votes == []


def test_what_reads_results_leaves_out_the_same(world):
    fill(world)
    base = other_base(world)
    copied(world.root / SFT, "copy")
    with pytest.warns(UserWarning, match="is left out") as told:
        assert set(load_results(world.root).scores["run"]) == {BASE, DPO, SFT}
    assert [str(one.message).partition(" is left out: ")[0] for one in told] == [base.name, "copy"]
    lines = list(plan(PlanSettings(results=str(world.root))))
    assert [line.partition(" is left out: ")[0] for line in lines if " is left out: " in line] == [base.name, "copy"]
    assert any(line.startswith("sft over base on sd15_mini by clip@1") for line in lines)
    assert [run.name for run in readable(world.root).runs] == [BASE, DPO, SFT]
