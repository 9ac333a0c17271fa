"""The pictures of the report are made by a program from the result that ships, and each number is explained."""

import re
import sys

import pytest
from PIL import Image

from alignbench.report.hacking import findings
from alignbench.report.tables import build
from benchmarks import screenshots
from benchmarks.screenshots import EXAMPLE, IMAGES, PICTURES, MissingMarkError, Picture
from tests.pages import ROOT

PAGE = ROOT / "docs" / "reading_a_result.md"
MAX_BYTES = 150_000


def explained():
    """Return the numbers of the list below each picture of the page, by the picture."""
    parts = re.split(r"^!\[[^]]*\]\(images/(\w+)\.png\)$", PAGE.read_text(), flags=re.MULTILINE)
    lists = (re.match(r"\n+((?:(?:\d+\.|  ).*\n)+)", part) for part in parts[2::2])
    numbers = [re.findall(r"^(\d+)\.", found[1], flags=re.MULTILINE) if found else [] for found in lists]
    return {name: [int(number) for number in of] for name, of in zip(parts[1::2], numbers, strict=True)}


def test_every_mark_of_a_picture_is_explained_below_it_and_every_number_has_a_mark():
    marked = {name: list(range(1, len(one.marks) + 1)) for name, one in PICTURES.items() if one.marks}
    assert explained() == marked


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_there_and_small(name):
    file = IMAGES / f"{name}.png"
    assert file.stat().st_size < MAX_BYTES
    with Image.open(file) as picture:
        assert picture.size == PICTURES[name].size


def test_the_pages_show_every_picture():
    pages = "".join(file.read_text() for file in (ROOT / "README.md", ROOT / "docs" / "report.md", PAGE))
    assert set(re.findall(r"images/((?:report|reading)_\w+)\.png", pages)) == set(PICTURES)


def test_the_result_that_ships_has_what_the_page_speaks_of():
    tables = build(EXAMPLE, num_resamples=50)
    assert {row["method"] for row in tables.leaderboard} == {
        "base", "data", "sft", "dpo", "direct_align", "direct_align_slow", "direct_align_of_sft",
    }  # fmt: skip
    assert [one.method for one in findings(tables)] == ["direct_align", "direct_align_slow"]
    assert {row["start"] for row in tables.leaderboard} == {None, "sft"}


def test_no_path_of_a_machine_is_in_the_result_that_ships():
    texts = [*EXAMPLE.rglob("*.json"), *EXAMPLE.rglob("*.jsonl"), *EXAMPLE.rglob("*.yaml")]
    assert texts
    assert not [file.name for file in texts if re.search(r'[" =]/\w+/', file.read_text())]


def test_marks_stand_left_of_what_their_selectors_find(window):
    window.page.set_viewport_size({"width": 300, "height": 200})
    window.page.set_content("<p style='margin: 50px 100px'>text</p><i>end</i>")
    screenshots.draw_marks(window.page, "trial", Picture((300, 200), marks=("p", "i"), after=(2,)))
    marks = window.page.locator("div").all()
    assert [mark.text_content() for mark in marks] == ["1", "2"]
    boxes = [mark.bounding_box() for mark in marks]
    left, right = (window.page.locator(name).bounding_box() for name in ("p", "i"))
    assert boxes[0]["x"] + boxes[0]["width"] == pytest.approx(left["x"] - 1, abs=1)
    assert boxes[1]["x"] == pytest.approx(right["x"] + right["width"] + 2, abs=1)


@pytest.mark.parametrize("selector", [".absent", ".hidden", ".below"])
def test_a_selector_that_finds_nothing_in_the_picture_is_an_error(window, selector):
    window.page.set_content("<p class='hidden' style='display: none'>a</p><p class='below' style='margin: 900px'>b</p>")
    with pytest.raises(MissingMarkError, match=rf"trial: '{selector}' finds nothing in the picture"):
        screenshots.draw_marks(window.page, "trial", Picture((300, 200), marks=(selector,)))


def test_without_a_browser_the_program_says_which_it_looked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["screenshots.py"])
    monkeypatch.setattr(screenshots.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        screenshots.main()
    assert "none of chromium, chromium-browser, google-chrome is on the path" in capsys.readouterr().err
