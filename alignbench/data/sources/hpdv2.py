"""HPDv2: human preference choices on images of several models for one prompt.

Source: Wu et al. 2023 (arXiv 2306.09341); the layout is that of the README of tgxs002/HPSv2: beside the folders train/
and test/ lie train.json, a list of {prompt, image_path (called file_path in the README), human_preference (1 for the
image that was preferred, else 0), user_hash}, and test.json, a list of {prompt, image_path, rank (1 is best, an average
over annotators)}. Each entry of train.json has two images, of test.json several.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

from alignbench.data.sources.local import ranked
from alignbench.data.sources.pair_table_source import Paired, PairOptions
from alignbench.data.sources.sample_table import Rows
from alignbench.data.sources.table_source import Contents
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.text_tables import Row, stream_json_list
from alignbench.errors import UserError


class HPDv2(Paired):
    """The annotations of HPDv2 with its images, of one published part.

    Args:
        name: as typed in `data=`.
        path: the folder of train.json and train/.
        part: `train` or `test`.
        options: see `alignbench.settings.data.PairSettings`.
    """

    def __init__(self, name: str, path: str, part: str, **options: Unpack[PairOptions]) -> None:
        super().__init__(name, options)
        self.folder, self.part = Path(path), part
        self.list = self.folder / f"{part}.json"
        if not self.list.is_file():
            raise UserError(f"data.path={path} holds no {part}.json, the annotations of HPDv2")
        if not (self.folder / part).is_dir():
            raise UserError(f"data.path={path} holds no folder {part} with the images of HPDv2; unpack {part}.tar.gz")

    def read(self) -> Contents:
        store, rows = Files(self.folder / self.part), Rows(2)
        for row in stream_json_list(self.list):
            prompt = row.text("prompt")
            for pair, label in _judged(row):
                rows.add(prompt, map(store.add, pair), label)
        return Contents(rows.table(), store)


def _judged(row: Row) -> Iterator[tuple[tuple[str, str], float]]:
    images = _list(row, "image_path" if "image_path" in row.values else "file_path", str)
    by_choice = "human_preference" in row.values
    grades = _list(row, "human_preference" if by_choice else "rank", int | float)
    if len(images) != len(grades):
        raise UserError(f"{row.place} has {len(images)} images and {len(grades)} grades")
    return ranked(images, grades, low_is_best=not by_choice)


def _list(row: Row, column: str, kind: Any) -> list[Any]:
    values = row.values.get(column)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise UserError(f'{row.place} has no list of {"texts" if kind is str else "numbers"} under "{column}"')
    return values
