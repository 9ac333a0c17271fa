"""The table of rows in docs/reproducing.md, made from the row files.

`python -m alignbench.reproduce.page` writes it anew between its two marks, `<!-- rows -->` and `<!-- end -->`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from alignbench.reproduce.listing import hours, printed
from alignbench.reproduce.rows import Row, figures, read_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reproducing.md"
NUM_SHOWN = 5
HEAD = "| row | paper, table | model, method | expected | device hours | settings |\n|---|---|---|---|---|---|"


def main() -> None:
    """Write the table of the page anew."""
    PAGE.write_text(with_rows(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_rows(page: str) -> str:
    """Return the page with the rows as they are."""
    table = "\n".join([HEAD, *lines(read_rows())])
    return re.sub(r"(?<=<!-- rows -->\n\n).*?(?=\n\n<!-- end -->)", lambda _: table, page, flags=re.DOTALL)


def lines(rows: dict[str, Row]) -> Iterator[str]:
    """Yield the line of each row."""
    for row in rows.values():
        told = ", ".join(f"{one.printed.evaluator} {printed(one)}" for one in figures(row)[:NUM_SHOWN])
        method = f"{row.method}, {row.variant}" if row.variant else row.method
        where = f"{row.paper}, {row.table}; {row.prompts}"
        settings = f"[{row.experiment}](../conf/experiment/{row.experiment}.yaml)"
        yield f"| `{row.id}` | {where} | {row.model}, {method} | {told} | {hours(row)} | {settings} |"


if __name__ == "__main__":
    main()
