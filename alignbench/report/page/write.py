"""Write `index.html`, the report that people open, and the files that it loads."""

from functools import cache
from pathlib import Path

from alignbench.files import locked, write_text
from alignbench.report.display import TableSection, sections
from alignbench.report.page.hacking import hacking_entry
from alignbench.report.page.images import gallery, image_entry, section_images
from alignbench.report.page.overview import overview_entry
from alignbench.report.page.runs import run_entry
from alignbench.report.page.settings import settings_entry
from alignbench.report.page.sprites import COLUMNS, ROWS, Jobs, draw_all
from alignbench.report.page.store import PageData, Store, script_json
from alignbench.report.page.tables import reproductions_entry, section_entry
from alignbench.report.tables import Tables
from alignbench.report.verdict import LEGEND
from alignbench.store.run_folder import RunFolder

SITE = Path(__file__).parent / "site"
SCRIPTS = (  # each uses what stands before it
    "elements", "report", "state", "table", "charts", "curves", "views/runs", "views/leaderboard", "views/wins",
    "views/overview", "views/groups", "views/settings", "views/cost", "views/training", "views/hacking", "evidence",
    "prompt", "views/images", "main",
)  # fmt: skip


def write_page(root: Path, tables: Tables) -> Path:
    """Write the page of all runs under a results root; return it. The same inputs give the same bytes.

    Thumbnails and data that an earlier report wrote are used again where they show the same; those that nothing shows
    any more are removed.
    """
    root = Path(root)
    path = root / "index.html"
    with locked(root / "report" / ".lock"):  # or one of two commands would remove what the other shows
        store, jobs = Store(root), Jobs()
        content = {
            "sections": [_section(tables, section, store, jobs) for section in sections(tables)],
            "runs": [
                run_entry(RunFolder(root / name), store, tables.diagnostics, label)
                for name, label in tables.labels.items()
            ],
            "sprite": {"columns": COLUMNS, "rows": ROWS},
            "legend": LEGEND,
            "leftOut": tables.left_out_told,
            "reproductions": reproductions_entry(tables),
        }
        draw_all(store, jobs)
        write_text(path, _page(content, title=root.resolve().name))
        store.prune()
    return path


def _section(tables: Tables, section: TableSection, store: Store, jobs: Jobs) -> PageData:
    images = section_images(tables, section, store, jobs)
    return {
        **section_entry(tables, section, store),
        **hacking_entry(tables, section),
        **overview_entry(tables, section),
        **settings_entry(tables, section),
        "gallery": gallery(section, images),
        "images": image_entry(section, images, store),
    }


def _page(content: object, title: str) -> str:
    from jinja2 import Template

    template = Template((SITE / "page.html.jinja").read_text(encoding="utf-8"), autoescape=True)
    return template.render(title=title, style=_style(), script=_script(), content=script_json(content))


@cache
def _style() -> str:
    return (SITE / "page.css").read_text(encoding="utf-8")


@cache
def _script() -> str:
    """Return the page's program: its files one after another, in a scope of their own."""
    parts = [(SITE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(['(() => {\n"use strict";', *parts, "})();"])
