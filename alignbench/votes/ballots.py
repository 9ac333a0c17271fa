"""Raters and votes in SQLite: a vote is one transaction, on the disk before anyone is told that it counts."""

import secrets
import sqlite3
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignbench.store.manifest import ResultsError

SCHEMA_VERSION = 1
MAX_NAME = 100  # signs
_SCHEMA = """
CREATE TABLE raters (
    rater INTEGER PRIMARY KEY,         -- how many came before
    name TEXT NOT NULL UNIQUE,         -- as typed; leaves the file in no export
    secret TEXT NOT NULL UNIQUE,       -- what the browser of a rater shows
    joined TEXT NOT NULL
) STRICT;
CREATE TABLE votes (
    rater INTEGER NOT NULL REFERENCES raters,
    task INTEGER NOT NULL,             -- its place in what the rater is shown
    question TEXT NOT NULL,
    prompt_id TEXT NOT NULL,
    left_run TEXT NOT NULL,            -- or the run of the one image
    right_run TEXT,
    check_kind TEXT,                   -- NULL where the vote counts
    passed INTEGER,                    -- whether the answer to a check is one of the expected
    answer TEXT NOT NULL,
    cast_at TEXT NOT NULL,             -- UTC
    PRIMARY KEY (rater, task, question)
) STRICT;
"""


@dataclass(frozen=True)
class Rater:
    """Somebody who votes."""

    rater: int
    name: str
    secret: str

    @property
    def code(self) -> str:
        """What exports call the rater."""
        return f"R{self.rater + 1:02d}"


@dataclass(frozen=True)
class Vote:
    """One answer to one question; the columns of the table `votes`."""

    rater: int
    task: int
    question: str
    prompt_id: str
    left_run: str
    right_run: str | None
    check_kind: str | None
    passed: bool | None
    answer: str
    cast_at: str = ""


class Ballots:
    """The file of one study. Threads, and other processes, may use it at once.

    Raises:
        ResultsError: the file is no such file, or another version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._errors():
            # autocommit: transactions begin and end where `_transaction` says
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            self._begin()
        except ResultsError:
            self.close()  # or it would keep others waiting
            raise

    def _begin(self) -> None:
        with self._errors():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
        with self._transaction() as cursor:
            version = cursor.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    cursor.execute(statement)
                cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        if version not in (0, SCHEMA_VERSION):
            raise ResultsError(
                f"{self.path} has schema version {version}, expected {SCHEMA_VERSION}; use what wrote it"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what SQLite raises of a damaged file as the sentence about it."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ResultsError(f"{self.path} cannot be used ({reason}); restore it or move it away") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, self._errors():
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    def join(self, name: str) -> Rater:
        """Return the rater of this name, new or known: who comes back goes on where they were."""
        name = " ".join(unicodedata.normalize("NFC", name).split())
        with self._transaction() as cursor:
            values = (name, secrets.token_urlsafe(24), _now())
            cursor.execute(
                "INSERT INTO raters SELECT count(*), ?, ?, ? FROM raters WHERE true ON CONFLICT (name) DO NOTHING",
                values,
            )
            found = cursor.execute("SELECT rater, name, secret FROM raters WHERE name = ?", (name,)).fetchone()
        return Rater(*found)

    def rater(self, secret: str) -> Rater | None:
        """Return the rater whose browser shows this secret."""
        with self._transaction() as cursor:
            found = cursor.execute("SELECT rater, name, secret FROM raters WHERE secret = ?", (secret,)).fetchone()
        return found and Rater(*found)

    def cast(self, vote: Vote) -> None:
        """Store a vote. What was answered stays answered: a second vote on the same changes nothing."""
        values = (
            vote.rater, vote.task, vote.question, vote.prompt_id, vote.left_run, vote.right_run, vote.check_kind,
            vote.passed, vote.answer, _now(),
        )  # fmt: skip
        with self._transaction() as cursor:
            cursor.execute("INSERT INTO votes VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", values)

    def withdraw(self, rater: int, task: int, question: str) -> None:
        """Take back one vote."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM votes WHERE rater = ? AND task = ? AND question = ?", (rater, task, question))

    def answered(self, rater: int) -> set[tuple[int, str]]:
        """Return task and question of each vote of a rater."""
        with self._transaction() as cursor:
            return set(cursor.execute("SELECT task, question FROM votes WHERE rater = ?", (rater,)))

    def raters(self) -> list[Rater]:
        """Return all raters in the order in which they came."""
        with self._transaction() as cursor:
            return [Rater(*row) for row in cursor.execute("SELECT rater, name, secret FROM raters ORDER BY rater")]

    def votes(self) -> Sequence[Vote]:
        """Return all votes in the order of raters, tasks and time."""
        names = [field.name for field in fields(Vote)]
        order = "ORDER BY rater, task, cast_at, question"
        with self._transaction() as cursor:
            rows = cursor.execute(f"SELECT {', '.join(names)} FROM votes {order}").fetchall()
        return [_vote(dict(zip(names, row, strict=True))) for row in rows]

    def close(self) -> None:
        """Close the file; what WAL holds is written into it."""
        with self._lock:
            self._connection.close()


def _vote(row: dict[str, Any]) -> Vote:
    passed = row.pop("passed")  # SQLite has no truth values
    return Vote(**row, passed=None if passed is None else bool(passed))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
