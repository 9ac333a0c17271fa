"""Make the pictures of the report in README and docs from the result that ships in results/published/example.

    python benchmarks/screenshots.py [--only NAME ...] [--to FOLDER]

Needs Chromium. The report is made anew from the run folders, so the pictures show the page as it is now. Pictures of
docs/reading_a_result.md have numbered marks, each at an element that a CSS selector finds; the page explains them in
numbered lists. A selector that finds nothing inside the picture stops the program.
"""

import argparse
import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown import markdown
from PIL import Image
from rich.console import Console

from alignbench.files import write_png, write_text
from alignbench.report.terminal.run_tables import print_run
from alignbench.report.write import write_report
from alignbench.store.run_folder import RunFolder

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "results" / "published" / "example"
IMAGES = ROOT / "docs" / "images"
HACKED = "direct_align-sd15_mini-7256de1b65"  # the run that the terminal's picture is of
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
REPORT, TERMINAL, MARKDOWN = "index.html", "terminal.html", "leaderboard.html"


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        size: width and height of the window, which is shown whole.
        view: what the address of the report says behind `#`.
        marks: CSS selectors; number n is drawn left of the first element that the n-th one finds.
        after: numbers that are drawn right of theirs.
        hidden: selectors of what is left out.
        num_colours: of the file; photographs need more.
    """

    size: tuple[int, int]
    view: str = ""
    marks: tuple[str, ...] = ()
    after: tuple[int, ...] = ()
    hidden: tuple[str, ...] = ()
    page: str = REPORT
    num_colours: int = 128


PICTURES = {
    "report_overview": Picture((1200, 1000)),
    "report_wins": Picture((1400, 430), "view=wins&evaluator=shapes_oracle_cleanliness@2"),
    "report_images": Picture(
        (1300, 760), "view=images&evaluator=shapes_clip@1&order=losses&method=direct_align", num_colours=192
    ),
    "report_hacking": Picture((1200, 900), "view=hacking"),
    "reading_terminal": Picture(
        (900, 720),
        page=TERMINAL,
        marks=(
            ".line:has-text('direct_align on sd15_mini: shapes')",
            ".line:has-text('% won')",
            ".line:has-text('shapes_preference ↑')",
            ".line:has-text('shapes_oracle_cleanliness ↑')",
            ".line:has-text('win rate over base in %')",
            ".line:has-text('direct_align (1 training seed)')",
            ".line:has-text('reward hacking: direct_align')",
            ".line:has-text('run folder')",
        ),
    ),
    "reading_markdown": Picture(
        (1400, 900),
        page=MARKDOWN,
        marks=(
            "p.grid",
            "th:nth-child(4)",
            "tr:has(td:text-is('base')) td:nth-child(3)",
            "tr:has(td:text-is('dpo')) td:nth-child(2)",
            "tr:has(td:text-is('direct_align')) td:nth-child(7)",
            "tr:has(td:text-is('data')) td",
            "td:last-child",
            "table ~ table tr:has(td:text-is('direct_align')) td:nth-child(5)",
        ),
    ),
    "reading_overview": Picture(
        (1200, 1680),
        hidden=(".gallery", "h3:has(+ .segments)", ".segments", ".about:has(+ .gallery)", ".notes"),
        marks=(
            ".summary",
            ".flag .lowest b",
            ".warning",
            ".verdicts li.undecided",
            ".verdicts li.mixed",
            ".verdicts li.mixed small",
            ".verdicts li.real",
            ".charts figure:nth-child(1) g.trained circle",
            ".charts figure:nth-child(4) g.weights circle",
        ),
    ),
    "reading_gains": Picture(
        (1200, 660),
        hidden=(
            ".summary",
            ".flag",
            ".warning",
            ".verdicts",
            ".charts",
            "h3:not(:has(+ .segments))",
            ".about:not(:has(+ .gallery))",
            ".notes",
        ),
        view="method=direct_align",
        marks=(".segments", ".gallery .gain.better", ".gallery .gain.worse", ".gallery .thumbnail"),
        num_colours=96,
    ),
    "reading_leaderboard": Picture(
        (1250, 900),
        "view=leaderboard",
        hidden=(".flag", ".warning"),
        after=(5,),
        marks=(
            ".segments",
            "thead th:nth-child(2)",
            "tbody tr:nth-child(2) .interval",
            "td.best .value",
            "tbody tr:nth-child(3) td:nth-child(2) sup",
            "tbody tr:nth-child(5) th",
            "tbody tr:nth-child(1) td:last-child",
            ".wide:nth-of-type(2) caption",
            ".notes",
        ),
    ),
    "reading_wins": Picture(
        (1400, 1010),
        "view=wins&evaluator=shapes_preference@1",
        after=(2,),
        marks=(
            "g.significant.trained circle",
            "g.undecided:not(.trained) .interval-line",
            ".half",
            "g.significant.trained .figure",
            ".matrix tbody tr:nth-child(6) td:nth-child(3)",
            ".matrix td.self:nth-child(2)",
            ".notes li:last-child",
        ),
    ),
    "reading_breakdown": Picture(
        (1250, 480),
        "view=groups&measure=win&evaluator=shapes_oracle_cleanliness@2",
        marks=(
            ".segments",
            "tbody tr:nth-child(1) th",
            "tbody tr:nth-child(2) th",
            "tbody tr:nth-child(3) td:nth-child(3) .interval",
            "tbody tr:nth-child(2) td:last-child",
        ),
    ),
    "reading_cost": Picture(
        (1000, 880),
        "view=cost&evaluator=shapes_annotators@2",
        marks=(
            ".front",
            "g.significant circle",
            "g.undecided.trained circle",
            "g.base line",
            "g.significant .interval-line",
            "thead th:nth-child(3)",
            "thead th:nth-child(7)",
        ),
    ),
    "reading_training": Picture(
        (1250, 1440),
        "view=training&method=direct_align+on+sd15_mini",
        marks=(
            ".segments",
            "figure:has(b:text-is('loss')) .curve",
            "figure:has(b:text-is('grad_norm')) .curve",
            "figure:has(b:text-is('reward')) .curve",
            "figure:has(b:text-is('shapes_clip')) .half",
            "figure:has(b:text-is('shapes_preference')) .kept",
            "figure:has(b:text-is('shapes_annotators')) .band",
        ),
    ),
    "reading_hacking": Picture(
        (1250, 1900),
        "view=hacking",
        hidden=(
            ".warning",
            "h3:has-text('Diversity')",
            "h3:has-text('Diversity') + .charts",
            ".over-training:not(:last-of-type)",
            ".over-training .small",
            ".charts figure:nth-child(n + 3)",
        ),
        marks=(
            ".flag .lowest b",
            ".flag span:last-child",
            ".calm",
            "h3",
            ".charts figure:nth-child(1) g:nth-of-type(2) circle",
            "table",
            ".over-training:last-of-type .curve.trained-on",
            ".over-training:last-of-type text.end.held-out:last-of-type",
            ".over-training:last-of-type .kept",
        ),
    ),
    "reading_images": Picture(
        (1250, 700),
        "view=images&evaluator=shapes_clip@1&order=losses&method=direct_align",
        after=(5,),
        marks=(
            ".choice:has([data-key=order]) span",
            ".line-head b",
            "li.line .about p",
            "li.line .tile:nth-child(2) .score",
            "li.line .tile:nth-child(7) .gain.worse",
            "li.line .tile:nth-child(6) .thumbnail",
        ),
        num_colours=160,
    ),
    "reading_runs": Picture(
        (1400, 900),
        "view=runs",
        marks=(
            "tbody .link",
            "tbody tr:nth-child(6) td:nth-child(2)",
            "td.unknown",
            "tbody tr:nth-child(6) td:nth-child(4)",
            "tbody tr:nth-child(1) td.words span",
            "td.command code",
        ),
    ),
}
# runs in the page: a circle with its number beside the first line of an element's text, or beside what has none
DRAW = """(element, [number, isAfter]) => {
  const text = document.createRange();
  text.selectNodeContents(element);
  const box = [...text.getClientRects()].find((one) => one.width > 0) ?? element.getBoundingClientRect();
  const mark = document.createElement("div");
  const left = Math.max(isAfter ? box.right + 2 : box.left - 21, 1);
  const top = Math.max(box.top + Math.min(box.height, 24) / 2 - 10, 1);
  Object.assign(mark.style, {
    position: "fixed", left: `${left}px`, top: `${top}px`, width: "20px", height: "20px", borderRadius: "50%",
    background: "#c2185b", color: "white", font: "bold 12px/20px sans-serif", textAlign: "center", zIndex: 99,
  });
  mark.textContent = number;
  document.body.append(mark);
}"""
TERMINAL_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 14px 30px; background: #fdfdfc; color: #1d2126; font: 13px/1.4 monospace; }}
.line {{ white-space: pre; }}</style>{lines}"""
MARKDOWN_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 14px 30px; background: #fdfdfc; color: #1d2126; font: 13px/1.4 sans-serif; }}
table {{ border-collapse: collapse; }} th, td {{ padding: 4px 10px 4px 22px; border: 1px solid #d8dce0; }}
</style>{text}"""


class MissingMarkError(LookupError):
    """A selector finds nothing in the picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES), metavar="NAME")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder of the pictures")
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        parser.error(f"none of {', '.join(PROGRAMS)} is on the path")
    target = arguments.to.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(EXAMPLE, "results")  # a relative folder, so that no path of this machine is in a picture
        make_pages(Path("results"))
        for name, image in screenshots(program, Path("results"), {name: PICTURES[name] for name in arguments.only}):
            write_png(target / f"{name}.png", image)
            print(f"{name}.png {os.path.getsize(target / f'{name}.png') / 1000:.0f} kB")


def make_pages(root: Path) -> None:
    """Write the report of a results folder; beside it, as pages, what the terminal prints of a run, and the tables."""
    tables = write_report(root)
    console = Console(file=io.StringIO(), width=104, record=True, force_terminal=True)
    print_run(RunFolder(root / HACKED), tables, console)
    text = console.export_html(code_format="{code}", inline_styles=True)
    lines = "".join(f'<div class="line">{line or " "}</div>' for line in text.split("\n"))
    write_text(root / TERMINAL, TERMINAL_PAGE.format(lines=lines))
    source = (root / "leaderboard.md").read_text(encoding="utf-8")
    grids = source[source.index("**Median score") : source.index("**Win rate over the start")]
    html = markdown(grids, extensions=["tables"]).replace("<p><strong>", '<p class="grid"><strong>')
    write_text(root / MARKDOWN, MARKDOWN_PAGE.format(text=html))


def screenshots(program: str, root: Path, pictures: Mapping[str, Picture]) -> Iterator[tuple[str, Image.Image]]:
    """Yield what a browser without a network shows, in few colours so that the files are small."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--disable-gpu", "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        for name, picture in pictures.items():
            width, height = picture.size
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"{(root.resolve() / picture.page).as_uri()}#{picture.view}")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(500)  # thumbnails are drawn after they were loaded
            for selector in picture.hidden:
                page.locator(selector).evaluate_all("all => all.forEach((one) => (one.style.display = 'none'))")
            draw_marks(page, name, picture)
            with Image.open(io.BytesIO(page.screenshot())) as image:
                yield name, image.convert("RGB").quantize(picture.num_colours, dither=Image.Dither.NONE)
            page.close()
        browser.close()


def draw_marks(page: "Page", name: str, picture: Picture) -> None:
    """Draw the numbers of a picture, from 1 on, each beside the first element that its selector finds.

    Raises:
        MissingMarkError: a selector finds nothing inside the window.
    """
    width, height = picture.size
    found = [page.locator(selector).first for selector in picture.marks]
    for selector, locator in zip(picture.marks, found, strict=True):
        box = locator.evaluate("it => it.getBoundingClientRect().toJSON()") if locator.count() else None
        # of what is hidden the box has neither width nor height; a straight line has one of them
        if (
            not box
            or not (box["width"] or box["height"])
            or not (0 <= box["left"] < width and 0 <= box["top"] < height - 20)
        ):
            raise MissingMarkError(f"{name}: {selector!r} finds nothing in the picture; its box is {box}")
    for number, locator in enumerate(found, start=1):
        locator.evaluate(DRAW, [number, number in picture.after])


if __name__ == "__main__":
    main()
