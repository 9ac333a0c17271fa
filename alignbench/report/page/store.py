"""Keep the files that the page loads: each is named by what it holds, so that it is written once and never stale."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alignbench.files import write_text

PageData = dict[str, Any]  # one object of the JSON that the page reads

DATA, THUMBNAILS = "report/data", "report/thumbnails"  # nothing else lies in these folders


class Store:
    """The files of one report.

    A page that is open while the report is made anew asks for files that may be gone, but never reads those of another
    report: a name stands for one content.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.kept: set[str] = set()

    def script(self, stem: str, value: Any) -> str:
        """Keep a value for the page to load; return the address, relative to the results root.

        It is a script because a page that was opened from a file may not read others in any other way.
        """
        text = f"document.currentScript.receive({script_json(value)});\n"
        name = f"{DATA}/{stem}-{_digest(text)}.js"
        if not self.holds(name):
            write_text(self.root / name, text)
        return quote(name)

    def thumbnails(self, content: Any, suffix: str = "jpg") -> str:
        """Return the name of the picture file that shows `content`, relative to the results root."""
        return f"{THUMBNAILS}/{_digest(script_json(content))}.{suffix}"

    def holds(self, name: str) -> bool:
        """Keep a file, and say whether it is there already."""
        self.kept.add(name)
        return (self.root / name).exists()

    def prune(self) -> None:
        """Remove what this report does not show."""
        for file in self._files():
            if file.relative_to(self.root).as_posix() not in self.kept:
                file.unlink()

    def _files(self) -> Iterator[Path]:
        for folder, ending in ((DATA, "js"), (THUMBNAILS, "jpg"), (THUMBNAILS, "webp")):
            yield from (file for file in (self.root / folder).glob(f"*.{ending}") if not file.name.startswith("."))


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a script of a page, whatever the texts in it; NaN and infinity become null."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)  # all but ASCII is escaped: U+2028 is too
    return text.replace("<", "\\u003c")  # or `</script>` and `<!--` would end or hide it


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(entry) for entry in value]
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
