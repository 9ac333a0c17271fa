"""The view Settings in a browser: the unit of the budget decides which setting is best."""

import pytest

from alignbench.report.page.write import write_page
from alignbench.report.write import write_report


@pytest.fixture(scope="module")
def expect():
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def page(window, swept):
    tables = write_report(swept.root, num_resamples=50)
    window.page.goto(f"{write_page(swept.root, tables).as_uri()}#view=settings")
    return window.page


def test_the_unit_that_is_pressed_decides_the_best_setting(page, window, expect):
    first = page.locator("tbody tr").first
    expect(page.locator("caption").first).to_contain_text("within 1,000 network passes")
    expect(first.locator("td").nth(1)).to_have_text("lr=1e-4 steps=10")
    page.get_by_role("button", name="any budget").click()
    expect(page.locator("caption").first).to_contain_text("at any budget")
    expect(first.locator("td").nth(1)).to_have_text("lr=1e-4 steps=90")
    assert "unit=any" in page.url
    assert window.errors == []


def test_each_point_of_a_curve_says_its_recipe_and_win_rate(page, expect):
    expect(page.locator("figure")).to_have_count(2)
    expect(page.locator("figure").first.locator("circle title")).to_have_count(0)
    titles = page.locator("figure").first.locator("title").all_text_contents()
    assert [title.partition(" [")[0] for title in titles] == [
        "dpo lr=1e-5 steps=10: 62.5 %", "dpo lr=1e-4 steps=10: 82.5 %", "dpo lr=0.001 steps=10: 22.5 %",
    ]  # fmt: skip
