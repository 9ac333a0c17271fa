"""The column of settings that searches tried."""

from types import SimpleNamespace

from alignbench.report.sensitivity.searched import add_tried

RUNS = {"base-m-0": "base", "dpo-m-1": "dpo", "sft-m-2": "sft"}


def leaderboard():
    return SimpleNamespace(leaderboard=[{"model": "m", "run": name} for name in [*RUNS, "dpo-m-1 dpo-m-3", ""]])


def folders():
    return [SimpleNamespace(name=name, manifest=SimpleNamespace(method=method)) for name, method in RUNS.items()]


def test_rows_of_a_searched_method_have_its_number_of_settings_and_the_others_none():
    tables = leaderboard()
    add_tried(tables, folders(), {("m", "dpo"): 20, ("other", "sft"): 3})
    assert [row["tried"] for row in tables.leaderboard] == [None, 20, None, 20, None]


def test_without_searches_rows_are_as_they_were():
    tables = leaderboard()
    add_tried(tables, folders(), {})
    assert tables.leaderboard == leaderboard().leaderboard
