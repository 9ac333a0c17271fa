"""Each Chinese page says what its English one says; if one is changed, the message names the part of the other."""

import os
import re
from itertools import zip_longest

import pytest

from tests.pages import README, ROOT, name, tables

CHINESE = ROOT / "docs" / "zh"
PAGES = sorted(CHINESE.rglob("*.md"))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) .*$", flags=re.MULTILINE)
NAME = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
ANSWERS = {"yes": "yes", "是": "yes", "no": "no", "否": "no"}


def english(page):
    """Return the English page of a Chinese one."""
    return ROOT / "docs" / page.relative_to(CHINESE)


def figures(text):
    """Return the numbers of a text, but for those of names and links."""
    return FIGURE.findall(LINK.sub("]", NAME.sub("", text)))


def prose(page):
    return FENCED.sub("", page.read_text())


def assert_equal_parts(page, parts):
    """Compare the parts of both pages, pairs of a label and what must be equal, one after the other."""
    for theirs, own in zip_longest(parts(english(page)), parts(page)):
        label = (theirs or own)[0]
        assert own == theirs, f"{name(page)} differs from {name(english(page))} in {label}: bring it along"


def code_blocks(page):
    """Return the language and the code of each block; comments may be translated and are left out."""
    return [
        (f"code block {number}", (language, re.sub(r"(^|[ \t]+)#.*$", "", code, flags=re.MULTILINE)))
        for number, (language, code) in enumerate(FENCED.findall(page.read_text()), 1)
    ]


def table_rows(page):
    """Return of each row the names in its first cell, and what a translation keeps of every cell; heads are row 0."""
    return [
        (f"row {row} of table {number}", (NAME.findall(cells[0]), [facts(page, cell) for cell in cells]))
        for number, (heads, rows) in enumerate(tables(page), 1)
        for row, cells in enumerate([heads, *rows])
    ]


def facts(page, cell):
    """Return what a translation of a cell keeps, whatever the order of its words."""
    answer = re.match(r"\w*", cell)[0]
    return sorted(NAME.findall(cell)), sorted(figures(cell)), linked(page, cell), ANSWERS.get(answer, bool(cell))


def headings(page):
    """Return the levels of the headings."""
    return [(f"heading {number}", len(marks)) for number, marks in enumerate(HEADING.findall(prose(page)), 1)]


def sections(page):
    """Return the text before the first heading, and that below each."""
    return HEADING.split(prose(page))[::2]


def linked(page, text):
    """Return the files that a text on a page links to; for a Chinese page, its English one."""
    paths = {(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(text) if link[0] != "#"}
    return {name(english(path) if CHINESE in path.parents else path) for path in paths}


def test_there_are_chinese_pages_of_start_methods_and_results():
    assert {page.name for page in PAGES} >= {"index.md", "methods.md", "results.md"}
    assert "[中文](docs/zh/index.md)" in README.read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_both_pages_link_to_each_other_below_their_titles(page):
    other = english(page)
    for one, language, target in ((page, "English", other), (other, "中文", page)):
        link = f"[{language}]({os.path.relpath(target, one.parent)})"
        assert one.read_text().splitlines()[2] == link, f"{name(one)} should link to {name(target)} in its third line"


@pytest.mark.parametrize("page", PAGES, ids=name)
@pytest.mark.parametrize("parts", [headings, code_blocks, table_rows])
def test_headings_code_and_tables_are_those_of_the_english_page(page, parts):
    assert_equal_parts(page, parts)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_figure_name_and_link_of_the_english_page_is_told(page):
    other = english(page)
    both = zip(sections(other), sections(page), strict=False)  # the test above counts them
    for number, (theirs, own) in enumerate(both):
        place = f"{name(page)} lacks what {name(other)} tells below heading {number}"
        assert set(figures(theirs)) - set(figures(own)) == set(), place
        assert set(NAME.findall(theirs)) - set(NAME.findall(own)) == set(), place
        assert linked(other, theirs) - linked(page, own) == set(), place


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_figure_or_name_is_told_that_neither_the_english_page_nor_the_readme_has(page):
    known = english(page).read_text() + README.read_text()
    place = f"{name(page)} tells more than {name(english(page))}"
    assert set(figures(prose(page))) - set(FIGURE.findall(known)) == set(), place
    assert [one for one in NAME.findall(prose(page)) if one not in known] == [], place
