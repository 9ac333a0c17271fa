"""The trials of a search: drawn by their number, shared by processes, and continued after kills."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from alignbench.errors import DivergedError, MemoryRanOutError, UserError
from alignbench.search.loop import Pruned
from alignbench.search.picture import draw_search
from alignbench.search.study import HOLDER, JOURNAL
from alignbench.search.trial_run import Watch
from alignbench.training.validation import EvaluationResult
from tests.search.toys import DEFAULT, ONE, TWO, measured, search, study, value_of


def drawn(found):
    return [trial.params for trial in found.trials()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return search(tmp_path_factory.mktemp("whole"), num_trials=20)


def test_a_search_beats_its_default_and_knows_its_best_trial(uninterrupted):
    values = [trial.value for trial in uninterrupted.trials()]
    assert len(values) == 20
    assert drawn(uninterrupted)[0] == DEFAULT
    assert uninterrupted.default_trial() == 0
    assert uninterrupted.best() == [values.index(max(values))]
    assert max(values) > values[0]


def test_later_trials_of_tpe_are_better_than_random_ones(uninterrupted):
    values = [trial.value for trial in uninterrupted.trials()]
    assert sum(values[10:]) > sum(values[:10])


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(tmp_path, uninterrupted):
    assert drawn(search(tmp_path / "same", num_trials=12)) == drawn(uninterrupted)[:12]
    other = drawn(search(tmp_path / "other", num_trials=4, seed=1))
    assert other[0] == DEFAULT
    assert all(one not in drawn(uninterrupted) for one in other[1:])


def test_a_search_in_two_parts_is_the_same_as_in_one(tmp_path, uninterrupted):
    search(tmp_path, num_trials=7)
    assert drawn(search(tmp_path, num_trials=13)) == drawn(uninterrupted)[:13]
    assert search(tmp_path, num_trials=13).claim() is None


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_other_samplers_are_repeatable(tmp_path, sampler):
    words = ["train.learning_rate=range(1,4)", "method.beta=250,500"]
    values = {"words": words, "sampler": sampler, "default": None, "of": lambda trial, _: [measured(0.5)]}
    first, second = (drawn(search(tmp_path / name, num_trials=8, **values)) for name in "ab")
    assert first == second
    assert len(first) == (6 if sampler == "grid" else 8)
    assert len({tuple(one.values()) for one in first}) == 6


def test_a_trial_that_a_process_left_is_continued_with_its_values_and_counted_once(tmp_path):
    found = study(tmp_path, num_trials=2)
    left = found.claim()
    gone = replace(found.holder, pid=2**22 + 1)  # no process has this number
    found.holder = gone
    found._note(left, HOLDER, gone.__dict__)
    again = study(tmp_path, num_trials=2).claim()
    assert (again.number, again.params) == (left.number, left.params)


def test_a_trial_of_a_living_process_is_left_to_it(tmp_path):
    found = study(tmp_path, num_trials=2)
    first, second = found.claim(), study(tmp_path, num_trials=2).claim()
    assert [first.number, second.number] == [0, 1]
    assert study(tmp_path, num_trials=2).claim() is None
    assert [trial.number for trial, _ in found.held_elsewhere()] == [0, 1]


def test_a_trial_of_another_machine_is_taken_over_only_on_request(tmp_path):
    found = study(tmp_path, num_trials=1)
    found.holder = replace(found.holder, host="elsewhere", machine="another", boot="another")
    found.claim()
    assert study(tmp_path, num_trials=1).claim() is None
    assert study(tmp_path, num_trials=1, take_over=True).claim().number == 0


def test_another_search_of_the_same_name_is_refused(tmp_path):
    study(tmp_path, num_trials=2)
    with pytest.raises(UserError, match="holds a search with other recipe; choose another"):
        study(tmp_path, num_trials=2, what={"recipe": "other"})


def test_a_line_that_a_kill_has_cut_is_as_if_it_had_not_been_begun(tmp_path):
    whole = drawn(search(tmp_path / "whole", num_trials=4))
    search(tmp_path / "cut", num_trials=3)
    journal = tmp_path / "cut" / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"worker_id":"x","study_')
    assert drawn(search(tmp_path / "cut", num_trials=4)) == whole


def test_a_damaged_study_is_named(tmp_path):
    search(tmp_path, num_trials=2)
    journal = tmp_path / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:3], "what is this\n", *lines[3:]]))
    with pytest.raises(UserError, match=f"{JOURNAL} is damaged"):
        study(tmp_path, num_trials=2)


def test_bad_settings_are_stopped_early_and_machines_fail(tmp_path):
    def of(trial, _):
        match trial.number:
            case 1:
                raise DivergedError("the gradient is not finite")
            case 2:
                raise MemoryRanOutError("too little memory")
            case 3:
                raise Pruned("wins 10 %")
        return [measured(value_of(trial.params))]

    found = search(tmp_path, of=of, num_trials=6)
    states = [trial.state for trial in found.trials()]
    complete, pruned, failed = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert states == [complete, pruned, failed, pruned, complete, complete]
    table = (tmp_path / "trials.csv").read_text().splitlines()
    assert len(table) == 7
    assert "too little memory" in table[3]


def test_three_failures_in_a_row_end_a_search(tmp_path):
    def of(trial, _):
        raise MemoryRanOutError("too little memory")

    with pytest.raises(UserError, match="3 trials failed one after the other"):
        search(tmp_path, of=of, num_trials=6)
    assert len(study(tmp_path, num_trials=6).trials()) == 3


def test_a_wrong_command_ends_a_search_and_its_trial_is_run_again(tmp_path):
    def of(trial, _):
        raise UserError("data.path is not there")

    with pytest.raises(UserError, match=r"data\.path"):
        search(tmp_path, of=of, num_trials=2)
    (left,) = study(tmp_path, num_trials=2).trials()
    assert left.state == TrialState.RUNNING


def validation(value, step):
    return [EvaluationResult(step, "judge", "1", 8, 0.0, value, 0.0, 1.0, 100 * step)]


class Configuration:
    class validation:
        every, every_unit = 10, "updates"


def test_the_median_pruner_stops_a_trial_below_the_median_of_the_others(tmp_path):
    """Of five trials that win 30 to 70 % at the second look, the median is 50 %: 49 % is stopped, 51 % goes on."""
    found = study(tmp_path, num_trials=7, pruner="median")
    for value in (0.3, 0.4, 0.5, 0.6, 0.7):
        trial = found.claim()
        watch = Watch(trial, found, Configuration)
        for step in (0, 10, 20):
            watch(step, 100 * step, validation(value, step))
        found.complete(trial, [measured(value)], 1.0)
    good, bad = found.claim(), None
    Watch(good, found, Configuration)(20, 2000, validation(0.51, 20))
    found.complete(good, [measured(0.51)], 1.0)
    bad = found.claim()
    with pytest.raises(Pruned, match="judge: wins 49 % over its start at update 20"):
        Watch(bad, found, Configuration)(20, 2000, validation(0.49, 20))


def test_a_look_that_a_resumed_run_repeats_is_stored_once(tmp_path):
    found = study(tmp_path, num_trials=1, pruner="median")
    trial = found.claim()
    for value in (0.5, 0.9):
        Watch(trial, found, Configuration)(10, 1000, validation(value, 10))
    assert found.trials()[0].intermediate_values == {1: 0.5}


def test_the_pareto_front_is_what_no_other_trial_dominates(tmp_path):
    """The first is maximised, the second minimised: (0.9, 3), (0.5, 1) and (0.7, 2) are not dominated by any other."""
    points = [(0.5, 1.0), (0.9, 3.0), (0.4, 2.0), (0.7, 2.0), (0.6, 2.5), (0.9, 3.5)]
    found = search(
        tmp_path,
        objectives=TWO,
        num_trials=len(points),
        of=lambda trial, _: [measured(value) for value in points[trial.number]],
    )
    assert found.best() == [0, 1, 3]
    assert found.importance() == {}


def test_importance_is_of_the_setting_that_matters(uninterrupted):
    importance = uninterrupted.importance()
    assert sum(importance.values()) == pytest.approx(1)
    assert next(iter(importance)) == "train.learning_rate"


def test_trials_that_are_all_alike_say_nothing_of_what_matters(tmp_path):
    assert search(tmp_path, num_trials=8, of=lambda *_: [measured(1.0)]).importance() == {}


def test_a_searched_method_is_one_column_of_the_table(tmp_path):
    words = ["method=choice(dpo,kto)"]
    search(tmp_path, num_trials=2, words=words, default=None, of=lambda *_: [measured(1.0)])
    head, *lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert head.split(",").count("method") == 1
    assert len(lines) == 2


@pytest.mark.matrix
@pytest.mark.parametrize("num_processes", [1, 3])
def test_a_search_that_is_killed_twice_ends_with_its_trials(tmp_path, num_processes, uninterrupted):
    """Each trial is begun once, and once more for each kill at most; alone, the trials are those without kills."""
    command = [sys.executable, "-m", "tests.search.toys", str(tmp_path), "20", "0.1"]
    chance = random.Random(num_processes)
    for _ in range(2):
        processes = [subprocess.Popen(command) for _ in range(num_processes)]
        while not (tmp_path / JOURNAL).exists() or (tmp_path / JOURNAL).read_bytes().count(b"\n") < 8:
            time.sleep(0.02)
        time.sleep(0.3 + 0.5 * chance.random())
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    processes = [subprocess.Popen(command) for _ in range(num_processes)]
    assert [process.wait() for process in processes] == [0] * num_processes
    found = study(tmp_path, num_trials=20)
    assert [trial.state for trial in found.trials()] == [TrialState.COMPLETE] * 20
    begun = [len((tmp_path / f"begun-{number}").read_text()) for number in range(20)]
    assert 20 <= sum(begun) <= 20 + 2 * num_processes
    if num_processes == 1:
        assert drawn(found) == drawn(uninterrupted)
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 21
    assert [one.name for one in ONE] == ["win_rate:judge"]


def test_hyperband_stops_trials_that_are_worse_than_those_before(tmp_path):
    """Of trials that win 80, 70, ... 10 % at each of nine looks, the last ones are stopped."""
    found = study(tmp_path, num_trials=8, pruner="hyperband")
    first = found.claim()
    for look in range(1, 10):
        Watch(first, found, Configuration)(10 * look, 0, validation(0.8, 10 * look))
    found.complete(first, [measured(0.8)], 1.0)
    for value in (0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        trial = found.claim()
        try:
            for look in range(1, 10):
                Watch(trial, found, Configuration)(10 * look, 0, validation(value, 10 * look))
            found.complete(trial, [measured(value)], 1.0)
        except Pruned as reason:
            found.end(trial, TrialState.PRUNED, str(reason), 1.0)
    states = [trial.state for trial in found.trials()]
    assert states[-1] == TrialState.PRUNED
    assert states[0] == TrialState.COMPLETE


def test_the_picture_of_a_pareto_front_and_of_a_search_with_stopped_trials_can_be_drawn(tmp_path):
    def of(trial, _):
        if trial.number == 1:
            raise Pruned("wins 10 %")
        return [measured(0.5) for _ in objectives]

    for objectives in (ONE, TWO):
        found, file = (
            search(tmp_path / f"{len(objectives)}", objectives=objectives, num_trials=3, of=of),
            tmp_path / "a",
        )
        draw_search(found.trials(), found.best(), objectives, found.default_trial(), file)
        assert file.read_bytes().startswith(b"\x89PNG")
