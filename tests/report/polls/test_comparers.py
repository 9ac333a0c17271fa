"""Verdicts of a comparer stand in the tables under its name, with what its position bias and failures are."""

import csv
import math

import pytest

from alignbench.interface.results import load_results
from alignbench.pairwise.comparer import Verdict
from alignbench.report.columns import COMPARER_COLUMNS
from alignbench.report.markdown import markdown
from alignbench.report.readable import readable
from alignbench.report.tables import build
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.store.verdicts import Judged, VerdictFile
from tests.studies import PROMPTS, SAMPLING, World

GROUPS = {"p0": ("flat",), "p1": ("flat",), "p2": ("shaded",), "p3": ("shaded",)}
BIAS = 1.0
OVER_BASE = {"dpo": [2.0, 0.5, 0.5, -0.5], "kto": [-2.0, -2.0, -0.5, 3.0]}  # how much better by prompt, in log-odds


@pytest.fixture
def world(tmp_path, no_wait_for_the_disk):
    world = World(tmp_path / "results")
    for method in ("base", "dpo", "kto"):
        world.score(world.run(method, groups=GROUPS), [0.0, 0.0, 0.0, 0.0])
    return world


def run(world, method):
    (path,) = world.root.glob(f"{method}-*")
    return path.name


def judge(world, qualities, failed=(), digests=("1", "2"), a="base", comparer="stub"):
    """Note what a comparer with a bias says of methods over another."""
    file = VerdictFile.of(world.root, "shapes", SAMPLING, comparer, "1")
    for method, of_method in qualities.items():
        for (prompt_id, text), quality in zip(PROMPTS.items(), of_method, strict=True):
            for a_first in (True, False):
                verdict = Verdict.of_log_odds(BIAS + (-quality if a_first else quality), tokens=(100, 1), seconds=0.5)
                if prompt_id in failed:
                    verdict = Verdict(None, None)
                about = (prompt_id, text, 0, run(world, a), run(world, method), *digests, a_first)
                file.add([Judged(*about, "weights", verdict)])


def rows(table, **wanted):
    return [row for row in table if wanted.items() <= row.items()]


def test_what_comparers_csv_holds_is_a_table_in_python(world):
    judge(world, OVER_BASE)
    tables = build(world.root, num_resamples=300)
    tables.write(world.root)
    found = load_results(world.root).comparers
    assert found["method_a"].tolist() == [row["method_a"] for row in tables.comparers]
    assert found["position"].to_numpy() == pytest.approx(BIAS)


def test_win_rates_and_the_leaderboard_are_those_of_the_pairs(world):
    judge(world, OVER_BASE)
    judge(world, {"kto": [-1.0, -1.0, -1.0, -1.0]}, a="dpo")
    tables = build(world.root, num_resamples=300)
    (row,) = rows(tables.win_rates, evaluator="stub", group="all", method_a="dpo", method_b="base")
    assert (row["n"], row["wins"], row["ties"], row["win_rate"], row["version"]) == (4, 3, 0, 0.75, "1")
    assert row["ci_low"] < 0.75 < row["ci_high"]
    assert math.isnan(row["p_win"])  # one training seed
    assert 0 < row["p_win_weights"] <= 1
    (row,) = rows(tables.win_rates, evaluator="stub", group="shaded", method_a="kto", method_b="base")
    assert (row["n"], row["win_rate"]) == (2, 0.5)
    (row,) = rows(tables.win_rates, evaluator="stub", group="all", method_a="kto", method_b="dpo")
    assert row["win_rate"] == 0.0
    (row,) = rows(tables.leaderboard, evaluator="stub", group="all", method="dpo")
    assert row["summary"] == "mean"
    assert (row["win_rate_vs_base"], row["n"], row["mean"]) == (0.75, 4, pytest.approx((1 + 1 + 1 + 0.5) / 4))
    assert "stub ↑" in markdown(tables)


def test_a_run_whose_prompts_read_differently_is_in_no_comparison(world):
    judge(world, OVER_BASE)
    expected = build(world.root, num_resamples=300)
    world.score(world.run("mapo", {**PROMPTS, "p1": "another"}), [0.0, 0.0, 0.0, 0.0])
    judge(world, {"mapo": [1.0, 1.0, 1.0, 1.0]})
    tables = build(world.root, num_resamples=300)
    assert str(tables.win_rates) == str(expected.win_rates)
    assert list(tables.left_out) == [f"{run(world, 'mapo')}/images/shapes/{SAMPLING}"]


@pytest.mark.matrix
def test_strengths_come_from_the_pairs(world):
    judge(world, OVER_BASE)
    tables = build(world.root, num_resamples=300)
    strengths = {row["method"]: row["strength"] for row in rows(tables.ranking, evaluator="stub")}
    assert strengths["dpo"] > strengths["base"] == 0 > strengths["kto"]


@pytest.mark.matrix
def test_position_bias_failures_and_cost_stand_in_a_table(world):
    judge(world, OVER_BASE)
    tables = build(world.root, num_resamples=50)
    tables.write(world.root)
    with (world.root / "comparers.csv").open() as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COMPARER_COLUMNS
    whole, dpo, kto = found
    assert (whole["method_a"], whole["calls"], whole["pairs"], whole["failures"]) == ("", "16", "8", "0")
    # half of a log-odds is less than the bias, 2 and 3 are more: the first twice on 4 of 8 pairs
    assert (whole["consistent"], whole["always_first"], whole["first_rate"]) == ("0.5", "0.5", "0.75")
    assert (whole["position"], whole["tokens_read"], whole["seconds"]) == ("1", "1600", "8")
    assert (dpo["method_a"], dpo["method_b"], dpo["win_rate"]) == ("dpo", "base", "0.75")
    assert kto["win_rate"] == "0.25"
    page = markdown(tables)
    assert "stub: 8 comparisons in 16 calls, the first image preferred in 75.0 % of calls (unbiased: 50 %)" in page
    assert "it prefers the first image too often, whatever it shows; both orders cancel this" in page


def test_a_comparer_that_fails_too_often_is_in_no_table_but_its_own(world):
    judge(world, {"dpo": OVER_BASE["dpo"]}, failed=["p3"])
    tables = build(world.root, num_resamples=50)
    assert {row["evaluator"] for row in tables.leaderboard} == {"clip"}
    (_, row) = tables.comparers
    assert (row["pairs"], row["failures"], row["win_rate"]) == (4, 1, 1.0)
    assert (row["win_rate_least"], row["win_rate_most"]) == (0.75, 1.0)
    assert "failures 1 (25.0 %); that is too many, so its figures are in no table" in markdown(tables)


@pytest.mark.matrix
def test_verdicts_on_images_that_were_scored_anew_do_not_count(world):
    """The scores of the fixture name no file; those of another evaluator do."""
    judge(world, {"dpo": OVER_BASE["dpo"]})
    assert rows(build(world.root, num_resamples=50).win_rates, evaluator="stub", method_a="dpo")
    folder = RunFolder(world.root / run(world, "dpo"))
    file = folder.score_file("shapes", SAMPLING, "new", "1")
    Scores.of(ScoreInfo("new", "1"), [*PROMPTS], [0] * 4, [0.0] * 4, ["2", "2", "2", "other"]).write(file)
    folder.complete("score", f"shapes/{SAMPLING}/new@1", [file])
    (row,) = rows(build(world.root, num_resamples=50).win_rates, evaluator="stub", method_a="dpo", group="all")
    assert (row["n"], row["win_rate"]) == (3, 1.0)


@pytest.mark.matrix
def test_verdicts_of_runs_that_are_gone_are_passed_over_and_damage_is_named(world):
    judge(world, {"dpo": OVER_BASE["dpo"]})
    judge(world, {"dpo": OVER_BASE["dpo"]}, comparer="other")
    damaged = VerdictFile.of(world.root, "shapes", SAMPLING, "other", "1").path
    damaged.write_text(damaged.read_text().replace("false", "true"))
    found = readable(world.root)
    assert [file.comparer for file in found.verdicts] == ["stub"]
    name = f"comparisons/shapes/{SAMPLING}/other@1.jsonl"
    assert found.left_out[name].endswith("has changed since it was written; delete it to compare its images again")
    kept = [one for one in found.runs if not one.name.startswith("dpo")]
    tables = build(world.root, num_resamples=50, folders=kept, verdicts=found.verdicts)
    assert {row["evaluator"] for row in tables.leaderboard} == {"clip"}


@pytest.mark.matrix
def test_verdicts_on_images_that_say_nothing_of_themselves_any_more_are_left_out(world):
    world.run("sft", groups=GROUPS)  # without scores, as of comparers alone
    judge(world, {"sft": OVER_BASE["dpo"]})
    (world.root / run(world, "sft") / "images" / "shapes" / SAMPLING / "prompts.jsonl").unlink()
    found = readable(world.root)
    assert found.verdicts == []
    assert "prompts.jsonl" in found.left_out[f"comparisons/shapes/{SAMPLING}/stub@1.jsonl"]
