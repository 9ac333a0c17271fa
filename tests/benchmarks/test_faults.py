"""What the benchmark of faults compares and counts; its commands are run by it alone."""

import json
import os
import random
from itertools import islice

import pytest
from tqdm.auto import tqdm

from alignbench.configuration.compose import check_command_line, composed
from alignbench.train_reward.checks import check
from benchmarks import faulty_runs
from benchmarks.faults import Reference, one_kill, one_round_of_starters, two_seeds
from benchmarks.faulty_runs import Places, contents, differences, kill, start
from benchmarks.small_commands import COMMANDS, SmallCommand, drawn


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_passes_the_checks(name):
    if COMMANDS[name].judge:
        check(composed(COMMANDS[name].all_words, "train_reward"))
    else:
        assert check_command_line(COMMANDS[name].all_words, multirun=False) == 1


@pytest.mark.matrix
def test_drawn_commands_pass_the_checks_and_are_the_same_for_a_seed(tmp_path):
    first, again = ([*islice(drawn(random.Random(3), tmp_path), 6)] for _ in range(2))
    assert first == again
    assert len({name for name, _ in first}) == 6
    for name, command in first:
        method, model, *_ = name.split(", ")
        assert f"method={method}" in command.all_words
        assert f"model={model}" in command.all_words or (tmp_path / model / "model_index.json").exists()


def test_places_are_changes_below_the_folder_and_a_kill_comes_before_its_change(tmp_path):
    def program():
        for name in ("a", "b", "c"):
            (tmp_path / "results" / name).write_text(name)
            (tmp_path / "elsewhere").write_text(name)
            (tmp_path / "results" / "a").read_text()

    (tmp_path / "results").mkdir()
    counted = tmp_path / "count"
    watched = start((), tmp_path / "logs", [Places(tmp_path / "results", counted=counted)], program)
    assert watched.wait() == [0]
    assert counted.read_text() == "3"
    for name in "abc":
        (tmp_path / "results" / name).unlink()
    killed = start((), tmp_path / "logs", [Places(tmp_path / "results", 3, kill)], program)
    assert killed.wait() == [-9]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["a", "b"]


def test_a_command_killed_while_it_draws_a_bar_hinders_no_other(tmp_path, monkeypatch):
    def dies():
        tqdm.get_lock().acquire()
        kill()

    tqdm.get_lock()  # as bars before have made one, which forked processes would share
    assert start((), tmp_path, program=dies).wait() == [-9]
    monkeypatch.setattr(faulty_runs, "TOO_LONG", 5.0)
    assert start((), tmp_path, program=lambda: list(tqdm(range(2)))).wait() == [0]


def test_what_differs_each_time_is_not_compared_and_all_else_is(tmp_path):
    def write(name, seconds, score):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        (run / "manifest.json").write_text(json.dumps({"budget": {"train_seconds": seconds}, "seed": 0}))
        (run / "config.yaml").write_text(f"results: {tmp_path / name}\n")
        (run / "scores.csv").write_text(f"score,device_hours\n{score},{seconds}\n")
        (run / ".lock").write_text(name)
        return contents(tmp_path / name)

    first = write("first", 1, 0.5)
    assert differences(write("second", 2, 0.5), first) == []
    assert differences(write("third", 2, 0.6), first) == ["run/scores.csv differs"]
    os.remove(tmp_path / "third" / "run" / "config.yaml")
    assert "run/config.yaml is missing" in differences(contents(tmp_path / "third"), first)


def test_a_command_that_a_kill_changes_is_found(tmp_path, monkeypatch):
    """A program that appends where it should write anew."""

    def program():
        file = tmp_path / "kill" / "results" / "a"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as opened:
            opened.write("x")
        (file.parent / "b").write_text("")

    class Appends(SmallCommand):
        def start(self, root, faults):
            return start((), root / "logs", faults, program)

    class Last:
        """Draws one kill of the only process, before its last change."""

        def choice(self, given):
            return given[0]

        def randint(self, first, last):
            return last

        def uniform(self, first, last):
            return first

    start((), tmp_path / "logs", program=program).wait()
    known = Reference(contents(tmp_path / "kill" / "results"), [3])
    (tmp_path / "kill" / "results" / "a").unlink()
    (tmp_path / "kill" / "results" / "b").unlink()
    told, wrong = one_kill(Appends(()), known, tmp_path / "kill", Last())
    assert told == "3/3"
    assert wrong == ["a differs"]


@pytest.mark.matrix
def test_of_commands_that_start_at_once_one_works_a_seed_and_the_others_are_refused(tmp_path):
    _, wrong = one_round_of_starters(3, two_seeds(tmp_path / "root"), tmp_path / "root")
    assert wrong == []
