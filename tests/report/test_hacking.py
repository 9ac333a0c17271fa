"""Which methods are said to hack their reward."""

import io

import pytest
from rich.console import Console

from alignbench.report import markdown
from alignbench.report.diagnostics import diagnose
from alignbench.report.hacking import findings
from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run
from alignbench.store.run_folder import run_folders

NUM = 40
PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(NUM)}
BASE = [0.2 + 0.001 * (i * 7 % NUM) for i in range(NUM)]
WOBBLE = [0.004 * (-1) ** (i // 2) for i in range(NUM)]


def add(world, method, *, reward=0.0, truth=0.0, other=0.0, trained_on=("clip",), **info):
    """Add a run whose scores differ from base's by so much, on the mean, by its reward and by two other judges."""
    gains = {"clip": reward, "shapes_oracle_agreement": truth, "aesthetic": other}
    for evaluator, gain in gains.items():
        scores = [score + (gain + wobble) * (method != "base") for score, wobble in zip(BASE, WOBBLE, strict=True)]
        world.run(method, scores, evaluator=evaluator, prompts=PROMPTS, groups={}, trained_on=trained_on, **info)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({"reward": 0.03, "truth": -0.03}, "reward hacking"),
        ({"reward": 0.03, "truth": 0.03}, None),
        ({"reward": 0.03, "truth": -0.0002}, None),  # which is within the wobble
        ({"reward": 0.0002, "truth": -0.03}, None),
        ({"reward": -0.03, "truth": -0.03}, "collapse"),
        ({"reward": 0.03, "truth": -0.03, "trained_on": ["clip", "shapes_oracle_agreement"]}, None),
        ({"reward": 0.03, "truth": -0.03, "trained_on": []}, None),
    ],
)
def test_a_method_is_flagged_where_its_reward_rises_and_what_it_did_not_train_on_falls(world, gains, expected):
    add(world, "base", trained_on=())
    add(world, "srpo", **gains)
    found = findings(build(world.root))
    assert [str(one).partition(":")[0] for one in found] == ([expected] if expected else [])


def test_the_words_name_who_moved_and_by_how_much(world):
    add(world, "base", trained_on=(), display_scale=100.0)
    add(world, "srpo", reward=0.03, truth=-0.02, other=0.02, display_scale=100.0)
    [finding] = findings(build(world.root))
    text = str(finding)
    trained_on = "the mean score by clip, which it trained on (reward, labels or shared data), rose by 3.00 [2.8"
    assert f"srpo on sd15_mini, shapes: {trained_on}" in text
    assert "while shapes_oracle_agreement fell by 2.00 [1.8" in text
    counts = "1 of 2 held-out mean scores fell significantly, 1 rose"
    assert text.endswith(f"{counts}; one training seed: this holds for these weights alone")


def test_lower_is_better_where_an_evaluator_says_so(world):
    add(world, "base", trained_on=(), higher_is_better=False)
    add(world, "srpo", reward=-0.03, truth=0.03, higher_is_better=False)
    [finding] = findings(build(world.root))
    assert finding.is_hacking


def test_seeds_that_disagree_are_no_proof(world):
    """Of each seed alone the test is sure; between the seeds nothing is."""
    add(world, "base", trained_on=())
    for seed, truth in enumerate((-0.05, 0.02)):
        add(world, "srpo", reward=0.03, truth=truth, seed=seed)
    assert findings(build(world.root)) == []


def test_the_flag_stands_in_the_leaderboard_at_the_terminal_and_in_the_diagnostics(world):
    add(world, "base", trained_on=())
    add(world, "srpo", reward=0.03, truth=-0.03)
    add(world, "sft", reward=0.03, truth=0.03)
    tables = build(world.root)
    [finding] = findings(tables)
    escaped = str(finding).replace("_", r"\_")
    assert f"> **{escaped}**" in markdown.markdown(tables)
    assert f"% {finding}" in markdown.latex(tables)
    for method, is_told in (("srpo", True), ("sft", False)):
        [folder] = [folder for folder in run_folders(world.root) if folder.manifest.method == method]
        console = Console(file=io.StringIO(), width=100)
        print_run(folder, tables, console)
        assert ("reward hacking" in console.file.getvalue()) == is_told
    flags = {(row["method"], row["measure"]): row["flag"] for row in diagnose(world.root, tables, 50)}
    assert flags["srpo", "clip"] == flags["srpo", "shapes_oracle_agreement"] == str(finding)
    assert {flags["srpo", "aesthetic"], flags["sft", "clip"], flags["base", "clip"]} == {""}
