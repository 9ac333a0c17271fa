"""The scores of one evaluator on one image folder while they come in: nothing that was scored is scored again."""

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, FiniteFloat

from alignbench.errors import UserError
from alignbench.files import append_json_lines, locked, with_check
from alignbench.reading import check_record
from alignbench.scoring.evidence import Evidence, add_evidence
from alignbench.store.image_records import ImageKey
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder, intact_lines
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.work_share import WorkShare

DELETE_TO_SCORE = "delete it to score its images again"


class Entry(NamedTuple):
    """A score, and the digest of the image file it was given to."""

    score: float
    digest: str


@dataclass(frozen=True)
class _Row:
    """A line of a part but for the first, which says how it was scored."""

    prompt_id: str
    image: Annotated[int, Field(ge=0, lt=2**31)]
    score: FiniteFloat
    digest: str


class ScoreTable:
    """A finished table, and the parts that processes write as they go; a kill loses at most a batch.

    Args:
        folder: the run.
        prompt_set, sampling_hash: which of its image folders.
        info: what decides a score besides image and prompt.
    """

    def __init__(self, folder: RunFolder, prompt_set: str, sampling_hash: str, info: ScoreInfo) -> None:
        self.folder, self.info = folder, info
        self.key = f"{prompt_set}/{sampling_hash}/{info.evaluator}@{info.version}"
        self.path = folder.score_file(prompt_set, sampling_hash, info.evaluator, info.version)
        self.parts = self.path.parent / "parts" / f"{info.evaluator}@{info.version}"

    @cached_property
    def known(self) -> dict[ImageKey, Entry]:
        """The scores that were there when they were first asked for.

        Raises:
            UserError: they were made in another way.
        """
        with self._alone():  # while another command joins its parts, scores are neither here nor there
            return self._read()

    def add(self, work_share: WorkShare, keys: Sequence[ImageKey], entries: Sequence[Entry]) -> None:
        """Keep the scores of some images in the part of this process.

        Raises:
            ResultsError: a score is not a finite number; none is kept.
        """
        bad = [key for key, entry in zip(keys, entries, strict=True) if not isfinite(entry.score)]
        if bad:
            raise ResultsError(
                f"{self.info.evaluator} gave {len(bad)} of {len(keys)} scores that are not finite numbers, such as "
                f"that of image {bad[0][1]} of prompt {bad[0][0]}"
            )
        rows = [
            {"prompt_id": prompt_id, "image": number, **entry._asdict()}
            for (prompt_id, number), entry in zip(keys, entries, strict=True)
        ]
        part = self.parts / f"{work_share.name}.jsonl"
        with self._alone():
            append_json_lines(part, map(with_check, rows if _has_head(part) else [self.info.record(), *rows]))

    def add_evidence(self, keys: Sequence[ImageKey], digests: Sequence[str], evidence: Sequence[Evidence]) -> None:
        """Keep what the scores of some images were made of, in a file for all processes."""
        with self._alone():
            add_evidence(self.path, keys, digests, evidence)

    def finish(self, wanted: Collection[ImageKey]) -> int:
        """Join the parts into the table if all of `wanted` have their score; return how many have none yet.

        Raises:
            UserError: scores were made in another way.
        """
        with self._alone():
            known = self._read()
            lacking = sum(key not in known for key in wanted)
            if lacking:
                return lacking
            parts = self._parts()
            if parts:
                keys, entries = list(known), list(known.values())
                table = Scores.of(
                    self.info,
                    [prompt_id for prompt_id, _ in keys],
                    [number for _, number in keys],
                    [entry.score for entry in entries],
                    [entry.digest for entry in entries],
                )
                self.folder.store(self.path, table.write)
            if not self.folder.completed("score", self.key):
                self.folder.complete("score", self.key)
            for part in parts:  # last: while they are there, a kill is made good by the next command
                part.unlink()
        return 0

    def _alone(self) -> AbstractContextManager[None]:
        """Keep commands that work on the same table from losing each other's scores."""
        return locked(self.path.parent / ".lock")

    def _read(self) -> dict[ImageKey, Entry]:
        """Return what is in the table and, later and so before it, in the parts."""
        known: dict[ImageKey, Entry] = {}
        if self.folder.recorded(self.path) is not None:  # else a kill has left it, and its parts are there still
            table = Scores.read(self.folder.verified(self.path))
            self._refuse_other(table.info, self.path)
            keys = zip(table.prompt_id.tolist(), table.image.tolist(), strict=True)
            entries = map(Entry, table.score.tolist(), table.digest.tolist())
            known.update(zip(keys, entries, strict=True))
        for part in self._parts():
            head, *rows = _read_part(part) or [self.info.record()]
            self._refuse_other(ScoreInfo(**head), part)
            known |= {(row["prompt_id"], row["image"]): Entry(row["score"], row["digest"]) for row in rows}
        return known

    def _parts(self) -> list[Path]:
        """Return the parts, the one last written to at the end: of two scores of an image, the later is right."""
        return sorted(self.parts.glob("*.jsonl"), key=lambda part: (part.stat().st_mtime_ns, part.name))

    def _refuse_other(self, info: ScoreInfo, path: os.PathLike[str]) -> None:
        if info != self.info:
            raise UserError(f"{path} was scored as {info}, expected {self.info}; delete it to score again")


def _read_part(part: Path) -> list[dict[str, Any]]:
    """Return the records of a part.

    Raises:
        ResultsError: one is not as it was written.
    """
    lines = intact_lines(part, DELETE_TO_SCORE)
    for number, line in enumerate(lines, start=1):
        check_record(ScoreInfo if number == 1 else _Row, line, f"line {number} of {part}", DELETE_TO_SCORE)
    return lines


def _has_head(part: Path) -> bool:
    """Say whether the first line of a part is there and whole."""
    if not part.exists():
        return False
    with part.open("rb") as file:
        return file.readline().endswith(b"\n")


class FrameScores:
    """Collects the scores of frames, by evaluator.

    Args:
        num_frames: of each picture: 1 for an image.
    """

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self._begun: defaultdict[tuple[str, ImageKey], list[float]] = defaultdict(list)

    def add(self, evaluator: str, key: ImageKey, score: float) -> float | None:
        """Add the score of the next frame of a picture; return that of the picture where it was the last frame."""
        scores = self._begun[evaluator, key]
        scores.append(score)
        if len(scores) < self.num_frames:
            return None
        del self._begun[evaluator, key]
        return sum(scores) / len(scores)
