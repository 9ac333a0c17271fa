"""Images with captions and nothing else: for supervised tuning, and for methods that need real photographs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from alignbench.data.existing_images.folders import IMAGE_SUFFIXES
from alignbench.data.sources.sample_table import Rows
from alignbench.data.sources.table_source import Captioned, Contents, CorpusOptions
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.text_tables import read_text, stream_rows
from alignbench.errors import UserError

LISTS = ("metadata.jsonl", "metadata.csv")
UNKNOWN = float("nan")  # nobody said whether they wanted it


class CaptionFolder(Captioned):
    """A folder of images with a caption each.

    Either metadata.jsonl or metadata.csv lists them (file_name and text, as the image folders of `datasets`), or each
    image has a text file of its own name (cat.jpg, cat.txt) beside it, in any folder below. Images without caption are
    dropped and counted.

    Args:
        name: as typed in `data=`.
        path: the folder.
        options: see `alignbench.settings.data.RowSettings`.
    """

    def __init__(self, name: str, path: str, **options: Unpack[CorpusOptions]) -> None:
        super().__init__(name, options)
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise UserError(f"data.path={path} is no folder")

    def read(self) -> Contents:
        store, rows = Files(self.folder), Rows(1)
        found = [self.folder / name for name in LISTS if (self.folder / name).is_file()]
        if len(found) > 1:
            raise UserError(f"{self.folder} holds both {' and '.join(LISTS)}; keep one")
        for image, caption in self._listed(found[0]) if found else self._beside():
            rows.add(caption, [store.add(image)], UNKNOWN)
        return Contents(rows.table(), store)

    def _listed(self, file: Path) -> Iterator[tuple[str, str]]:
        for row in stream_rows(file):
            yield row.text("file_name"), row.text("text")

    def _beside(self) -> Iterator[tuple[str, str]]:
        images = sorted(file for file in self.folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        for image in images:
            caption = image.with_suffix(".txt")
            if caption.is_file():
                yield image.relative_to(self.folder).as_posix(), read_text(caption).strip()
            else:
                self.dropped["no caption"] += 1
