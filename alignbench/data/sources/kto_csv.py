"""Single images labelled as desirable or not, in the format of Diffusion-KTO.

Source: readme and train_kto_sd_v1.5.py of jacklishufan/diffusion-kto: a list with the columns file_path (its code reads
file_name), caption and label (its code reads split). The label is exclusive_win, exclusive_lose, or intersections for
images of Pick-a-Pic that won one pair and lost another.
"""

import math
from pathlib import Path
from typing import Unpack

from alignbench.data.sources.sample_table import SampleTableBuilder
from alignbench.data.sources.table_source import Contents, LabelledSource, LabelOptions
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.text_tables import TextRow, stream_rows
from alignbench.errors import UserError, did_you_mean
from alignbench.settings.section import FrameCount, Positive
from alignbench.videos import FrameSpec, frame_spec

LABELS = {
    "exclusive_win": 1.0, "1": 1.0, "1.0": 1.0, "true": 1.0,
    "exclusive_lose": 0.0, "0": 0.0, "0.0": 0.0, "false": 0.0,
    "intersections": 0.5,
    **dict.fromkeys(("", "null", "none", "nan", "inf", "-inf", "infinity", "-infinity"), math.nan),
}  # fmt: skip
COLUMNS = {"image": ("file_path", "file_name"), "prompt": ("caption", "prompt"), "label": ("label", "split")}


class LabelList(LabelledSource):
    """Images with captions and labels, listed in a file.

    Args:
        name: as typed in `data=`.
        path: a .csv, .tsv or .jsonl file, or a folder with one .csv; paths of images are relative to the file's folder.
        num_frames, fps: see `alignbench.settings.data.VideoSettings`.
        options: see `alignbench.settings.data.LabelSettings`.
    """

    def __init__(
        self,
        name: str,
        path: str,
        num_frames: FrameCount = 1,
        fps: Positive | None = None,
        **options: Unpack[LabelOptions],
    ) -> None:
        super().__init__(name, options)
        self.frames = frame_spec(num_frames, fps)
        found = [Path(path)] if Path(path).is_file() else sorted(Path(path).glob("*.csv"))
        if len(found) != 1 or found[0].suffix not in (".csv", ".tsv", ".jsonl"):
            raise UserError(f"data.path={path} is neither a .csv, .tsv or .jsonl file nor a folder with one .csv file")
        self.list = found[0]

    def read(self) -> Contents:
        return read_labels(self.list, self.frames)


def read_labels(file: Path, frames: FrameSpec | None = None) -> Contents:
    """Return the labels of a list, and the store of its images; their paths are relative to the list's folder."""
    store, rows = Files(file.parent, frames), SampleTableBuilder(1)
    for image, prompt, label in map(label_of, stream_rows(file)):
        rows.add(prompt, [store.add(image)], label)
    return Contents(rows.table(), store)


def label_of(row: TextRow) -> tuple[str, str, float]:
    """Return image, prompt and label of a row.

    Raises:
        UserError: a column is missing, or the label is unknown.
    """
    image, prompt, label = (_cell(row, one) for one in ("image", "prompt", "label"))
    if label.lower() not in LABELS:
        known = [name for name, value in LABELS.items() if not math.isnan(value)]
        raise UserError(f"{row.location} has the label {label!r};{did_you_mean(label, known)}")
    return image, prompt, LABELS[label.lower()]


def _cell(row: TextRow, what: str) -> str:
    for column in COLUMNS[what]:
        if column in row.values:
            value = row.values[column]
            return value if isinstance(value, str) else str(value)  # numbers and booleans of .jsonl
    raise UserError(f"{row.location} has no column {' or '.join(COLUMNS[what])}; it has {', '.join(row.values)}")
