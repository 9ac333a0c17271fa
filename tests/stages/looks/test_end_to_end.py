"""The whole command that stops early: the looks, the images, the tables, and what a repeated or killed command does."""

import json

import pytest

from alignbench.stages.looks.look_by_look import LookByLook
from tests.program import alignbench, rows
from tests.test_end_to_end import launched, snapshot

pytestmark = pytest.mark.matrix
# two updates that ruin the weights: a method that surely loses
COMMAND = (
    "method=sft", "model=sd15_mini", "train.max_train_steps=2", "train.total_batch_size=4", "train.micro_batch_size=4",
    "train.learning_rate=0.3", "data.num_pairs=12", "data.num_prompts=12", "prompts.limit=40",
    "sampling.num_inference_steps=2", "sampling.batch_size=4", "calibration=false",
)  # fmt: skip
STOP = ("sampling.stop=obrien_fleming", "sampling.looks=4", "sampling.stop_on=shapes_annotators")


def images(root, method):
    return {file.name: file.read_bytes() for file in root.glob(f"{method}-*/images/shapes/*/*.png")}


def looks(root):
    (file,) = root.glob("sft-*/looks/shapes/*.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    return root, alignbench(*COMMAND, *STOP, f"results={root}")


def test_a_run_stops_at_an_early_look_and_the_tables_say_so(stopped):
    root, done = stopped
    assert "look 1 of 4: 10 of 40 prompts" in done.stdout
    assert "look 2 of 4: 20 of 40 prompts" in done.stdout
    assert ": stops" in done.stdout
    assert "look 3" not in done.stdout
    assert [look["stops"] for look in looks(root)["looks"]] == [False, True]
    for method in ("base", "sft"):
        assert 20 <= len(images(root, method)) <= 23  # the last batch is whole
    table = [row for row in rows(root / "leaderboard.csv") if row["group"] == "all" and row["method"] == "sft"]
    assert len(table) == 6  # all evaluators of the command score the prompts that there are
    assert {(row["n"], row["subset"], row["stopped_at"]) for row in table} == {("20", "True", "2 of 4")}
    decided = next(row for row in table if row["evaluator"] == "shapes_annotators")
    assert float(decided["win_ci_high"]) < 0.5
    assert "Stopping biases the win rate itself away from 50" in (root / "index.html").read_text()


def test_a_repeated_command_does_nothing_even_if_it_does_not_know_what_it_printed(stopped):
    root, _ = stopped
    before = {path: time for path, time in snapshot(root).items() if "/images/" in path or "/scores/" in path}
    kept = looks(root)
    for file in root.glob("*/last_command.json"):
        file.unlink()
    again = alignbench(*COMMAND, *STOP, f"results={root}").stdout
    assert again.count("look ") == 2
    assert before == {path: time for path, time in snapshot(root).items() if "/images/" in path or "/scores/" in path}
    assert looks(root) == kept


def test_images_are_those_of_a_run_without_looks_and_a_killed_look_is_taken_by_the_next_command(
    stopped, tmp_path, monkeypatch
):
    root, _ = stopped
    take = LookByLook._look

    def killed(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return take(self, number)

    monkeypatch.setattr(LookByLook, "_look", killed)
    assert alignbench(*COMMAND, *STOP, f"results={tmp_path}", check=False).returncode != 0
    assert len(looks(tmp_path)["looks"]) == 1
    monkeypatch.undo()
    alignbench(*COMMAND, *STOP, f"results={tmp_path}")
    assert looks(tmp_path) == looks(root)
    for method in ("base", "sft"):
        assert images(tmp_path, method) == images(root, method)
    alignbench(*COMMAND, f"results={tmp_path / 'whole'}")
    for method in ("base", "sft"):
        whole, own = images(tmp_path / "whole", method), images(root, method)
        assert len(whole) == 40
        assert own == {name: whole[name] for name in own}
    assert "stopped_at" not in (tmp_path / "whole" / "leaderboard.csv").read_text()


def test_two_processes_take_the_same_looks(stopped, tmp_path):
    root, _ = stopped
    launched(*COMMAND, *STOP, f"results={tmp_path}")
    found = looks(tmp_path)
    assert [look["stops"] for look in found["looks"]] == [False, True]
    assert found["sizes"] == looks(root)["sizes"]
    assert 20 <= len(images(tmp_path, "sft")) <= 23
