"""Images with captions: for supervised fine-tuning, and for methods that need real photographs."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Unpack

from alignbench.data.sources.row_filters import unread
from alignbench.data.sources.sample_table import SampleTableBuilder
from alignbench.data.sources.table_source import CaptionedSource, Contents, TableOptions
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.text_tables import TextRow, read_text, stream_rows
from alignbench.errors import UserError
from alignbench.images import SUFFIXES
from alignbench.settings.section import FrameCount, Positive
from alignbench.videos import FILMS, FrameSpec, frame_spec

LISTS = ("metadata.jsonl", "metadata.csv")
UNKNOWN = float("nan")  # no label


class CaptionFolder(CaptionedSource):
    """A folder of images, each with a caption.

    Either metadata.jsonl or metadata.csv lists the images (columns file_name and text, as in the image folders of
    `datasets`), or each image has a text file of the same name beside it (cat.jpg, cat.txt), at any depth. Images
    without a caption, captions without an image, and other files are left out and counted; hidden files are not.

    Args:
        name: as typed in `data=`.
        path: the folder.
        num_frames, fps: see `alignbench.settings.data.VideoSettings`.
        options: see `alignbench.settings.data.RowSettings`.
    """

    def __init__(
        self,
        name: str,
        path: str,
        num_frames: FrameCount = 1,
        fps: Positive | None = None,
        **options: Unpack[TableOptions],
    ) -> None:
        super().__init__(name, options)
        self.frames = frame_spec(num_frames, fps)
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise UserError(f"data.path={path} is not a folder")

    def read(self) -> Contents:
        found = [self.folder / name for name in LISTS if (self.folder / name).is_file()]
        if len(found) > 1:
            raise UserError(f"{self.folder} holds both {' and '.join(LISTS)}; keep one")
        if found:
            return read_captions(found[0], self.frames)
        return _contents(Files(self.folder, self.frames), self._with_text_files())

    def _with_text_files(self) -> Iterator[tuple[str, str]]:
        # a link to nowhere is no folder either, and counts as a missing image
        files = sorted(file for file in self.folder.rglob("*") if not file.is_dir() and not file.name.startswith("."))
        captions = {file for file in files if file.suffix == ".txt"}
        suffixes = SUFFIXES if self.frames is None else (*SUFFIXES, *FILMS)
        others = [file for file in files if file not in captions]
        for file in others:
            caption = file.with_suffix(".txt")
            if file.suffix.lower() not in suffixes:
                self.num_filtered[unread(file.name)] += 1
            elif caption in captions:
                yield file.relative_to(self.folder).as_posix(), read_text(caption).strip()
            else:
                self.num_filtered["no caption"] += 1
        if lonely := len(captions - {file.with_suffix(".txt") for file in others}):
            self.num_filtered["caption without an image"] += lonely


def read_captions(file: Path, frames: FrameSpec | None = None) -> Contents:
    """Return the captions of a list, and the store of its images; their paths are relative to the list's folder."""
    return _contents(Files(file.parent, frames), map(caption_of, stream_rows(file)))


def caption_of(row: TextRow) -> tuple[str, str]:
    """Return image and caption of a row.

    Raises:
        UserError: one of them is no text.
    """
    return row.text("file_name"), row.text("text")


def _contents(store: Files, captions: Iterable[tuple[str, str]]) -> Contents:
    rows = SampleTableBuilder(1)
    for image, caption in captions:
        rows.add(caption, [store.add(image)], UNKNOWN)
    return Contents(rows.table(), store)
