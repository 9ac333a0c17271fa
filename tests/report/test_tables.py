import csv

import numpy as np
import pytest
from scipy.stats import binomtest

from alignbench.interface.results import EVIDENCE_COLUMNS, load_results
from alignbench.report.columns import LEADERBOARD_COLUMNS, RANKING_COLUMNS, WIN_RATE_COLUMNS
from alignbench.report.diagnostics import diagnose
from alignbench.report.display import grids, mean_ranks, sections
from alignbench.report.readable import readable
from alignbench.report.tables import build
from alignbench.store.manifest import ResultsError
from alignbench.store.scores import Scores


def only(rows, **conditions):
    """The single row that meets the conditions."""
    [row] = [row for row in rows if all(row[name] == value for name, value in conditions.items())]
    return row


def test_a_win_rate_and_a_median_are_those_counted_by_hand(world):
    """sft wins p0 and p3, ties p1, loses p2: (2 + 0.5) / 4. Medians: of 1 2 3 4 and of 2 2 1 6."""
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 2, 1, 6])
    tables = build(world.root)
    row = only(tables.leaderboard, method="sft", group="all")
    assert row["win_rate_vs_base"] == 0.625
    assert (row["n"], row["median"], row["mean"], row["num_seeds"], row["subset"]) == (4, 2, 2.75, 1, False)
    assert row["seed_sd"] is None
    pair = only(tables.win_rates, group="all")
    assert (pair["method_a"], pair["method_b"], pair["n"], pair["wins"], pair["ties"]) == ("sft", "base", 4, 2, 1)
    base = only(tables.leaderboard, method="base", group="all")
    assert base["median"] == 2.5
    assert np.isnan([base["win_rate_vs_base"], base["win_ci_low"], base["p_win"]]).all()


def test_groups_hold_their_own_prompts(world):
    """Of the flat prompts sft wins one and ties one; of the shaded it wins one and loses one."""
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 2, 1, 6])
    rows = build(world.root).leaderboard
    assert only(rows, method="sft", group="flat")["win_rate_vs_base"] == 0.75
    assert only(rows, method="sft", group="shaded")["win_rate_vs_base"] == 0.5
    assert [row["group"] for row in rows if row["method"] == "sft"] == ["all", "flat", "shaded"]


def test_the_mean_of_all_is_that_of_groups_where_an_evaluator_says_so(world):
    """Of the flat prompts one, of the shaded three; base scores 1 on the flat one and 0 on the others."""
    groups = {"p0": ("flat",), "p1": ("shaded",), "p2": ("shaded",), "p3": ("shaded",)}
    world.run("base", [1, 0, 0, 0], groups=groups, summary="mean", overall="groups")
    world.run("sft", [1, 1, 1, 0], groups=groups, summary="mean", overall="groups")
    world.run("base", [1, 0, 0, 0], groups=groups, evaluator="plain")
    tables = build(world.root)
    rows = [row for row in tables.leaderboard if row["method"] == "base" and row["evaluator"] == "clip"]
    assert {row["group"]: row["mean"] for row in rows} == {"all": 0.5, "flat": 1, "shaded": 0}
    assert only(tables.leaderboard, evaluator="plain", group="all")["mean"] == 0.25
    sft = only(tables.leaderboard, method="sft", group="all")
    assert sft["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert sft["win_rate_vs_base"] == 0.75  # of images
    section = sections(tables)[0]
    assert mean_ranks(section) == {"base": 1.0}  # sft has no score by the other evaluator
    scores = grids(section)[0]
    assert scores.title.startswith("Median or mean score, ")
    assert scores.heads == ["method", "clip ↑, mean", "plain ↑", "mean rank"]
    assert scores.rows[0][1] == "0.50 [0.00, 0.50]"


def test_the_spread_of_seeds_is_that_of_the_figure_that_is_shown(world):
    """Means of the two groups: 1 and 1/3, then 1 and 2/3; averages 2/3 and 5/6. Means of all images: 1/2 and 3/4."""
    groups = {"p0": ("flat",), "p1": ("shaded",), "p2": ("shaded",), "p3": ("shaded",)}
    for seed, scores in enumerate(([1, 1, 0, 0], [1, 1, 1, 0])):
        world.run("sft", scores, seed=seed, groups=groups, summary="mean", overall="groups")
    world.run("base", [1, 0, 0, 0], groups=groups, summary="mean", overall="groups")
    row = only(build(world.root, 50).leaderboard, method="sft", group="all")
    assert (row["summary"], row["mean"]) == ("mean", pytest.approx(0.75))
    assert row["seed_sd"] == pytest.approx(np.std([2 / 3, 5 / 6], ddof=1))


def test_methods_are_ranked_by_what_an_evaluator_is_shown_by(world):
    three = {"p0": "a", "p1": "b", "p2": "c"}
    world.run("base", [0, 0.4, 0.4], prompts=three, summary="mean")
    world.run("sft", [0, 0, 1], prompts=three, summary="mean")
    section = sections(build(world.root))[0]
    assert mean_ranks(section) == {"sft": 1.0, "base": 2.0}  # means 0.33 and 0.27, medians 0 and 0.4
    assert section.score_head(("clip", "1")) == "clip ↑, mean"


def test_lower_wins_where_an_evaluator_says_so(world):
    world.run("base", [1, 2, 3, 4], higher_is_better=False)
    world.run("sft", [0, 1, 2, 9], higher_is_better=False)
    row = only(build(world.root).leaderboard, method="sft", group="all")
    assert row["win_rate_vs_base"] == 0.75
    assert row["median"] == 1.5, "the published scale is kept"


def test_repeated_prompts_and_images_are_one_cluster(world):
    """Twelve wins, but of three prompt texts: the sign test sees three."""
    prompts = {"p0": "a", "p1": "a", "p2": "b", "p3": "c"}
    world.run("base", [0.0] * 12, prompts=prompts, groups={}, num_images=3)
    world.run("sft", [1.0] * 12, prompts=prompts, groups={}, num_images=3)
    row = only(build(world.root).win_rates)
    assert (row["n"], row["wins"]) == (12, 12)
    assert row["p_win_weights"] == binomtest(3, 3).pvalue
    assert np.isnan(row["p_win"]), "one training seed cannot tell"
    assert row["ci_low"] == pytest.approx(binomtest(3, 3).proportion_ci(method="exact").low)


def test_runs_of_a_recipe_with_several_seeds_are_one_row(world):
    """Medians by seed 2.5, 3.5 and 6.5: mean 25 / 6, standard deviation sqrt(26 / 6)."""
    world.run("base", [1, 2, 3, 4])
    for seed, shift in enumerate((0, 1, 4)):
        world.run("sft", [1 + shift, 2 + shift, 3 + shift, 4 + shift], seed=seed)
    row = only(build(world.root).leaderboard, method="sft", group="all")
    assert (row["num_seeds"], row["n"]) == (3, 12)
    assert row["median"] == pytest.approx(25 / 6)
    assert row["seed_sd"] == pytest.approx(np.std([2.5, 3.5, 6.5], ddof=1))
    assert row["win_rate_vs_base"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert row["median_ci_low"] < 2.5
    assert len(row["run"].split()) == 3


def test_two_recipes_of_one_method_stay_apart(world):
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 3, 4, 5], recipe="one")
    world.run("sft", [0, 1, 2, 3], recipe="two")
    rows = build(world.root).leaderboard
    assert sorted({row["method"] for row in rows}) == ["base", "sft@sft-one", "sft@sft-two"]


def test_versions_of_an_evaluator_never_meet(world):
    world.run("base", [1, 2, 3, 4], version="1")
    world.run("sft", [2, 3, 4, 5], version="2")
    tables = build(world.root)
    assert tables.win_rates == []
    assert np.isnan(only(tables.leaderboard, method="sft", group="all")["win_rate_vs_base"])


def test_win_rates_of_two_versions_say_which_is_which(world):
    for version, gain in (("1", 1), ("2", -1)):
        world.run("base", [1, 2, 3, 4], version=version)
        world.run("sft", [1 + gain, 2 + gain, 3 + gain, 4 + gain], version=version)
    tables = build(world.root)
    tables.write(world.root)
    with (world.root / "win_rates.csv").open() as file:
        found = {row["version"]: row["win_rate"] for row in csv.DictReader(file) if row["group"] == "all"}
    assert found == {"1": "1", "2": "0"}


def test_models_and_samplings_are_compared_with_their_own_base(world):
    world.run("base", [1, 2, 3, 4])
    world.run("base", [5, 6, 7, 8], model="sdxl_mini")
    world.run("sft", [2, 3, 4, 5])
    world.run("sft", [2, 3, 4, 5], model="sdxl_mini")
    world.run("base", [9, 9, 9, 9], sampling_hash="ffff")
    rows = build(world.root).leaderboard
    assert only(rows, model="sd15_mini", method="sft", group="all")["win_rate_vs_base"] == 1
    assert only(rows, model="sdxl_mini", method="sft", group="all")["win_rate_vs_base"] == 0
    assert {row["prompt_set"] for row in rows if row["model"] == "sd15_mini"} == {"shapes@1a2b", "shapes@ffff"}
    assert {row["prompt_set"] for row in rows if row["model"] == "sdxl_mini"} == {"shapes"}


def test_a_subset_is_marked_and_compared_on_the_prompts_that_both_have(world):
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 0], prompts={"p0": "a red circle", "p3": "a yellow cross"}, full_size=4)
    tables = build(world.root)
    assert only(tables.leaderboard, method="sft", group="all")["subset"] is True
    assert only(tables.leaderboard, method="base", group="all")["subset"] is False
    assert (only(tables.win_rates, group="all")["n"], only(tables.win_rates, group="all")["wins"]) == (2, 1)


def test_evaluators_that_a_method_trained_on_are_marked(small_table):
    rows = build(small_table.root).leaderboard
    assert only(rows, method="dpo", evaluator="clip", group="all")["trained_on"] is True
    assert only(rows, method="dpo", evaluator="shapes_oracle_agreement", group="all")["trained_on"] is False
    assert only(rows, method="sft", evaluator="clip", group="all")["trained_on"] is False


def test_p_values_are_corrected_over_all_rows_of_a_model_and_prompt_set(world):
    """One comparison in three groups of 20, 10 and 10 wins: exact p 2^-19, 2^-9 and 2^-9, times 3, 2 and 1 or more."""
    prompts = {f"p{i:02d}": f"prompt {i}" for i in range(20)}
    groups = {p: ("even" if i % 2 else "odd",) for i, p in enumerate(prompts)}
    world.run("base", [0.0] * 20, prompts=prompts, groups=groups)
    world.run("sft", [1.0] * 20, prompts=prompts, groups=groups)
    rows = build(world.root).leaderboard
    assert only(rows, method="sft", group="all")["p_win_weights"] == pytest.approx(3 * 2**-19)
    assert only(rows, method="sft", group="odd")["p_win_weights"] == pytest.approx(2 * 2**-9)
    assert only(rows, method="sft", group="even")["p_win_weights"] == pytest.approx(2 * 2**-9)


def test_budgets_are_means_over_seeds_and_memory_the_largest(world):
    for seed in range(2):
        world.run("sft", [1, 2, 3, 4], seed=seed)
    row = only(build(world.root).leaderboard, group="all")
    assert (row["optimizer_steps"], row["train_seconds"], row["peak_memory_gib"]) == (60, 120, 1.5)


def test_files_have_the_columns_of_the_design_and_the_same_bytes_at_every_run(small_table):
    contents = []
    for _ in range(2):
        build(small_table.root).write(small_table.root)
        files = [small_table.root / f"{name}.csv" for name in ("leaderboard", "win_rates", "ranking")]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]
    for content, columns in zip(contents[0], (LEADERBOARD_COLUMNS, WIN_RATE_COLUMNS, RANKING_COLUMNS), strict=True):
        rows = list(csv.reader(content.decode().splitlines()))
        assert tuple(rows[0]) == columns
        assert {len(row) for row in rows} == {len(columns)}
    assert len(contents[0][0].splitlines()) == 1 + 3 * 3 * 2  # methods, groups, evaluators
    assert len(contents[0][1].splitlines()) == 1 + 3 * 3 * 2  # pairs, groups, evaluators
    assert len(contents[0][2].splitlines()) == 1 + 3 * 2  # methods, evaluators


def test_strengths_of_two_methods_are_the_log_odds_of_their_win_rate(world):
    """sft wins 3 of 4: log((3 + 1/2) / (1 + 1/2)) units of 400 / ln 10."""
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 3, 4, 3])
    rows = build(world.root).ranking
    assert only(rows, method="sft")["strength"] == pytest.approx(400 * np.log10(3.5 / 1.5))
    assert only(rows, method="base")["strength"] == 0
    assert [row["rank"] for row in rows] == [1, 1], "four prompts tell nobody apart"
    assert [row["fit_gap"] for row in rows] == pytest.approx([0.75 - 3.5 / 5] * 2)
    assert {row["intransitive"] for row in rows} == {""}


def test_lower_is_stronger_where_an_evaluator_says_so(world):
    for method, scores in (("base", [1, 2, 3, 4]), ("sft", [0, 1, 2, 5])):
        world.run(method, scores, higher_is_better=False)
    assert only(build(world.root).ranking, method="sft")["strength"] > 0


def test_a_method_that_trained_on_the_evaluator_has_a_strength_but_no_rank_and_pushes_nobody_down(small_table):
    rows = build(small_table.root).ranking
    assert only(rows, method="dpo", evaluator="clip")["rank"] is None
    assert only(rows, method="dpo", evaluator="clip")["strength"] > 300
    assert only(rows, method="sft", evaluator="clip")["rank"] == 1
    assert only(rows, method="dpo", evaluator="shapes_oracle_agreement")["rank"] > 1


def test_methods_that_beat_each_other_in_a_circle_say_so(world):
    world.run("base", [0, 2, 1, 9])
    world.run("sft", [1, 0, 2, 9])
    world.run("dpo", [2, 1, 0, 9])
    rows = build(world.root).ranking
    assert {row["intransitive"] for row in rows} == {"base>dpo>sft>base"}


def test_a_ranking_needs_a_base_and_somebody_else(world):
    world.run("sft", [1, 2, 3, 4])
    assert build(world.root).ranking == []
    world.run("base", [1, 2], prompts={"p8": "a", "p9": "b"}, groups={})
    assert build(world.root).ranking == [], "they share no image"


def test_subsets_are_ranked_on_the_images_that_each_pair_has(world):
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 3, 4, 3])
    world.run("dpo", [2, 0], prompts={"p0": "a red circle", "p3": "a yellow cross"}, full_size=4)
    rows = build(world.root).ranking
    assert {row["method"] for row in rows} == {"base", "sft", "dpo"}


def test_the_number_of_resamples_is_the_callers_choice(small_table):
    few, many = (build(small_table.root, num_resamples=number) for number in (50, 2000))
    assert [row["mean_ci_low"] for row in few.leaderboard] != [row["mean_ci_low"] for row in many.leaderboard]
    assert [row["median"] for row in few.leaderboard] == [row["median"] for row in many.leaderboard]


def test_unfinished_scores_are_left_out_and_changed_ones_refused(world):
    world.run("base", [1, 2, 3, 4])
    folder = world.run("sft", [2, 3, 4, 5])
    file = folder.score_file("shapes", "1a2b", "clip", "1")
    file.with_name("other@1.parquet").write_bytes(file.read_bytes())
    assert {row["evaluator"] for row in build(world.root).leaderboard} == {"clip"}
    file.write_bytes(b"changed")
    with pytest.raises(ResultsError, match="has changed since it was written"):
        build(world.root)


def test_an_empty_root_gives_empty_tables(tmp_path):
    tables = build(tmp_path)
    tables.write(tmp_path)
    assert (tmp_path / "leaderboard.csv").read_text() == ",".join(LEADERBOARD_COLUMNS) + "\n"


def test_a_report_reads_scores_once_and_manifests_as_they_are_now(small_table, monkeypatch):
    """What is found on the way, as data that a run shares with a reward model, is noted after the scores were read."""
    found = readable(small_table.root)
    prompts = [one.prompts for run in found.runs for one in found.reader.measurements(run)]
    assert len(prompts) == 6
    assert all(one is prompts[0] for one in prompts), "equal lists of prompts are one"
    sft = next(run for run in found.runs if run.manifest.method == "sft")
    sft.update(trained_on=["clip"])
    expected = build(small_table.root, 50)
    monkeypatch.setattr(Scores, "read", lambda path: pytest.fail(f"{path} is read again"))
    tables = build(small_table.root, 50, found.runs, found.studies, reader=found.reader)
    assert [row["win_rate"] for row in tables.win_rates] == [row["win_rate"] for row in expected.win_rates]
    assert next(row["trained_on"] for row in tables.leaderboard if row["method"] == "sft")


def test_what_scores_were_made_of_is_a_table_in_python(world):
    told = [
        {"reasons": ["no cat"], "margin": 0.1},
        {"reasons": [], "margin": 0.2},
        {"lines": []},
        {"lines": [{"a": 1}]},
    ]
    world.run("base", [0, 1, 0, 1], evidence=told)
    world.run("sft", [0, 1, 0, 1])
    found = load_results(world.root).evidence
    assert list(found.columns) == list(EVIDENCE_COLUMNS)
    assert found["evidence"].tolist() == told
    assert found["prompt"].tolist() == ["a red circle", "a blue cross", "a green square", "a yellow cross"]
    assert found[["method", "image", "frame", "score"]].to_numpy().tolist() == [["base", 0, 0, i % 2] for i in range(4)]
    other = type(world)(world.root.parent / "other")
    other.run("base", [0, 1, 0, 1])
    assert load_results(other.root).evidence.empty


def test_base_beside_a_method_in_the_diagnostics_has_the_mean_that_is_shown(world):
    """Base scores 1 on the flat prompt and 0 on the three others: 0.5 over groups, 0.25 over images."""
    groups = {"p0": ("flat",), "p1": ("shaded",), "p2": ("shaded",), "p3": ("shaded",)}
    for method, scores in (("base", [1, 0, 0, 0]), ("sft", [1, 1, 1, 0])):
        world.run(method, scores, groups=groups, summary="mean", overall="groups")
    rows = diagnose(world.root, build(world.root, 50), 50)
    assert only(rows, method="sft", measure="clip")["base"] == 0.5
