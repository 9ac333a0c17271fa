"""F15, F16, F19, F20: whatever a file holds, its reader gives a result or one sentence; see benchmarks/fuzz."""

import random

import pytest

from benchmarks.fuzz.files_of_runs import EXPORTED
from benchmarks.fuzz.mutations import mutated
from benchmarks.fuzz.readers import changed_file, readers
from benchmarks.fuzz.worker import FAILED, outcome, run

READERS = {one.name: one for one in readers()}
# inputs that ended in a traceback, or took the process with them: the reader that they are for, the seed and the number
KEPT = [
    ("labels.csv", 0, 147), ("hpdv2 list", 0, 187), ("pickapic arrow", 0, 82), ("pickapic arrow", 0, 171),
    ("picture avif", 0, 12), ("picture avif", 0, 26), ("weights.pt", 0, 65), ("checkpoint state", 0, 1),
    ("checkpoint state", 3, 121), ("part of scores", 0, 100), ("part of scores", 5, 2), ("training_data.npy", 0, 3),
    ("training_data.npy", 0, 148), ("digests.json", 3, 261), ("digests.json", 3, 672), ("study.sqlite", 3, 55),
    ("study.sqlite", 3, 390),
    ("verdicts", 2, 850), ("training lock", 1, 8), ("training lock", 1, 50), ("journal of a search", 1, 13),
    ("journal of a search", 1, 67), ("journal of a search", 1, 93), ("journal of a search", 1, 177),
    ("journal of a search", 5, 926), ("journal of a search", 6, 459), ("last command", 1, 2), ("last command", 1, 43),
    ("last command", 5, 228), ("last command", 5, 714), ("train.jsonl of a cell", 5, 290),
    ("manifest.json of a cell", 5, 119), ("record of a sweep", 6, 62), ("record of a sweep", 6, 669),
    ("looks", 5, 61), ("questions_tifa.json", 1, 224), ("imagereward of people", 1, 230),
    ("genai_bench_li of people", 1, 133), ("prompts of a capsule", 6, 78), ("record of a sweep", 2, 253),
    ("journal of a search", 2, 577),
]  # fmt: skip
NUM_INPUTS = 5
# what is damaged in them is made again, or tells how far a cell has come
MADE_AGAIN = (
    "statistics", "tensor store", "digests.json", "last command", "answers.jsonl", "state of a cell",
    "train.jsonl of a cell", "manifest.json of a cell",
)  # fmt: skip


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


@pytest.mark.parametrize(("name", "seed", "number"), KEPT)
def test_what_once_failed_does_not_fail_again(name, seed, number, tmp_path):
    """In a process of its own, as some inputs have ended it."""
    found = run(name, changed_file(READERS[name], tmp_path, seed), range(number, number + 1), until=float("inf"))
    assert (found.tried, found.failures) == (1, {})


@pytest.mark.matrix
@pytest.mark.parametrize("name", READERS)
def test_hundreds_of_inputs_are_read_or_refused_in_a_sentence(name, tmp_path):
    num = 200 if name.endswith("of a capsule") else 1000
    found = run(name, changed_file(READERS[name], tmp_path, seed=2), range(num), until=float("inf"))
    assert found.failures == {}
    assert found.tried == num
    assert found.refused > 0 or name in MADE_AGAIN


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
