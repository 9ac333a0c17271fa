"""C5 and C6: the start page of the report and what all views share, in a real browser.

C5: the page begins with what happened, in words and images. C6: narrow windows, paper, and dialogs in the address.
One page is opened for most tests.
"""

import re
from dataclasses import replace
from urllib.parse import parse_qs

import pytest
from PIL import Image, ImageOps

from alignbench.report.display import sections
from alignbench.report.page.write import write_page
from alignbench.report.tables import build
from alignbench.report.verdict import summary, verdicts
from tests.report.conftest import World

NUM = 40
PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(NUM)}
GROUPS = {prompt_id: (("even", "odd")[i % 2],) for i, prompt_id in enumerate(PROMPTS)}
LONG = "a_method_with_a_name_that_nobody_would_type_twice"
EVALUATORS = ("reward", "realism", "cleanliness", "human")
METHODS = {  # gains by these evaluators
    "base": (0.0, 0.0, 0.0, 0.0),
    "data": (0.0, 0.2, 0.2, 0.0),
    "srpo": (0.0, 0.1, -0.1, 0.001),
    LONG: (0.1, -0.1, 0.0, 0.0),
}
COMMAND = "python -m alignbench method=srpo model=sd15_mini 'name=a b'"
VIEWS = ("overview", "leaderboard", "wins", "groups", "cost", "training", "hacking", "images", "runs")
PAPER = 1030  # pixels between the margins of A4 in landscape


def add(world, method, colour, gains, seed=0, groups=GROUPS):
    trained_on = ["reward"] if method in ("srpo", LONG) else []
    for evaluator, gain in zip(EVALUATORS, gains, strict=True):
        wobble = [0.01 * (i % 7 - 3) * (method != "base") for i in range(NUM)]
        scores = [0.2 + 0.001 * (i * 7 % NUM) + gain + wobble[i] for i in range(NUM)]
        options = {"prompts": PROMPTS, "groups": groups, "picture": colour, "trained_on": trained_on}
        folder = world.run(method, scores, evaluator=evaluator, seed=seed, **options)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Base, real images, a method that gains at a price, and one that hacks its reward; the page and its tables."""
    world = World(tmp_path_factory.mktemp("overview") / "results")
    for (method, gains), colour in zip(METHODS.items(), ("red", "gray", "blue", "green"), strict=True):
        folder = add(world, method, colour, gains, seed=None if method == "data" else 0)
        for file in folder.path.glob("images/*/*/*.png"):  # of one colour alone, they would not be pictures on paper
            ImageOps.expand(Image.new("RGB", (56, 56), colour), 4, "white").save(file)
        if method == "srpo":
            budget = replace(folder.manifest.budget, network_passes=24000, device_hours=0.0312)
            folder.update(started="2026-01-31 18:05", command=COMMAND, budget=budget)
    tables = build(world.root, 200)
    return write_page(world.root, tables), tables


@pytest.fixture(scope="module")
def page(browser, report):
    """One page for all tests of this file, which go to the view they need."""
    context = browser.new_context()
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(report[0].as_uri())
    yield page
    context.close()
    assert page.errors == []


@pytest.fixture
def expect():
    """Waits until what is said holds: `playwright.sync_api.expect`."""
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def to(page, report, expect):
    """Go to a view; `to("runs", run=NAME)` adds to the address."""

    def go(view="overview", **values):
        page.goto("about:blank")
        page.goto(f"{report[0].as_uri()}#view={view}" + "".join(f"&{key}={value}" for key, value in values.items()))
        expect(page.locator("nav [aria-current]")).to_have_count(1)
        expect(page.locator("main > *").first).to_be_attached()
        return page

    return go


def address(page):
    return {key: value for key, [value] in parse_qs(page.url.partition("#")[2]).items()}


# ---- the Overview


def test_the_page_begins_with_what_happened_in_the_words_of_the_tables(page, report, expect):
    path, tables = report
    page.goto("about:blank")
    page.goto(path.as_uri())
    [section] = sections(tables)
    told = verdicts(tables, section)
    assert page.locator("main p").first.text_content() == summary(told)
    assert summary(told).startswith("Better than base on some evaluators, worse on others: srpo. Worse than base: ")
    items = [re.sub(r"\s+", " ", text) for text in page.locator(".verdicts li p").all_text_contents()]
    short = f"{LONG[:12]}…{LONG[-11:]}"
    assert items == [str(one).replace(LONG, short) for one in told]
    [of_srpo] = [text for text in items if text.startswith("srpo (1 training seed): better on realism")]
    assert "at the price of cleanliness" in of_srpo
    assert "people: cannot tell" in of_srpo
    cost = page.locator(".verdicts li").filter(has_text="srpo (1").locator("small")
    expect(cost).to_have_text("24,000 network passes, 2 min 00 s of training, 0.03 device hours")


def test_what_was_flagged_stands_on_the_overview(to, expect):
    page = to()
    expect(page.locator(".flag")).to_contain_text(f"reward hacking: {LONG} on sd15_mini")
    place = page.evaluate(
        "document.querySelector('.flag').compareDocumentPosition(document.querySelector('.verdicts'))"
    )
    assert place == 4, "before the verdicts"


def test_the_win_charts_have_base_at_50(to, expect):
    page = to()
    charts = page.locator(".charts figure")
    expect(charts.locator("figcaption b")).to_have_text([f"{name} ↑" for name in sorted(EVALUATORS)])
    rows = charts.first.locator("g")
    figures = {
        row.locator("text").first.text_content(): row.locator("text.figure").text_content() for row in rows.all()
    }
    assert figures["base"] == "50"
    assert set(figures) > {"base", "srpo", "data"}
    middle = charts.first.locator("line.half").get_attribute("x1")
    base = next(row for row in rows.all() if row.locator("text").first.text_content() == "base")
    assert base.locator("circle").get_attribute("cx") == middle


def test_six_images_stand_beside_those_of_base(to, page, expect, tmp_path):
    to()
    pairs = page.locator(".gallery figure")
    expect(pairs).to_have_count(6)
    gains = [
        float(text.removesuffix(" SD").replace("\N{MINUS SIGN}", "-"))
        for text in pairs.locator("figcaption b").all_text_contents()
    ]
    assert gains[:3] == sorted(gains[:3], reverse=True)
    assert gains[3:] == sorted(gains[3:])
    assert min(gains[:3]) > 0 > max(gains[3:])
    expect(page.locator(".about").last).to_contain_text("averaged over cleanliness and realism: no compared")
    pairs.first.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    for place, colour in ((0, (255, 0, 0)), (1, (0, 0, 255))):
        pairs.first.locator(".thumbnail").nth(place).screenshot(path=tmp_path / "tile.png")
        with Image.open(tmp_path / "tile.png") as tile:
            seen = tile.convert("RGB").getpixel((tile.width // 2, tile.height // 2))
        assert all(abs(a - b) < 12 for a, b in zip(seen, colour, strict=True)), seen
    methods = page.get_by_role("group", name="Method of the images")
    expect(methods.locator("[aria-pressed=true]")).to_have_text("srpo")
    methods.get_by_role("button", name="data").click()
    expect(methods.locator("[aria-pressed=true]")).to_have_text("data")
    expect(page.get_by_role("img", name="data, ").first).to_be_attached()


def test_an_image_of_the_overview_leads_to_all_images_of_its_prompt(to, page, expect):
    to()
    link = page.locator(".gallery a").first
    key = link.get_attribute("title").partition(":")[0]
    link.click()
    expect(page.locator("dialog h2")).to_have_text(key)
    assert address(page)["view"] == "images"
    page.go_back()
    expect(page.locator("dialog")).not_to_be_visible()
    expect(page.locator(".verdicts")).to_be_visible()


# ---- dialogs in the address


def test_back_closes_the_settings_of_a_run_and_a_link_opens_them(to, page, expect):
    to("leaderboard")
    dialog = page.locator("dialog")
    page.get_by_role("button", name="srpo", exact=True).click()
    expect(dialog.locator("h2")).to_have_text("srpo-sd15_mini-r0")
    expect(dialog).to_contain_text(COMMAND)
    assert address(page) == {"view": "leaderboard", "run": "srpo-sd15_mini-r0"}
    page.go_back()
    expect(dialog).not_to_be_visible()
    assert address(page) == {"view": "leaderboard"}
    page.go_forward()
    expect(dialog).to_be_visible()
    to("runs", run="srpo-sd15_mini-r0")
    expect(dialog.locator("h2")).to_have_text("srpo-sd15_mini-r0")
    page.get_by_role("button", name="Close").click()
    expect(dialog).not_to_be_visible()
    expect(page).to_have_url(re.compile("#view=runs$"))


def test_a_closed_dialog_leaves_no_step_behind_for_the_back_button(to, page, expect):
    to("overview")
    page.get_by_role("link", name="Runs").click()
    page.locator("tbody").get_by_role("button", name="srpo", exact=True).click()
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).not_to_be_visible()
    expect(page).to_have_url(re.compile("#view=runs$"))
    page.go_back()
    expect(page.locator(".verdicts")).to_be_visible()


def test_back_closes_an_image(to, page, expect):
    to("images")
    page.locator("li.line button").first.click()
    expect(page.locator("dialog")).to_be_visible()
    assert address(page)["open"] == "p00-0"
    page.get_by_role("button", name="next →").click()
    expect(page.locator("dialog h2")).to_have_text("p01-0")
    page.go_back()
    expect(page.locator("dialog")).not_to_be_visible()
    expect(page.locator("li.line").first).to_be_visible()


# ---- views


def test_the_run_list_tells_dates_commands_and_scores(to, page, expect):
    to("runs")
    row = page.locator("tbody tr").filter(has=page.get_by_role("button", name="srpo", exact=True))
    heads = page.locator("thead th").all_text_contents()
    cells = dict(zip(heads, row.locator("th, td").all_text_contents(), strict=True))
    assert cells["started, UTC"] == "2026-01-31 18:05"
    assert cells["command"] == COMMAND
    assert float(cells["realism ↑"]) == pytest.approx(0.32, abs=0.006)
    code = row.locator("code")
    assert code.get_attribute("title") == COMMAND, "long ones are cut"
    base = page.locator("tbody tr").filter(has=page.get_by_role("button", name="base", exact=True))
    assert base.locator("td").last.text_content() == "not recorded"


@pytest.mark.parametrize("view", VIEWS)
def test_a_filter_is_offered_only_where_it_filters(to, page, view):
    to(view)
    offered = page.locator("#filters label span").all_text_contents()
    assert offered == ([] if view in ("overview", "training", "hacking") else ["evaluator"])  # there is but one model


def test_a_filter_chosen_elsewhere_does_not_act_where_it_is_not_offered(to, page, expect):
    to("overview", evaluator="realism@1")
    expect(page.locator(".charts figure")).to_have_count(len(EVALUATORS))


def test_long_names_are_cut_in_the_middle_and_whole_in_the_title(to, page, expect):
    short = f"{LONG[:12]}…{LONG[-11:]}"
    for view in ("leaderboard", "cost", "runs", "images", "groups", "wins"):
        to(view)
        shown = page.locator("main :is(table, .browser)").get_by_text(short, exact=True).locator("visible=true").first
        expect(shown).to_be_visible()
        assert shown.evaluate("it => it.closest('[title]').title").startswith(LONG)
        assert LONG not in "".join(page.locator("main :is(table, svg text, .browser)").all_text_contents()), view


def test_the_breakdown_has_a_tab_where_prompts_have_groups(to, page, world, open_window, expect):
    to()
    expect(page.get_by_role("link", name="Breakdown")).to_have_count(1)
    add(world, "base", "red", METHODS["base"], groups={})
    other = open_window().page
    other.goto(write_page(world.root, build(world.root, 50)).as_uri())
    expect(other.get_by_role("link", name="Runs")).to_have_count(1)
    expect(other.get_by_role("link", name="Breakdown")).to_have_count(0)


# ---- narrow, dark, on paper


def test_all_views_fit_600_pixels(to, page):
    """What is wider than the window scrolls inside its own box; all tabs and filters are in sight."""
    page.set_viewport_size({"width": 600, "height": 900})
    for view in VIEWS:
        to(view)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 600, view
        tabs = page.locator("nav a").evaluate_all("all => all.map((one) => one.getBoundingClientRect().right)")
        assert max(tabs) <= 600, view
    page.set_viewport_size({"width": 1280, "height": 720})


def test_dark_windows_get_a_dark_page_that_can_be_read(to, page):
    page.emulate_media(color_scheme="dark")
    to()
    colours = page.evaluate(
        "['backgroundColor', 'color'].map((key) => getComputedStyle(document.body)[key].match(/\\d+/g).map(Number))"
    )
    page.emulate_media(color_scheme="light")
    paper, ink = (sum(colour[:3]) / 3 for colour in colours)
    assert paper < 40
    assert ink > 200


@pytest.mark.parametrize("view", VIEWS)
def test_tables_and_charts_fit_on_paper(to, page, view):
    to(view)
    page.wait_for_load_state("networkidle")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 700})
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    shown = page.locator("main :is(table, svg, li, p)")
    right = max(shown.evaluate_all("all => all.map((one) => one.getBoundingClientRect().right)"))
    hidden = page.locator("nav").is_hidden()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="null")
    page.set_viewport_size({"width": 1280, "height": 720})
    assert right <= PAPER
    assert hidden


def test_every_page_of_paper_has_the_heads_of_its_table(to, page):
    """Chromium repeats a group of heads, but leaves it blank if a button in it has a box of its own."""
    to("leaderboard")
    page.emulate_media(media="print")
    buttons = page.locator("thead button").evaluate_all("all => all.map((one) => one.getClientRects().length)")
    to("images")
    page.locator(".tile").first.wait_for()
    head = page.locator(".line-head")
    kind = head.evaluate("it => getComputedStyle(it).display + ', ' + getComputedStyle(it).breakInside")
    left = "all => all.map((one) => one.getBoundingClientRect().left)"
    names, tiles = (
        head.locator("b").evaluate_all(left),
        page.locator("li.line").first.locator(".tile").evaluate_all(left),
    )
    page.emulate_media(media="null")
    assert buttons
    assert set(buttons) == {0}
    assert kind == "table-header-group, avoid"
    assert names == tiles


@pytest.mark.parametrize(("view", "least"), [("overview", 2), ("images", 4)])
def test_pictures_are_printed(to, page, view, least):
    """The same sprite on several lines of the paper is in the file once, at least."""
    to(view)
    page.wait_for_load_state("networkidle")
    paper = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Subtype */Image", paper)) >= least
    if view == "images":
        assert page.locator("li.line").count() < NUM, "afterwards only what is in sight exists"


@pytest.mark.parametrize("how", ["button", "key"])
def test_printing_the_images_waits_for_their_thumbnails(to, page, expect, how):
    to("images")
    page.evaluate("window.print = () => (document.title = 'printed')")
    if how == "button":
        page.get_by_role("button", name="Print").click()
    else:
        page.keyboard.press("Control+p")
    expect(page).to_have_title("printed")


def test_the_keyboard_reaches_a_verdict_and_its_run(to, page, expect):
    to()
    page.get_by_role("button", name="srpo", exact=True).first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog h2")).to_have_text("srpo-sd15_mini-r0")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).not_to_be_visible()
    expect(page.get_by_role("button", name="srpo", exact=True).first).to_be_focused()
