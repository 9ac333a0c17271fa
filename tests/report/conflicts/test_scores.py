"""Scores that cannot be compared are left out and named; all other figures are as if these scores were not there."""

import re
import warnings

import pandas as pd
import pytest

from alignbench.exports.dataset import export_dataset
from alignbench.interface.results import load_results
from alignbench.report.conflicts.scores import conflicts
from alignbench.report.diagnostics import diagnose, looks_left_out
from alignbench.report.markdown import markdown
from alignbench.report.tables import ScoreReader, build
from alignbench.report.terminal.run_tables import print_left_out
from alignbench.report.write import write_report
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.terminal.console import open_console
from tests.report.conftest import PROMPTS, World

TABLES = ("leaderboard", "win_rates", "ranking", "guidance")
OTHER = {**PROMPTS, "p1": "a blue square"}


def tables_of(root, folders=None):
    """Return the bytes of all tables of a results root, and what is left out of them."""
    tables = build(root, 50, folders)
    tables.write(root)
    return {name: (root / f"{name}.csv").read_bytes() for name in TABLES if (root / f"{name}.csv").exists()}, (
        tables.left_out
    )


def fill(world, of_sft=None, **conflict):
    """Add base and two methods, two evaluators each; `of_sft` says which of these scored sft."""
    for method, gain in (("base", 0), ("sft", 1), ("dpo", -1)):
        for evaluator in ("clip", "hps"):
            if method != "sft" or evaluator in (of_sft or ("clip", "hps")):
                options = conflict if (method, evaluator) == ("sft", "clip") else {}
                world.run(method, [1, 2 + gain, 3 + gain, 4], evaluator=evaluator, **options)
    return world.root


@pytest.mark.parametrize(
    ("conflict", "told"),
    [
        ({"weights": "other"}, "weights ('other' and '')"),
        ({"preprocess": "legacy_noaa"}, "preprocess ('legacy_noaa' and '')"),
        ({"precision": "float16"}, "precision ('float16' and 'float32')"),
    ],
)
def test_scores_that_were_made_in_another_way_than_those_of_base_are_left_out_alone(world, tmp_path, conflict, told):
    found, left_out = tables_of(fill(world, **conflict))
    expected, nothing = tables_of(fill(World(tmp_path / "without"), of_sft=("hps",)))
    assert nothing == {}
    assert found == expected
    [(file, reason)] = left_out.items()
    assert file == "sft-sd15_mini-r0/scores/shapes/1a2b/clip@1.parquet"
    assert (world.root / file).exists()
    assert reason.startswith(
        f"clip scored these images and those of base-sd15_mini-rNone with different {told}; delete"
    )


def test_the_page_the_leaderboard_and_the_terminal_name_them(world, capsys):
    tables = write_report(fill(world, weights="other"), 50)
    told = "clip@1.parquet is left out of this report: clip scored these images and those of base-sd15_mini-rNone"
    assert told in markdown(tables).replace("\\", "")
    assert told.replace("'", "&#39;") in (world.root / "index.html").read_text()
    print_left_out(tables, RunFolder(world.root / "sft-sd15_mini-r0"), open_console())
    assert told in capsys.readouterr().out


def test_the_order_of_the_runs_changes_nothing(world):
    folders = run_folders(fill(world, weights="other"))
    assert tables_of(world.root, folders) == tables_of(world.root, folders[::-1])


def test_without_base_the_scores_of_most_runs_are_kept(world):
    for method, weights in (("dpo", "a"), ("kto", "b"), ("sft", "b")):
        world.run(method, [1, 2, 3, 4], weights=weights)
    entries = [entry for folder in run_folders(world.root) for entry in ScoreReader().measurements(folder)]
    found = conflicts(entries)
    assert [run for run, *_ in found.scores] == ["dpo-sd15_mini-r0"]
    assert conflicts(entries[::-1]) == found
    assert {row["method"] for row in build(world.root).leaderboard} == {"kto", "sft"}


def test_one_seed_of_a_recipe_takes_out_itself(world, tmp_path):
    without = World(tmp_path / "without")
    for one in (world, without):
        one.run("base", [1, 2, 3, 4])
        one.run("sft", [2, 2, 2, 2], seed=0)
    world.run("sft", [9, 9, 9, 9], seed=1, weights="other")
    assert tables_of(world.root)[0] == tables_of(without.root)[0]


def test_samplings_are_apart(world):
    """What base and a method have of each sampling was made in one way."""
    for method in ("base", "sft"):
        world.run(method, [1, 2, 3, 4])
        world.run(method, [1, 2, 3, 4], sampling_hash="ffff", weights="other")
    assert tables_of(world.root)[1] == {}


@pytest.mark.parametrize("method", ["aft", "sft"])
def test_images_of_a_prompt_that_reads_differently_are_left_out_for_all_evaluators(world, tmp_path, method):
    without = World(tmp_path / "without")
    fill(world, of_sft=("clip",))
    fill(without, of_sft=("clip",))
    for evaluator in ("clip", "hps"):
        world.run(method, [9, 9, 9, 9], recipe="x", evaluator=evaluator, prompts=OTHER, groups={})
    found, left_out = tables_of(world.root)
    assert found == tables_of(without.root)[0] or method == "sft"  # whose two recipes have other labels
    [(folder, reason)] = left_out.items()
    assert folder == f"{method}-sd15_mini-x0/images/shapes/1a2b"
    told = "prompt p1 reads 'a blue square' there and 'a blue cross' in base-sd15_mini-rNone; generate both from the"
    assert reason.startswith(told)
    assert f"{method}-sd15_mini-x0" not in str(build(world.root, 50).leaderboard)
    assert write_report(world.root, 50).left_out == left_out


def test_without_base_the_prompts_of_most_runs_are_kept(world):
    world.run("dpo", [1, 2, 3, 4], prompts=OTHER)
    for method in ("kto", "sft"):
        world.run(method, [1, 2, 3, 4])
    world.run("mapo", [1], prompts={"p9": "of nobody else"}, groups={})
    assert list(tables_of(world.root)[1]) == ["dpo-sd15_mini-r0/images/shapes/1a2b"]


def test_base_at_other_guidance_is_left_out_where_other_weights_scored_it(world, tmp_path):
    without = World(tmp_path / "without")
    for one in (world, without):
        for scale, weights in ((1.0, ""), (4.0, ""), (8.0, "other")):
            if one is world or not weights:
                one.run("base", [1, 2, 3, 4], guidance_scale=scale, weights=weights)
        one.run("sft", [2, 3, 4, 5])
    found, left_out = tables_of(world.root)
    assert found == tables_of(without.root)[0]
    assert list(left_out) == ["base-sd15_mini-rNone/scores/shapes/1a2b080/clip@1.parquet"]
    assert "different weights ('other' and '')" in left_out["base-sd15_mini-rNone/scores/shapes/1a2b080/clip@1.parquet"]


def test_a_look_that_was_scored_otherwise_than_the_start_is_left_out(world):
    run = world.run("sft", [1, 2, 3, 4])
    looks = World(run.path / "validation")
    for step, weights in ((0, ""), (20, "other"), (40, "")):
        folder = looks.run("look", [step, 2, 3, 4], recipe=str(step), weights=weights)
        folder.update(run=f"step-{step}", method=f"step-{step}")
        folder.path.rename(looks.root / f"step-{step}")
    tables = build(world.root, 50)
    rows = diagnose(world.root, tables, 50)
    assert {row["step"] for row in rows if row["kind"] == "evaluator" and row["step"] is not None} == {0, 40}
    [(file, reason)] = looks_left_out(world.root, tables, ScoreReader()).items()
    assert file == f"{run.name}/validation/step-20/scores/shapes/1a2b/clip@1.parquet"
    assert (world.root / file).exists()
    assert re.search(r"those of step-0 with different weights \('other' and ''\); .* delete the run folder", reason)
    assert write_report(world.root, 50).left_out == {file: reason}


def test_results_in_python_and_as_a_data_set_are_without_them(world, tmp_path, capsys):
    for method, weights in (("base", ""), ("sft", "other")):
        for evaluator in ("clip", "hps"):
            options = {"weights": weights} if evaluator == "clip" else {}
            world.run(method, [1, 2, 3, 4], evaluator=evaluator, picture="red", **options)
    with pytest.warns(UserWarning, match=r"sft.*/clip@1.parquet is left out: clip scored these images"):
        scores = load_results(world.root).scores
    assert set(zip(scores["method"], scores["evaluator"], strict=True)) == {
        ("base", "clip"), ("base", "hps"), ("sft", "hps")
    }  # fmt: skip
    assert export_dataset(world.root, tmp_path / "exported") == 8
    assert "clip@1.parquet is left out: clip scored" in capsys.readouterr().out
    rows = pd.read_parquet(tmp_path / "exported" / "data", columns=["method", "score_clip_v1", "score_hps_v1"])
    assert set(rows.isna().assign(method=rows["method"]).itertuples(index=False, name=None)) == {
        ("base", False, False), ("sft", True, False)
    }  # fmt: skip


def test_nothing_is_told_where_all_agree(world):
    fill(world)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_results(world.root).scores) == 24
    assert build(world.root, 50).left_out == {}
