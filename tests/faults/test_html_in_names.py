"""Every name, text and setting that the report takes from files is shown as the text it is, whatever stands in it."""

import pytest

from alignbench.files import append_json_lines, write_text
from alignbench.report.write import write_report
from tests.report.conftest import World

EVIL = "<img src=x onerror=window.hacked=1>"
VIEWS = ("", "leaderboard", "wins", "groups", "cost", "training", "hacking", "images", "runs")
SETTINGS = f"method:\n  name: '{EVIL}'\ntrain: {{x: '{EVIL}'}}\n"
LOOKS = f"step,evaluator,version,win_rate,ci_low,ci_high\n20,{EVIL},{EVIL},0.5,0.4,0.6\n40,{EVIL},{EVIL},0.6,0.5,0.7\n"


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """The report of a results folder with markup in every field that comes from its files."""
    root = tmp_path_factory.mktemp("evil") / EVIL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        return root, _filled(World(root))


def _filled(world):
    prompts = {f"p{i}": f"{EVIL} {i}" for i in range(4)}
    options = {
        "model": EVIL, "evaluator": EVIL, "version": EVIL, "prompt_set": EVIL, "preprocess": EVIL, "prompts": prompts,
        "groups": dict.fromkeys(prompts, (EVIL, "plain")), "trained_on": [EVIL],
    }  # fmt: skip
    for method, gain in (("base", 0.0), (EVIL, 0.5), ("sft", -0.1)):
        run = world.run(method, [1 + gain, 2 + gain, 3, 4], picture="white", **options)
        values = {EVIL: EVIL}
        run.update(
            started=EVIL, command=EVIL, commit=EVIL, devices=[EVIL], fingerprints=values, start_weights=values,
            package_versions=values, trained_prompt_sets=[EVIL], selected_by=[EVIL],
            **({"display_name": f"{EVIL} called"} if method == "sft" else {}),
        )  # fmt: skip
        run.store(
            run.config_file, lambda file: write_text(file, f"method:\n  name: '{EVIL}'\ntrain: {{x: '{EVIL}'}}\n")
        )
        if method != "base":
            append_json_lines(run.train_log, [{"step": step, f"train/{EVIL}": step / 2} for step in range(3, 6)])
            write_text(run.validation_table, LOOKS)
    write_text(world.root / f"{EVIL} damaged" / "manifest.json", f'{{"a": "{EVIL}')
    return write_report(world.root, 20)


def test_markup_in_every_field_is_shown_as_text(evil, window):
    root, tables = evil
    assert len(tables.left_out) == 1
    page = window.page
    for view in VIEWS:
        page.goto(f"{(root / 'index.html').as_uri()}#view={view}")
        page.locator("main > *").first.wait_for()
        page.wait_for_load_state("networkidle")
        assert page.locator("img[onerror], img[src=x]").count() == 0, view
        assert EVIL in page.locator("body").inner_text(), view
    for run in page.locator("button.method").all()[:3]:
        run.click()
        page.locator("dialog[open]").wait_for()
        assert page.locator("img[onerror], img[src=x]").count() == 0
        page.keyboard.press("Escape")
    assert page.evaluate("window.hacked") is None
    assert window.errors == []
    assert window.requests_elsewhere == []


def test_tables_for_other_programs_escape_it_too(evil):
    root, _ = evil
    text = (root / "leaderboard.md").read_text()
    assert "\\<img" in text
    assert "<img" not in text.replace("\\<", "")
    assert "<img" not in (root / "index.html").read_text()
