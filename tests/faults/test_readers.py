"""F15, F16, F19, F20: whatever a file holds, its reader gives a result or one sentence; see benchmarks/fuzz."""

import random

import pytest

from benchmarks.fuzz.mutations import mutated
from benchmarks.fuzz.readers import EXPORTED, changed_file, readers
from benchmarks.fuzz.worker import FAILED, outcome, run

READERS = {one.name: one for one in readers()}
# inputs that ended in a traceback, or took the process with them, by the reader that they are for
KEPT = {
    "labels.csv": (147,), "hpdv2 list": (187,), "pickapic arrow": (82, 171), "picture avif": (12, 26),
    "weights.pt": (65,), "checkpoint state": (1,), "part of scores": (100,), "training_data.npy": (3, 148),
}  # fmt: skip
NUM_INPUTS = 5


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.mark.parametrize("name", [name for name in READERS if name != EXPORTED])
def test_a_reader_reads_or_refuses_in_a_sentence(name, tmp_path):
    attempt = changed_file(READERS[name], tmp_path, seed=1)
    failures = {
        number: text for number in range(NUM_INPUTS) for result, text in [outcome(attempt(number))] if result == FAILED
    }
    assert failures == {}


@pytest.mark.parametrize(("name", "number"), [(name, number) for name, numbers in KEPT.items() for number in numbers])
def test_what_once_failed_does_not_fail_again(name, number, tmp_path):
    """In a process of its own, as some inputs have ended it."""
    attempt = changed_file(READERS[name], tmp_path, seed=0)
    found = run(name, attempt, range(number, number + 1), until=float("inf"))
    assert (found.tried, found.failures) == (1, {})


@pytest.mark.matrix
@pytest.mark.parametrize("name", READERS)
def test_a_thousand_inputs_are_read_or_refused_in_a_sentence(name, tmp_path):
    found = run(name, changed_file(READERS[name], tmp_path, seed=2), range(1000), until=float("inf"))
    assert found.failures == {}
    assert found.tried == 1000
    assert found.refused > 0 or name in ("statistics", "tensor store", "digests.json")  # which are made again


def test_every_change_changes_something_in_most_inputs():
    draw, content = random.Random(0), b'{"a": [1, 2, {"b": "text"}]}\n'
    assert sum(mutated(content, draw) != content for _ in range(100)) > 80


def test_a_traceback_and_a_process_that_dies_are_counted(tmp_path):
    def attempt(number):
        def fail():
            if number == 1:
                raise KeyError("a")
            if number == 2:
                __import__("os")._exit(11)

        return fail

    found = run("none", attempt, range(4), until=float("inf"))
    assert (found.tried, found.read, found.tracebacks) == (4, 2, 2)
    assert "KeyError" in found.failures[1]
    assert "exit status 11" in found.failures[2]
