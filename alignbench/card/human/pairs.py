"""Test annotations of two images each: Pick-a-Pic, GenAI-Bench of Jiang et al., and Multimodal RewardBench 2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alignbench.card.human.records import HumanPairs, Record, files_in
from alignbench.card.rules import BOTH_BAD, BOTH_GOOD, FIRST, SECOND
from alignbench.errors import UserError
from alignbench.reading import read_json_object

FIRST_BETTER, SECOND_BETTER, TIE = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 0.5])
VOTES = {  # of GenAI-Bench
    "leftvote": (FIRST, FIRST_BETTER), "rightvote": (SECOND, SECOND_BETTER),
    "tievote": (BOTH_GOOD, TIE), "bothbad_vote": (BOTH_BAD, TIE),
}  # fmt: skip


class PickAPicTest(HumanPairs):
    """Pairs of Pick-a-Pic, of which test_unique has 500 with one pair a prompt.

    Args:
        path: a .parquet file of the split, or a folder of them.

    Source: Kirstain et al. 2023 (arXiv 2305.01569).
    """

    name: ClassVar[str] = "pickapic"
    published: ClassVar[str] = "2023-05"
    own_rule: ClassVar[str] = "pickscore"
    in_domain: ClassVar[tuple[str, ...]] = ("pickscore",)

    def __init__(self, path: str) -> None:
        self.path = _tables_at(path, "human_pairs.pickapic.path")

    def read(self) -> list[Record]:
        found = []
        for row in _rows(self.path, ("caption", "jpg_0", "jpg_1", "label_0")):
            label = row["label_0"]
            if label not in (0, 0.5, 1):
                raise UserError(f"{row['where']} has the label_0 {label}; expected 0, 0.5 or 1")
            found.append(Record(row["caption"], (row["jpg_0"], row["jpg_1"]), np.array([label, 1 - label], np.float64)))
        return found


class GenAIBenchJiang(HumanPairs):
    """The image votes of GenAI-Bench of Jiang et al.: left, right, both good, both bad.

    Args:
        path: a .parquet file of image_generation, or a folder of them.

    Source: Jiang et al. 2024 (arXiv 2406.04485), TIGER-AI-Lab/GenAI-Bench.
    """

    name: ClassVar[str] = "genai_bench_jiang"
    published: ClassVar[str] = "2024-06"
    own_rule: ClassVar[str] = "genai_bench_jiang"

    def __init__(self, path: str) -> None:
        self.path = _tables_at(path, "human_pairs.genai_bench_jiang.path")

    def read(self) -> list[Record]:
        found = []
        for row in _rows(self.path, ("prompt", "left_image", "right_image", "vote_type")):
            if row["vote_type"] not in VOTES:
                raise UserError(
                    f"{row['where']} has the vote_type {row['vote_type']!r}; expected one of {', '.join(VOTES)}"
                )
            vote, worth = VOTES[row["vote_type"]]
            found.append(Record(row["prompt"], (row["left_image"], row["right_image"]), worth, vote=vote))
        return found


class MMRB2(HumanPairs):
    """The text-to-image pairs of Multimodal RewardBench 2: 1,000 pairs of current models (CC BY-NC 4.0).

    Args:
        path: t2i.json of facebookresearch/MMRB2.
        images: folder that its folder images is in.

    Source: facebookresearch/MMRB2 (arXiv 2512.16899).
    """

    name: ClassVar[str] = "mmrb2"
    published: ClassVar[str] = "2025-12"
    own_rule: ClassVar[str] = "mmrb2"

    def __init__(self, path: str, images: str) -> None:
        self.path, self.folder = Path(path), Path(images)
        if not self.path.is_file():
            raise UserError(f"human_pairs.mmrb2.path={path} does not exist; expected t2i.json of MMRB2")

    def read(self) -> list[Record]:
        pairs = read_json_object(self.path).get("pairs")
        if not isinstance(pairs, list):
            raise UserError(f'{self.path} has no list "pairs", as t2i.json of MMRB2 has')
        found = []
        for number, pair in enumerate(pairs, start=1):
            where = f"pair {number} of {self.path}"
            if not isinstance(pair, dict) or pair.get("chosen") not in ("A", "B"):
                raise UserError(f'{where} has no "chosen" that is A or B')
            prompt = " ".join(_contents(pair.get("prompt_content"), "text", where))
            names = [_contents(_response(pair, side), "image", where) for side in ("response_a", "response_b")]
            if not all(len(one) == 1 for one in names):
                raise UserError(f"{where} has not one image in each response")
            files = files_in(self.folder, [one[0] for one in names], "human_pairs.mmrb2.images")
            worth = FIRST_BETTER if pair["chosen"] == "A" else SECOND_BETTER
            found.append(Record(prompt, files, worth, group=str(pair.get("prompt_source", ""))))
        return found


def _response(pair: dict[str, Any], side: str) -> Any:
    response = pair.get(side)
    return response.get("response_content") if isinstance(response, dict) else None


def _contents(parts: Any, kind: str, where: str) -> list[str]:
    """Return the parts of one kind of a list of (kind, content)."""
    if not isinstance(parts, list) or not all(
        isinstance(one, list) and len(one) == 2 and all(isinstance(text, str) for text in one) for one in parts
    ):
        raise UserError(f"{where} has no list of text and images where one is expected")
    return [content for which, content in parts if which == kind]


def _tables_at(path: str, setting: str) -> Path:
    found = Path(path)
    if not found.is_file() and not (found.is_dir() and any(found.glob("*.parquet"))):
        raise UserError(f"{setting}={path} is no .parquet file and no folder that holds any")
    return found


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the rows of tables; images are the bytes of their files."""
    from pyarrow import parquet

    from alignbench.reading import parquet_errors

    for file in [path] if path.is_file() else sorted(path.glob("*.parquet")):
        with parquet_errors(file), parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if missing := [name for name in columns if name not in names]:
                raise UserError(f"{file} lacks the columns {', '.join(missing)}")
            rows = [row for batch in table.iter_batches(64, columns=list(columns)) for row in batch.to_pylist()]
        for number, row in enumerate(rows, start=1):
            where = f"row {number} of {file}"
            for name, value in row.items():
                content = value.get("bytes") if isinstance(value, dict) else value
                if content is None:
                    raise UserError(f"{where} has nothing in column {name}")
                row[name] = content
            yield row | {"where": where}
