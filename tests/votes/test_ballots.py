"""Votes are kept once, at once, and for good."""

import sqlite3
import threading

import pytest

from alignbench.store.manifest import ResultsError
from alignbench.votes.ballots import Ballots, Vote


@pytest.fixture
def file(tmp_path):
    return tmp_path / "study.sqlite"


def vote(rater=0, task=0, answer="left", question="overall"):
    return Vote(rater, task, question, "p0", "a", "b", None, None, answer)


def test_a_vote_is_durable_when_cast_returns_and_no_second_one_changes_it(file):
    ballots = Ballots(file)
    ballots.join("Ada")
    ballots.cast(vote())
    ballots.cast(vote(answer="right"))
    other = sqlite3.connect(file)  # another process sees it: it was committed
    assert other.execute("SELECT answer FROM votes").fetchall() == [("left",)]
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ballots._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    ballots.withdraw(0, 0, "overall")
    assert ballots.answered(0) == set()
    ballots.cast(vote(answer="right"))
    assert [one.answer for one in ballots.votes()] == ["right"]


def test_raters_are_known_by_their_name_however_it_is_typed(file):
    ballots = Ballots(file)
    first, second = ballots.join("Zoë  K"), ballots.join("Bob")
    assert ballots.join(" Zoe\u0308 K ") == first
    assert (first.rater, second.rater, first.code, second.code) == (0, 1, "R01", "R02")
    assert first.secret != second.secret
    assert ballots.rater(second.secret) == second
    assert ballots.rater("") is ballots.rater("guess") is None
    ballots.close()
    assert Ballots(file).raters() == [first, second]


def test_many_may_vote_at_once(file):
    """Two connections stand for two servers, each with several threads."""
    servers = [Ballots(file), Ballots(file)]

    def votes(number):
        rater = servers[number % 2].join(f"rater {number}")
        for task in range(10):
            servers[number % 2].cast(vote(rater.rater, task))

    threads = [threading.Thread(target=votes, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(servers[0].votes()) == 80
    assert sorted(rater.rater for rater in servers[1].raters()) == list(range(8))


def test_a_file_that_is_none_of_ours_is_refused(file):
    file.write_text("no database, but long enough to be looked at " * 20)
    with pytest.raises(ResultsError, match="cannot be used"):
        Ballots(file)
    file.unlink()
    other = sqlite3.connect(file)
    other.execute("PRAGMA user_version = 7")
    other.close()
    with pytest.raises(ResultsError, match="schema version 7, expected 1"):
        Ballots(file)
