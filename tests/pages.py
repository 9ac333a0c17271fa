"""The pages of the documentation, and what stands in them."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "results" / "published" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def block_that_begins(page: Path, language: str, start: str) -> str:
    return next(block for block in blocks(page, language) if block.startswith(start))


def command_lines(page: Path) -> Iterator[str]:
    """Yield the commands of a page, one by one."""
    for block in blocks(page, "bash"):
        yield from (line.strip() for line in re.split(r"\n|&&", block.replace("\\\n", " ")))


def tables(page: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield each table of a page: its heads, and its rows as lists of cells."""
    rows: list[list[str]] = []
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            yield rows[0], rows[2:]
            rows = []


def sections(page: Path, level: int = 2) -> dict[str, str]:
    """Return the text below each heading of a level, by the heading; what stands in code blocks is no heading."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    parts = re.split(rf"^{'#' * level} (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
