"""The report shows the verdicts of `python -m alignbench.reproduce` on the runs that are in it."""

from dataclasses import replace

import pytest

from alignbench.report.further_tables.reproductions import TITLE
from alignbench.report.write import write_report
from tests.report.test_reproduced import RECORD

LINE = "row: reproduced | pickscore median | 22.08 | 22 [21.9, 22.1] | -0.08 | 0.15 | reproduced |"


@pytest.fixture
def root(world, monkeypatch):
    monkeypatch.setattr("alignbench.report.write._write_charts", lambda *_: None)
    for method in ("base", "dpo"):
        world.run(method, [1, 2, 3, 4])
    replace(RECORD, run="dpo-sd15_mini-r0").write(world.root)
    return world.root


def test_verdicts_are_in_the_tables_and_on_the_page(root):
    replace(RECORD, row="gone", run="a-run-that-is-gone").write(root)
    (root / "reproductions" / "damaged.json").write_text("{")
    write_report(root, 20)
    text = (root / "leaderboard.md").read_text().replace("\\", "")
    assert LINE in text
    assert "| row: reproduced | clip mean | 0.3 | 0.3 | +0 |  | not comparable |" in text
    assert "| row: reproduced | hpsv2_1 median | 29.3 |  |  |  | not measured |" in text
    assert "gone" not in text
    assert "reproductions/damaged.json is left out of this report" in text
    page = (root / "index.html").read_text()
    assert TITLE in page
    assert "22 [21.9, 22.1]" in page


def test_without_verdicts_nothing_is_said(root):
    for file in (root / "reproductions").iterdir():
        file.unlink()
    write_report(root, 20)
    assert TITLE not in (root / "leaderboard.md").read_text()


@pytest.mark.matrix
def test_the_start_page_shows_the_verdicts(root, window):
    expect = pytest.importorskip("playwright.sync_api").expect
    write_report(root, 20)
    window.page.goto((root / "index.html").as_uri())
    table = window.page.locator("section.reproductions table")
    expect(table).to_contain_text(TITLE)
    expect(table.locator("tbody tr").first).to_contain_text("[21.9, 22.1]")
