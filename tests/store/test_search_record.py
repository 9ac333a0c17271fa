"""How many settings searches tried, as the report counts them."""

import pytest

from alignbench.store.search_record import count_tried, write_trials


def row(trial, recipe, method="dpo", **values):
    return dict.fromkeys(("state", "run", "seconds", "reason")) | {
        "trial": trial, "model": "sd15_mini", "method": method, "recipe": recipe, "train.x": trial, **values,
    }  # fmt: skip


def test_a_setting_that_two_trials_or_two_searches_tried_counts_once(tmp_path):
    write_trials(tmp_path / "searches" / "one", ["train.x"], [row(0, "a"), row(1, "b"), row(2, "a")])
    write_trials(tmp_path / "searches" / "two", ["train.x"], [row(0, "b"), row(1, "c"), row(2, "d", "kto")])
    write_trials(tmp_path / "searches" / "begun", ["train.x"], [row(0, None)])
    assert count_tried(tmp_path) == ({("sd15_mini", "dpo"): 3, ("sd15_mini", "kto"): 1}, {})


def test_without_searches_nothing_is_counted(tmp_path):
    assert count_tried(tmp_path) == ({}, {})


@pytest.mark.parametrize("content", ["", "trial,state\n1,2\n", "model,method,recipe\na,b\n", "model\xff", 'model,"'])
def test_a_damaged_table_is_named_and_the_others_count(tmp_path, content):
    write_trials(tmp_path / "searches" / "one", ["train.x"], [row(0, "a")])
    (tmp_path / "searches" / "two").mkdir()
    (tmp_path / "searches" / "two" / "trials.csv").write_bytes(content.encode("latin-1"))
    tried, damaged = count_tried(tmp_path)
    assert tried == {("sd15_mini", "dpo"): 1}
    assert (list(damaged) == ["searches/two"]) == (content != "")
    assert all("trials.csv is damaged" in told for told in damaged.values())
