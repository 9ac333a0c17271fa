"""HPDv2: human preferences between images of several models for one prompt.

Source: Wu et al. 2023 (arXiv 2306.09341). The layout is that of the README of tgxs002/HPSv2: a folder holds train/,
test/, train.json and test.json. train.json is a list of {prompt, image_path (called file_path in the README),
human_preference (1 for the preferred image, else 0), user_hash}; test.json is a list of {prompt, image_path, rank (1 is
best, an average over annotators)}. An entry of train.json has two images, an entry of test.json has several.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

from alignbench.data.sources.labels import number_or_nan
from alignbench.data.sources.local import ranked
from alignbench.data.sources.pair_table_source import PairOptions, PairTableSource
from alignbench.data.sources.sample_table import SampleTableBuilder
from alignbench.data.sources.table_source import Contents
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.text_tables import TextRow, stream_json_list
from alignbench.errors import UserError


class HPDv2(PairTableSource):
    """The annotations and images of one published part of HPDv2.

    Args:
        name: as typed in `data=`.
        path: the folder that holds train.json and train/.
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
        store, rows = Files(self.folder / self.part), SampleTableBuilder(2)
        for row in stream_json_list(self.list):
            prompt = row.text("prompt")
            for pair, label in _labelled(row):
                rows.add(prompt, map(store.add, pair), label)
        return Contents(rows.table(), store)


def _labelled(row: TextRow) -> Iterator[tuple[tuple[str, str], float]]:
    images = _list(row, "image_path" if "image_path" in row.values else "file_path", str)
    by_choice = "human_preference" in row.values
    grades = _list(row, "human_preference" if by_choice else "rank", int | float | None)
    if len(images) != len(grades):
        raise UserError(f"{row.location} has {len(images)} images and {len(grades)} grades")
    return ranked(images, [number_or_nan(grade) for grade in grades], low_is_best=not by_choice)


def _list(row: TextRow, column: str, kind: Any) -> list[Any]:
    values = row.values.get(column)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise UserError(f'{row.location} has no list of {"texts" if kind is str else "numbers"} in column "{column}"')
    return values
