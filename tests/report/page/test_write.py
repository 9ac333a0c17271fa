"""The page in a real browser: what people see, press and type, and that it asks for nothing from elsewhere."""

import re
import time
from dataclasses import replace

import pytest
from PIL import Image

from alignbench.report.diagnostics import diagnose
from alignbench.report.display import grids, sections
from alignbench.report.page.write import write_page
from alignbench.report.tables import build
from alignbench.store.run_folder import run_folders

HOSTILE = {
    "markup": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><b>bold</b>",
    "end": "</script><!-- --><style>* { display: none }</style> \u2028 \u2029 end",
    "quotes": "\"double\" 'single' `${window.hacked = 1}` {{ 7 * 7 }} \\n \\u003c &lt;i&gt;",
    "arabic": "قطة حمراء على أريكة، \u202eأزرق",
    "long": "very " * 1999 + "long!",
    "emoji": "👩‍🚀 riding a 🐎 on 🌕, naïve 漢字 \x07",
}
METHOD = "dpo#1%20<b>x"  # also the name of a folder


def made(root):
    tables = build(root, 50)
    return write_page(root, tables), tables


@pytest.fixture
def expect():
    """Waits until what is said holds: `playwright.sync_api.expect`."""
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def hostile(world):
    """Base and two methods on texts that try to get out of their place."""
    groups = {name: ("<i>style</i> \u202e",) if name == "markup" else ("plain",) for name in HOSTILE}
    options = {"prompts": HOSTILE, "groups": groups}
    for method, colour, gain in (("base", "red", 0.0), (METHOD, "blue", 0.3), ("sft", "green", -0.2)):
        scores = [1 + i + gain * (i + 1) for i in range(len(HOSTILE))]
        folder = world.run(method, scores, picture=colour, **options)
        world.run(method, scores[::-1], evaluator="<u>oracle", **options)
        folder.config_file.write_text("path: </pre><script>window.hacked = 1</script>\n")
    return made(world.root)


def opened(window, path, view=""):
    window.page.goto(f"{path.as_uri()}#{view}")
    return window.page


@pytest.mark.parametrize(
    "view",
    [
        "",
        "view=leaderboard",
        "view=wins",
        "view=groups&measure=win",
        "view=cost",
        "view=training",
        "view=hacking",
        "view=images",
        "view=runs",
    ],
)
def test_every_view_opens_from_a_file_without_errors_and_asks_nothing_of_others(window, hostile, expect, view):
    path, _ = hostile
    page = opened(window, path, view)
    expect(page.locator("main > *").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert window.errors == []
    assert window.requests_elsewhere == []
    assert all(url.startswith((path.parent.as_uri(), "data:")) for url in window.requests)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main :is(script, style, i, u)").count() == 0


def test_the_page_itself_forbids_requests_to_others(window, hostile, expect):
    path, _ = hostile
    page = opened(window, path)
    refused = "fetch('http://127.0.0.1:9/x').then(() => 'sent', () => 'refused')"
    assert page.evaluate(refused) == "refused"
    assert not [url for url in window.requests if url.startswith("http")]
    assert "Content Security Policy" in window.errors[0]


def test_hostile_prompts_are_shown_as_the_text_they_are(window, hostile, expect):
    path, _ = hostile
    page = opened(window, path, "view=images")
    for name, text in HOSTILE.items():
        page.get_by_role("button", name=f"{name}-0").click()
        expect(page.locator("dialog .prompt-text")).to_have_js_property("textContent", text)  # once it is there
        assert page.locator("dialog .prompt-text").get_attribute("dir") == "auto"
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).not_to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("getComputedStyle(document.querySelector('li.line p[dir]')).overflow") == "hidden"
    heights = page.locator("li.line").evaluate_all("lines => lines.map((line) => line.offsetHeight)")
    assert len(set(heights)) == 1, "10,000 characters take no more room than one"


def test_an_opened_image_shows_what_its_scores_were_made_of(window, world, expect):
    """Whatever is in it is shown as the text that it is."""
    told = [
        {
            "reasons": [HOSTILE["markup"]],
            "margin": -0.123456,
            "conditions": [{"condition": "cat >= 1", "holds": False, "margin": None}, {"condition": HOSTILE["end"]}],
            "objects": [],
            "size": {"<b>": [1, 2.5]},
        }
    ] * 4
    world.run("base", [0, 1, 1, 1], picture="white")
    world.run("sft", [0, 1, 1, 1], picture="white", evidence=told)
    path, _ = made(world.root)
    page = opened(window, path, "view=images&open=p0-0")
    block = page.locator("details.evidence")
    expect(block.locator("summary")).to_have_text("Why: clip ↑")
    expect(block.locator("section")).to_have_count(1)  # base has none
    assert block.locator("h3").inner_text() == "sft 0.000"
    assert block.locator("section > dl > dt").all_inner_texts() == ["reasons", "margin", "objects", "size"]
    shown = block.locator("section > dl > dd").all_inner_texts()
    assert shown[:3] == [HOSTILE["markup"], "\u22120.1235", "none"]
    nothing = "\u2013"
    texts = ["cat >= 1", "no", nothing, HOSTILE["end"], nothing, nothing]
    assert [" ".join(one.split()) for one in block.locator("td").all_inner_texts()] == [
        " ".join(one.split()) for one in texts
    ]
    expect(block.locator("td.worse")).to_have_text("no")
    page.get_by_role("button", name="next →").click()
    expect(page.locator("#dialog-title")).to_have_text("p1-0")
    expect(page.locator("details.evidence h3")).to_have_text("sft 1.000")
    assert page.evaluate("window.hacked") is None
    assert window.errors == []


def test_the_settings_of_a_method_are_one_press_away(window, hostile, expect):
    path, _ = hostile
    page = opened(window, path)
    page.get_by_role("button", name=METHOD, exact=True).first.click()
    expect(page.locator("dialog pre")).to_have_text("path: </pre><script>window.hacked = 1</script>\n")
    assert page.evaluate("window.hacked") is None
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).not_to_be_visible()


def column(page, place):
    return page.locator(f"tbody tr > :nth-child({place})").evaluate_all("cells => cells.map((cell) => cell.innerText)")


def test_the_leaderboard_reads_as_the_tables_and_sorts_by_any_column(window, hostile, expect):
    path, tables = hostile
    [section] = sections(tables)
    grid = grids(section)[0]
    page = opened(window, path, "view=leaderboard")
    methods = column(page, 1)
    assert methods == [row[0] for row in grid.rows]
    for row, cell in zip(grid.rows, column(page, 3), strict=True):
        assert re.sub(r"\s+", " ", cell).startswith(re.sub(r" [a-c,]+$", "", row[2]).partition(" [")[0])
    head = page.get_by_role("columnheader", name="clip")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    assert column(page, 1) == [METHOD, "base", "sft"]
    page.keyboard.press("Enter")  # it keeps the focus
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert column(page, 1) == ["sft", "base", METHOD]
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    assert column(page, 1) == ["sft", "base", METHOD]


def test_models_and_evaluators_are_filtered(world, window, expect):
    for model in ("sd15_mini", "flux_mini"):
        for evaluator in ("clip", "oracle"):
            world.run("base", [1, 2, 3, 4], model=model, evaluator=evaluator)
            world.run("sft", [2, 3, 4, 5], model=model, evaluator=evaluator)
    path, _ = made(world.root)
    page = opened(window, path, "view=leaderboard")
    expect(page.locator("main h2")).to_have_count(2)
    page.get_by_label("model").select_option("flux_mini")
    expect(page.locator("main h2")).to_have_count(1)
    expect(page.locator("main h2")).to_contain_text("flux_mini")
    page.get_by_label("evaluator").select_option("oracle@1")
    expect(page.locator("thead th")).to_have_count(6)
    expect(page.locator("caption")).to_contain_text("oracle")
    page.go_back()
    expect(page.locator("thead th")).to_have_count(4)


def test_the_heat_map_marks_what_is_significant(small_table, window, expect):
    path, _ = made(small_table.root)
    page = opened(window, path, "view=wins&evaluator=clip@1")
    cells = page.locator(".matrix tbody tr").nth(2).locator("td")  # dpo, behind base and sft in the mean rank
    expect(cells.first).to_contain_text("100.0 (***)")  # of one seed
    assert "wins" in cells.first.get_attribute("class")
    significant = page.locator("g.significant text").first.text_content()
    assert significant.startswith(("dpo", "sft"))


def test_images_are_searched_ordered_and_gone_through_by_keys(window, hostile, expect):
    path, _ = hostile
    page = opened(window, path, "view=images&evaluator=clip@1")
    lines = page.locator("li.line")
    expect(lines).to_have_count(len(HOSTILE))
    page.keyboard.press("/")
    page.keyboard.type("RIDING naïve")
    expect(lines).to_have_count(1)
    expect(lines.first).to_contain_text("👩‍🚀")
    page.get_by_role("searchbox").fill("")
    page.keyboard.press("Escape")
    expect(lines).to_have_count(len(HOSTILE))
    page.get_by_label("order").select_option("wins")
    page.locator("[data-key=method]").select_option(METHOD)
    expect(lines.first).to_contain_text("emoji-0")  # the last prompt, by 1.8
    expect(lines.first).to_contain_text("+1.8")
    page.locator("[data-key=method]").select_option("sft")
    expect(lines).to_have_count(0)
    page.get_by_label("order").select_option("losses")
    expect(lines.first).to_contain_text("\N{MINUS SIGN}1.2")
    page.locator(".line-head").click()
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    expect(page.locator("li.current")).to_contain_text("long-0")
    page.keyboard.press("Enter")
    expect(page.locator("dialog h2")).to_have_text("long-0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("dialog h2")).to_have_text("arabic-0")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).not_to_be_visible()
    expect(page.locator("li.current")).to_contain_text("arabic-0")


def test_each_method_shows_its_own_image_small_and_large(window, hostile, expect, tmp_path):
    path, _ = hostile
    page = opened(window, path, "view=images")
    page.wait_for_load_state("networkidle")
    expect(page.locator(".line-head b")).to_have_text(["base", METHOD, "sft"])
    colours = {"base": (255, 0, 0), METHOD: (0, 0, 255), "sft": (0, 128, 0)}
    tiles = page.locator("li.line").nth(1).locator(".thumbnail")
    for place, colour in enumerate(colours.values()):
        tiles.nth(place).screenshot(path=tmp_path / "tile.png")
        with Image.open(tmp_path / "tile.png") as tile:
            seen = tile.convert("RGB").getpixel((tile.width // 2, tile.height // 2))
        assert all(abs(a - b) < 12 for a, b in zip(seen, colour, strict=True)), seen
    page.locator("li.line").nth(1).locator(".thumbnail").first.click()
    pictures = page.locator("dialog img")
    expect(pictures).to_have_count(3)
    page.wait_for_load_state("networkidle")
    assert pictures.evaluate_all("all => all.map((one) => one.naturalWidth)") == [64, 64, 64]
    assert window.errors == []


def test_the_line_of_the_cost_joins_those_whom_nobody_beats_for_less(world, window, expect):
    world.run("base", [1, 2, 3, 4])
    for method, hours, gain in (
        ("sft", 1, 0.5),
        ("dpo", 2, 0.2),
        ("kto", 3, 0.9),
        ("mapo", 0.5, 2.0),
        ("inpo", 0, 5.0),
    ):
        seen = ["clip"] if method == "mapo" else []
        folder = world.run(method, [1 + gain, 2 + gain, 3 + gain, 4 + gain], trained_on=seen)
        folder.update(budget=replace(folder.manifest.budget, device_hours=hours))
    path, _ = made(world.root)
    page = opened(window, path, "view=cost")
    expect(page.locator("figcaption")).to_contain_text("what they cost is not known: inpo")
    marks = page.locator("svg g:has(> title)")
    names = [text.partition(":")[0] for text in marks.locator("title").all_text_contents()]
    across = marks.locator("circle").evaluate_all("circles => circles.map((one) => one.cx.baseVal.value)")
    places = dict(zip(names, across, strict=True))
    assert places.keys() == {"sft", "dpo", "kto", "mapo"}
    line = page.locator("path.front").get_attribute("d")
    corners = [float(x) for x in re.findall(r"[MH]([\d.]+)", line)][:-1]  # the last leads to the edge
    assert corners == pytest.approx([places["sft"], places["kto"]], abs=1e-3)


def validated(folder, evaluators):
    """Give a run a validation: win rates over the start of each evaluator at steps 0, 10 and 20."""
    lines = ["step,evaluator,version,n,median,win_rate,ci_low,ci_high"]
    for evaluator, rates in evaluators.items():
        lines += [f"{10 * i},{evaluator},1,4,1.0,{rate},{rate / 2},{rate}" for i, rate in enumerate(rates)]
    folder.validation_table.write_text("\n".join(lines) + "\n")


def test_reward_hacking_is_said_and_drawn_and_validation_has_its_curves(small_table, window, expect):
    [folder] = [folder for folder in run_folders(small_table.root) if folder.manifest.method == "dpo"]
    validated(folder, {"clip": [0.5, 0.8, 1.0], "<u>oracle": [0.5, 0.3, 0.1]})
    folder.update(selected_step=10, selected_by=["<u>oracle"], weight_distance=0.0123)
    tables = build(small_table.root, 200)
    path = write_page(small_table.root, replace(tables, diagnostics=diagnose(small_table.root, tables, 200)))
    page = opened(window, path)
    words = "better on clip 100.0 % (***), which it trained on (reward, labels or shared data), but worse on"
    expect(page.locator(".flag")).to_contain_text(words)
    expect(page.locator(".flag .lowest")).to_have_text("0.0 % lowest held-out win rate")
    page.get_by_role("link", name="Reward hacking").click()
    expect(page.locator(".flag")).to_contain_text(words)
    expect(page.locator("figcaption b").first).to_have_text("colour saturation, %")
    plotted = page.locator("section:not(.over-training) figure").first.locator("g text:first-child")
    assert sorted(plotted.all_text_contents()) == ["dpo", "sft"]
    expect(page.locator("main table")).to_contain_text("1.23")
    large = page.locator(".over-training svg").first
    expect(large.locator("text.trained-on")).to_have_text("clip")
    expect(large.locator("text.held-out")).to_have_text("<u>oracle")
    tops = [
        large.locator(f"text.{kind}").evaluate("it => it.y.baseVal[0].value") for kind in ("trained-on", "held-out")
    ]
    assert tops[0] < tops[1], "what rose ends above what fell"
    expect(large.locator("line.kept title")).to_have_text("step 10 was kept")
    page.get_by_role("link", name="Training").click()
    curves = page.locator("section").filter(has_text="Validation curves").locator("figure")
    expect(curves.locator("b")).to_have_text(["clip", "<u>oracle"])
    assert "Z" in curves.first.locator("path.band").get_attribute("d"), "intervals are drawn"
    assert window.errors == []


def test_where_nobody_hacks_the_page_says_so(world, window, expect):
    world.run("base", [1, 2, 3, 4])
    for evaluator, trained_on in (("clip", ["clip"]), ("aesthetic", ["clip"])):
        world.run("base", [1, 2, 3, 4], evaluator=evaluator)
        world.run("sft", [2, 3, 4, 5], evaluator=evaluator, trained_on=trained_on)
    path, _ = made(world.root)
    page = opened(window, path, "view=hacking")
    expect(page.locator(".calm")).to_contain_text("No reward hacking found for sft")
    expect(page.locator(".flag")).to_have_count(0)


def test_seeds_are_chosen_and_absent_images_said_to_be_absent(world, window, expect):
    world.run("base", [1, 2, 3, 4])
    for seed in (0, 1):
        world.run("sft", [2 + seed, 3, 4, 5], seed=seed)
    path, _ = made(world.root)
    page = opened(window, path, "view=images")
    expect(page.locator("li.line").first).to_contain_text("no image here")
    expect(page.locator("li.line").first.locator(".score").nth(1)).to_contain_text("2.00")
    page.get_by_label("training seed").select_option("1")
    expect(page.locator("li.line").first.locator(".score").nth(1)).to_contain_text("3.00")


def test_published_rows_stand_apart_below_ours(world, window, expect):
    options = {"model": "sdxl", "evaluator": "pickscore", "prompt_set": "hpdv2", "display_scale": 100.0}
    world.run("base", [0.20, 0.21, 0.22, 0.23], **options)
    path, _ = made(world.root)
    page = opened(window, path, "view=leaderboard")
    row = page.locator("tr.published")
    expect(row).to_contain_text("base, as printed by SmPO")
    expect(row).to_contain_text("22.75")
    assert "not comparable" in row.locator("td").first.get_attribute("title")
    expect(page.locator("details")).to_contain_text("noise per_prompt here, constant there")


def test_a_page_left_open_says_so_when_its_files_are_gone(window, hostile, expect):
    path, _ = hostile
    page = opened(window, path)
    for file in (path.parent / "report" / "data").glob("*.js"):
        file.unlink()
    page.get_by_role("link", name="Images").click()
    expect(page.locator("main")).to_contain_text("reload the page")


def test_a_report_again_writes_the_same_page_and_touches_nothing_else(hostile):
    path, tables = hostile
    files = {file: file.stat().st_mtime_ns for file in (path.parent / "report").glob("*/*")}
    before = path.read_bytes()
    write_page(path.parent, tables)
    assert path.read_bytes() == before
    assert {file: file.stat().st_mtime_ns for file in (path.parent / "report").glob("*/*")} == files


@pytest.mark.slow
@pytest.mark.matrix
def test_3200_prompts_of_8_methods_open_within_2_seconds_and_scroll(window, expect, tmp_path):
    from benchmarks.page import EVALUATORS, write_run

    for place in range(8):
        write_run(tmp_path, place, num_prompts=3200, pixels=8, evaluators=EVALUATORS[:1])
    path, _ = made(tmp_path)
    seconds = []
    for _ in range(3):  # other programs may take the time of one
        start = time.perf_counter()
        page = opened(window, path)
        expect(page.locator(".verdicts")).to_be_visible()
        page.get_by_role("link", name="Images").click()
        expect(page.locator("li.line").first).to_be_visible()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
    assert page.locator("li.line").count() < 30, "only what is in sight exists"
    page.locator(".browser").evaluate("list => (list.scrollTop = list.scrollHeight)")
    expect(page.locator("li.line").last).to_contain_text("photo-03199-0")
    assert page.locator("li.line").count() < 30
    page.get_by_role("searchbox").fill("sailor 1200")
    expect(page.locator("li.line")).to_have_count(1)
