"""Single images that people wanted or not, listed as Diffusion-KTO does.

Source: readme and train_kto_sd_v1.5.py of jacklishufan/diffusion-kto: a list with file_path (the program
reads file_name), caption and label (the program reads split): exclusive_win, exclusive_lose, or intersections for
images of Pick-a-Pic that won one pair and lost another.
"""

from pathlib import Path
from typing import Unpack

from alignbench.data.sources.sample_table import Rows
from alignbench.data.sources.table_source import Contents, Labelled, LabelOptions
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.text_tables import Row, stream_rows
from alignbench.errors import UserError, did_you_mean

LABELS = {
    "exclusive_win": 1.0, "1": 1.0, "1.0": 1.0, "true": 1.0,
    "exclusive_lose": 0.0, "0": 0.0, "0.0": 0.0, "false": 0.0,
    "intersections": 0.5,
    "": float("nan"),
}  # fmt: skip
COLUMNS = {"image": ("file_path", "file_name"), "prompt": ("caption", "prompt"), "label": ("label", "split")}


class LabelList(Labelled):
    """Images with their captions and labels, listed in a file beside them.

    Args:
        name: as typed in `data=`.
        path: a .csv, .tsv or .jsonl file, or a folder that holds one .csv; its images are named relative to its folder.
        options: see `alignbench.settings.data.LabelSettings`.
    """

    def __init__(self, name: str, path: str, **options: Unpack[LabelOptions]) -> None:
        super().__init__(name, options)
        found = [Path(path)] if Path(path).is_file() else sorted(Path(path).glob("*.csv"))
        if len(found) != 1 or found[0].suffix not in (".csv", ".tsv", ".jsonl"):
            raise UserError(f"data.path={path} is no .csv, .tsv or .jsonl file, and no folder with one .csv file")
        self.list = found[0]

    def read(self) -> Contents:
        store, rows = Files(self.list.parent), Rows(1)
        for row in stream_rows(self.list):
            image, prompt, label = (_cell(row, one) for one in ("image", "prompt", "label"))
            if label.lower() not in LABELS:
                raise UserError(
                    f"{row.place} has the label {label!r};{did_you_mean(label, [name for name in LABELS if name])}"
                )
            rows.add(prompt, [store.add(image)], LABELS[label.lower()])
        return Contents(rows.table(), store)


def _cell(row: Row, what: str) -> str:
    for column in COLUMNS[what]:
        if column in row.values:
            value = row.values[column]
            return value if isinstance(value, str) else str(value)  # numbers and booleans of .jsonl
    raise UserError(f"{row.place} has no column {' or '.join(COLUMNS[what])}; it has {', '.join(row.values)}")
