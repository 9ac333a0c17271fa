"""Which methods are said to hack their reward."""

import io

import pytest
from rich.console import Console

from alignbench.report import markdown
from alignbench.report.diagnostics import diagnose
from alignbench.report.display import sections
from alignbench.report.hacking import findings
from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run
from alignbench.report.verdict import verdicts
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
    assert text == (
        "reward hacking: srpo on sd15_mini, shapes: better on clip 100.0 % (***), which it trained on (reward, labels "
        "or shared data), but worse on shapes_oracle_agreement 0.0 % (***); of 2 held-out evaluators it is worse on 1, "
        "with a win rate down to 0.0 %, and better on 1; this holds for these weights alone"
    )


def test_the_flag_and_the_verdict_rest_on_the_same_tests(world):
    """The reward wins 36 of 40 images, but four lose so much that its mean does not rise; the truth loses 36."""
    add(world, "base", trained_on=())
    few = [i % 10 == 9 for i in range(NUM)]
    reward = [score + (-0.9 if lost else 0.1) for score, lost in zip(BASE, few, strict=True)]
    truth = [score - (-0.9 if lost else 0.1) for score, lost in zip(BASE, few, strict=True)]
    for evaluator, scores in (("clip", reward), ("shapes_oracle_agreement", truth)):
        world.run("srpo", scores, evaluator=evaluator, prompts=PROMPTS, groups={}, trained_on=["clip"])
    tables = build(world.root)
    [finding] = findings(tables)
    assert "better on clip 90.0 % (***), which" in str(finding)
    assert "but worse on shapes_oracle_agreement 10.0 % (***);" in str(finding)
    [verdict] = verdicts(tables, sections(tables)[0])
    assert "better only on clip 90.0 % (***), which it trained on, at the price of shapes_oracle_agreement 10.0 %" in (
        str(verdict)
    )


def test_a_loss_that_the_mean_alone_shows_is_told_by_the_mean(world):
    add(world, "base", trained_on=())
    truth = [score + (0.001 if i % 2 else -0.1) for i, score in enumerate(BASE)]
    add(world, "srpo", reward=0.03)
    world.run("srpo", truth, evaluator="shapes_oracle_agreement", prompts=PROMPTS, groups={}, trained_on=["clip"])
    [finding] = findings(build(world.root))
    assert "worse on shapes_oracle_agreement (mean worse by 0.0" in str(finding)


def test_the_worst_comes_first_and_each_says_how_bad_it_is(world):
    add(world, "base", trained_on=())
    for method, num_lost in (("mild", 33), ("ruined", 40), ("bad", 36)):
        add(world, method, reward=0.03)
        truth = [score + (-0.1 if i < num_lost else 0.1) for i, score in enumerate(BASE)]
        world.run(method, truth, evaluator="shapes_oracle_agreement", prompts=PROMPTS, groups={}, trained_on=["clip"])
    found = findings(build(world.root))
    assert [one.method for one in found] == ["ruined", "bad", "mild"]
    assert [one.lowest for one in found] == pytest.approx([0.0, 0.1, 0.175])
    assert "with a win rate down to 17.5 %," in str(found[-1])


@pytest.mark.parametrize(
    ("of_start", "of_policy", "expected"),
    [
        (
            -0.03,
            -0.0301,
            "at shapes_oracle_agreement 0.0 % (***) already, and over this start it loses on none of these",
        ),
        (
            0.0,
            -0.03,
            "at shapes_oracle_agreement 50.0 % n.s. already, and over this start it loses on shapes_oracle_agre",
        ),
    ],
)
def test_a_loss_that_the_start_had_already_is_told_as_the_start_s(world, of_start, of_policy, expected):
    """The wobble of the policy over its start leaves no difference where their means are nearly equal."""
    add(world, "base", trained_on=())
    start = world.run("sft", [one + of_start for one in BASE], evaluator="shapes_oracle_agreement", prompts=PROMPTS)
    world.run("sft", BASE, evaluator="clip", prompts=PROMPTS)
    add(world, "srpo", reward=0.03, truth=of_policy)
    for folder in run_folders(world.root):
        if folder.manifest.method == "srpo":
            folder.update(start_run=start.name)
    [finding] = findings(build(world.root))
    assert f"its start, sft, is {expected}" in str(finding)


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
    escaped = str(finding).replace("_", r"\_").replace("*", r"\*")
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
