"""SIGKILL anywhere: the same command again ends with the same bytes as one that was never killed."""

import random

import pytest

from benchmarks.faulty_runs import Places, contents, differences, kill, kill_after, start
from tests.faults.small_job import program

DRAWN = 2  # places of one process that are tried each time


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The files of a run that was never killed, and the number of places it has, for a number of processes."""
    known = {}

    def make(num_processes):
        if num_processes not in known:
            root = tmp_path_factory.mktemp(f"whole{num_processes}")
            counted = [root / f"count-{rank}" for rank in range(num_processes)]
            watching = [Places(root / "run", counted=file) for file in counted]
            whole = start((), root / "logs", watching, program(root / "run"))
            assert whole.wait() == [0] * num_processes, whole.told[-4000:]
            known[num_processes] = contents(root / "run"), [int(file.read_text()) for file in counted]
        return known[num_processes]

    return make


def kill_and_go_on(tmp_path, reference, at, act=kill, num_processes=1, rank=0):
    """Kill a process at a place, and compare what the same command then ends with."""
    expected, _ = reference(num_processes)
    path = tmp_path / "run"
    faults = [Places(path, at, act) if one == rank else None for one in range(num_processes)]
    killed = start((), tmp_path / "logs", faults, program(path))
    assert any(killed.wait()), "it was not killed"
    again = start((), tmp_path / "logs", [None] * num_processes, program(path))
    assert again.wait() == [0] * num_processes, again.told[-4000:]
    assert differences(contents(path), expected) == []


@pytest.mark.parametrize("draw", range(DRAWN))
def test_a_kill_at_any_place_changes_no_byte(tmp_path, reference, draw):
    """Half of the kills come a little after the place, in the midst of what is written there."""
    generator = random.Random(draw)
    _, (num_places,) = reference(1)
    at = generator.randint(1 + draw * num_places // DRAWN, (draw + 1) * num_places // DRAWN)  # spread over the stages
    kill_and_go_on(tmp_path, reference, at, generator.choice([kill, kill_after(generator.uniform(0, 0.01))]))


@pytest.mark.matrix
@pytest.mark.parametrize("first", range(8, 72, 8))
def test_a_kill_at_every_eighth_place_changes_no_byte(tmp_path, reference, first):
    """There are about 500; others are drawn by `python -m benchmarks.faults`."""
    _, (num_places,) = reference(1)
    for at in range(first, num_places + 1, 64):
        kill_and_go_on(tmp_path / str(at), reference, at)


@pytest.mark.matrix
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("draw", range(5))
def test_a_kill_of_one_of_two_processes_changes_no_byte(tmp_path, reference, rank, draw):
    _, num_places = reference(2)
    at = random.Random(f"{rank}-{draw}").randint(1, num_places[rank])
    kill_and_go_on(tmp_path, reference, at, num_processes=2, rank=rank)
