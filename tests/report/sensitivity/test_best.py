"""The best setting of each method within equal budgets: the table, how texts show it, and the page."""

import csv

import pytest

from alignbench.interface.results import load_results
from alignbench.report.columns import BEST_SETTING_COLUMNS, SENSITIVITY_COLUMNS
from alignbench.report.display import sections
from alignbench.report.markdown import markdown
from alignbench.report.page.settings import settings_entry
from alignbench.report.sensitivity.display import best_setting_grids
from alignbench.report.write import write_report
from tests.report.sensitivity.conftest import add


@pytest.fixture
def tables(swept):
    return write_report(swept.root, num_resamples=50)


def best(tables, unit, method="dpo", evaluator="clip"):
    (row,) = (
        row
        for row in tables.best_settings
        if (row["budget_unit"], row["recipe_of"], row["evaluator"]) == (unit, method, evaluator)
    )
    return row


def test_without_a_limit_the_setting_that_wins_most_is_best(tables):
    row = best(tables, "any")
    assert (row["method"], row["win_rate_vs_base"], row["num_settings"]) == ("dpo lr=1e-4 steps=90", 1.0, 4)
    assert (row["num_seeds"], row["seed_sd_win_rate"], row["budget"]) == (1, None, None)


@pytest.mark.parametrize(("unit", "limit"), [("network_passes", 1000), ("samples_seen", 500), ("device_hours", 0.1)])
def test_within_a_budget_only_settings_count_that_spent_no_more_than_every_method_has(tables, unit, limit):
    row = best(tables, unit)
    assert row["budget_limit"] == row["budget"] == limit
    assert (row["method"], row["num_settings"]) == ("dpo lr=1e-4 steps=10", 3)
    assert row["win_rate_vs_base"] == pytest.approx(0.825)  # 16 and 17 of 20
    assert row["seed_sd_win_rate"] == pytest.approx(0.05 / 2**0.5)


def test_a_method_of_one_setting_stands_beside_the_others(tables):
    row = best(tables, "network_passes", "sft")
    assert (row["method"], row["num_settings"], row["win_rate_vs_base"]) == ("sft", 1, 0.55)


def test_a_method_that_only_spent_more_has_no_setting_within_the_budget(swept):
    add(swept, "kto", "r", 15, 400, {"train": {"learning_rate": 1e-5, "max_train_steps": 4}})
    tables = write_report(swept.root, num_resamples=50)
    assert best(tables, "network_passes", "kto")["method"] == "kto"
    row = best(tables, "network_passes", "dpo")
    assert (row["num_settings"], row["method"], row["win_rate_vs_base"]) == (0, None, None)
    (section,) = sections(tables)
    ((_, grid),) = best_setting_grids(section, tables.best_settings)
    assert grid.rows[0][:3] == ["dpo", "0", "none within this budget"]


def test_of_an_evaluator_whose_lower_scores_are_better_the_lowest_wins(world):
    prompts = {f"p{n}": f"prompt {n}" for n in range(10)}
    world.run("base", [0.0] * 10, prompts=prompts, groups={}, higher_is_better=False)
    for recipe, score in (("low", -1.0), ("high", 1.0)):
        folder = world.run("dpo", [score] * 10, prompts=prompts, groups={}, recipe=recipe, higher_is_better=False)
        folder.config_file.write_text(f"train: {{learning_rate: {1e-5 if recipe == 'low' else 1e-4}}}\n")
    row = best(write_report(world.root, num_resamples=50), "any")
    assert (row["method"], row["win_rate_vs_base"]) == ("dpo lr=1e-5", 1.0)


def test_a_report_writes_both_tables_and_a_picture(tables, swept):
    for name, columns in (("best_settings", BEST_SETTING_COLUMNS), ("sensitivity", SENSITIVITY_COLUMNS)):
        with (swept.root / f"{name}.csv").open() as file:
            assert tuple(next(csv.reader(file))) == columns
    (picture,) = (swept.root / "report").glob("sensitivity-*.png")
    assert picture.stat().st_size > 10_000
    results = load_results(swept.root)
    assert results.best_settings["recipe_of"].tolist() == ["dpo", "sft"] * 5
    assert results.sensitivity["setting_value"].tolist() == ["1e-5", "1e-4", "0.001", "10", "90"]


def test_methods_of_one_setting_each_leave_no_table(world):
    world.run("base", [1, 1, 1, 1])
    world.run("dpo", [2, 2, 2, 2])
    tables = write_report(world.root, num_resamples=50)
    assert not (world.root / "best_settings.csv").exists()
    (section,) = sections(tables)
    assert settings_entry(tables, section) == {"settings": None}


def test_the_leaderboard_names_the_budget_and_says_that_a_choice_is_too_good(tables):
    text = markdown(tables)
    assert "**Best setting by clip ↑, within 1,000 network passes, sd15_mini, shapes**" in text
    assert "| dpo | 3 | lr=1e-4 steps=10 | 82.5" in text
    assert "with many settings, chance alone makes it too high" in text


def test_the_page_has_each_budget_and_each_curve(tables):
    (section,) = sections(tables)
    entry = settings_entry(tables, section)["settings"]
    assert [one["text"] for one in entry["budgets"]] == [
        "within 1,000 network passes", "within 60 updates", "within 500 samples", "within 0.1 device-hours",
        "at any budget",
    ]  # fmt: skip
    rates, steps = entry["panels"]
    assert (rates["setting"], rates["isNumber"]) == ("lr", True)
    (line,) = rates["lines"]
    assert [point["x"] for point in line["points"]] == [1e-5, 1e-4, 1e-3]
    assert [point["value"] for point in line["points"]] == pytest.approx([62.5, 82.5, 22.5])
    assert [line["others"] for line in steps["lines"]] == ["lr=1e-4"]
