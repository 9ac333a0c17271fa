import dataclasses
import re

import pytest

from alignbench.report import markdown
from alignbench.report.display import sections
from alignbench.report.published_tables.reference import matches
from alignbench.report.published_tables.values import FOLDER, PublishedValue, load
from alignbench.report.tables import build
from alignbench.store.manifest import ResultsError

ROW = PublishedValue(
    paper="Somebody", arxiv_id="0000.00000", table="1", model="sd15_mini", method="sft", variant="", opponent="",
    prompt_set="shapes", evaluator="clip", evaluator_version="1", statistic="median", value=25.0, scale=100.0,
    start="base", guidance_scale=4.0, noise="per_prompt", obstacle="",
)  # fmt: skip
BASE_SCORES = [0.20, 0.21, 0.22, 0.23, 0.24, 0.25, 0.26]
PROMPTS = {f"p{i}": f"prompt {i}" for i in range(7)}


@pytest.fixture
def tables(world):
    """Medians 0.23 and 0.24 of seven prompts; sft wins six of them over base and all over dpo."""
    for method, scores in (
        ("base", BASE_SCORES),
        ("sft", [*(score + 0.01 for score in BASE_SCORES[:6]), 0.25]),
        ("dpo", [0.1] * 7),
    ):
        world.run(method, scores, prompts=PROMPTS, groups={}, display_scale=100.0)
    return build(world.root)


def verdict(tables, **changes):
    [match] = matches(tables, "sd15_mini", "shapes", [dataclasses.replace(ROW, **changes)])
    return match


def test_a_printed_median_is_held_beside_ours_in_its_own_scale(tables):
    """Ours is 24: a printed 24 is no gap, 22 one of so many half-widths, 30 is outside."""
    same = verdict(tables, value=24.0)
    assert (same.own.value, same.gap, same.verdict) == (
        pytest.approx(24),
        pytest.approx(0, abs=1e-5),
        "within the interval",
    )
    half_width = (same.own.high - same.own.low) / 2
    assert verdict(tables, value=22.0).gap == pytest.approx(2 / half_width)
    assert (verdict(tables, value=30.0).gap < -1, verdict(tables, value=30.0).verdict) == (True, "outside")
    assert verdict(tables, value=0.24, scale=1.0).verdict == "within the interval"


def test_means_and_win_rates_find_their_own_figures(tables):
    assert verdict(tables, statistic="mean").own.value == pytest.approx(100 * (sum(BASE_SCORES) + 0.05) / 7)
    assert verdict(tables, statistic="win_rate", opponent="base").own.value == pytest.approx(100 * 6 / 7)
    over = verdict(tables, statistic="win_rate", opponent="dpo")
    under = verdict(tables, method="dpo", statistic="win_rate", opponent="sft")
    assert (over.own.value, under.own.value) == (100, 0)
    assert under.own.high == pytest.approx(100 - over.own.low)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"obstacle": "human raters"}, "human raters"),
        ({"noise": "constant"}, "noise per_prompt here, constant there"),
        ({"noise": ""}, "noise not stated"),
        ({"guidance_scale": 7.5}, "guidance 4.0 here, 7.5 there"),
        ({"guidance_scale": None}, "guidance not stated"),
        ({"evaluator_version": "2"}, "version 1 here, 2 there"),
        ({"start": "sft"}, "start base here, sft there"),
        ({"start": "", "noise": ""}, "noise not stated; start not stated"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared_and_says_why(tables, changes, reason):
    assert verdict(tables, **changes).verdict == f"not comparable: {reason}"


@pytest.mark.parametrize("change", [{"negative_prompt": "dull"}, {"true_cfg_scale": 2.0}, {"control": {}}])
def test_images_sampled_in_a_way_no_paper_knows_are_not_compared(tables, monkeypatch, change):
    (name,) = change
    for place, sampling in list(tables.samplings.items()):
        monkeypatch.setitem(tables.samplings, place, dataclasses.replace(sampling, **change))
    assert verdict(tables).verdict == f"not comparable: {name} here"


@pytest.mark.parametrize(
    "changes",
    [{"model": "sdxl"}, {"method": "kto"}, {"prompt_set": "parti"}, {"evaluator": "pickscore"}, {"variant": "beta 1"},
     {"statistic": "win_rate", "opponent": "kto"}],
)  # fmt: skip
def test_rows_of_something_else_have_no_counterpart(tables, changes):
    assert matches(tables, "sd15_mini", "shapes", [dataclasses.replace(ROW, **changes)]) == []


def test_a_subset_of_the_prompts_is_not_compared(world):
    world.run("base", [1, 2, 3, 4], full_size=100)
    found = verdict(build(world.root), method="base")
    assert found.verdict == "not comparable: fewer prompts here"


def test_a_published_row_is_shown_in_both_leaderboards(tables, monkeypatch):
    monkeypatch.setattr("alignbench.report.display.load", lambda: [ROW, dataclasses.replace(ROW, noise="constant")])
    assert len(sections(tables)[0].matches) == 2
    text = markdown.markdown(tables)
    line = r"\| sft \| clip \| median \| 24\.0 \[[\d.]+, [\d.]+\] \| 25 \| -[\d.]+ \| within the interval \| Somebody"
    assert re.search(line, text)
    assert "not comparable: noise per\\_prompt here, constant there" in text
    assert "gap to published values" in text
    assert "arXiv 0000.00000" in markdown.latex(tables)


def test_the_shipped_tables_are_sound_and_hold_what_the_papers_print():
    rows = load()
    assert {row.arxiv_id for row in rows} == {
        "2506.02698", "2509.06942", "2406.06424", "2505.05470", "2509.16117", "2605.21123",
    }  # fmt: skip
    key = {"model": "sd15", "method": "smpo", "prompt_set": "hpdv2", "evaluator": "hpsv2_1", "statistic": "median"}
    [found] = [row for row in rows if not row.variant and key.items() <= dataclasses.asdict(row).items()]
    assert (found.value, found.scale, found.start, found.noise, found.guidance_scale) == (
        29.31,
        100,
        "sft",
        "constant",
        7.5,
    )
    keys = [tuple(value for name, value in dataclasses.asdict(row).items() if name != "value") for row in rows]
    assert len(set(keys)) == len(keys), "no row twice"
    assert (FOLDER / "README.md").is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("median", "mode", "statistic is 'mode', expected one of median, mean, win_rate, share"),
        ("25.0", "high", "value is 'high', expected a number"),
        ("100.0", "10", "scale is 10, expected 1 or 100"),
        ("per_prompt", "odd", "noise is 'odd', expected constant, per_prompt or nothing"),
        ("Somebody", "", "paper is empty"),
        ("median", "win_rate", "a win rate needs an opponent"),
        ("arxiv_id", "arxiv", "has the columns"),
    ],
)
def test_a_table_that_breaks_the_schema_is_refused(tmp_path, old, new, message):
    values = dataclasses.asdict(ROW)
    text = ",".join(values) + "\n" + ",".join(map(str, values.values())) + "\n"
    (tmp_path / "one.csv").write_text(text)
    assert load(tmp_path) == [ROW]
    (tmp_path / "one.csv").write_text(text.replace(old, new))
    with pytest.raises(ResultsError, match=re.escape(message)):
        load(tmp_path)
