"""What is said of each method over base is true to the tests that the tables show."""

import numpy as np
import pytest

from alignbench.report import verdict as module
from alignbench.report.display import grids, section_notes, sections
from alignbench.report.figures import cost_text, hours_text
from alignbench.report.hacking import below_base
from alignbench.report.tables import build
from alignbench.report.verdict import summary, verdicts
from alignbench.store.run_folder import run_folders

NUM = 40
PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(NUM)}
BASE = [0.2 + 0.001 * (i * 7 % NUM) for i in range(NUM)]
OPTIONS = {"prompts": PROMPTS, "groups": {}}


def add(world, method, evaluator, gain, seed=0, num_lost=0, **options):
    """Add a run whose scores are above base's by `gain`, but for the last `num_lost` prompts, where they are below."""
    signs = [-1 if i >= NUM - num_lost else 1 for i in range(NUM)]
    scores = [score + sign * gain for score, sign in zip(BASE, signs, strict=True)]
    return world.run(method, scores, evaluator=evaluator, seed=seed, **OPTIONS, **options)


def told(world):
    tables = build(world.root)
    [section] = sections(tables)
    return {one.method: one for one in verdicts(tables, section)}


@pytest.fixture
def compared(world):
    for evaluator in ("clip", "realism", "reward"):
        add(world, "base", evaluator, 0.0)
    return world


def test_stars_stand_where_the_table_has_them(compared):
    """38 of 40 are significant, 25 of 40 are not; the reward's gain is no proof."""
    trained_on = ["reward"]
    add(compared, "srpo", "realism", 0.1, num_lost=2, trained_on=trained_on)
    add(compared, "srpo", "clip", 0.1, num_lost=15, trained_on=trained_on)
    add(compared, "srpo", "reward", 0.1, trained_on=trained_on)
    found = told(compared)["srpo"]
    assert str(found) == (
        "srpo (1 training seed): better on realism 95.0 % (***); also on reward 100.0 % (***), which it trained on; "
        "1 other cannot tell; this holds for these weights alone"
    )
    assert found.kind == "better"


def test_a_gain_of_the_reward_alone_is_no_gain(compared):
    add(compared, "srpo", "realism", 0.1, num_lost=20, trained_on=["reward"])
    add(compared, "srpo", "reward", 0.1, trained_on=["reward"])
    found = told(compared)["srpo"]
    assert found.kind == "undecided"
    assert found.text.startswith("better only on reward 100.0 % (***), which it trained on; 1 other cannot tell")


def test_where_nothing_is_significant_nobody_can_tell(compared):
    for evaluator, lost in (("realism", 18), ("clip", 22)):
        add(compared, "sft", evaluator, 0.1, num_lost=lost)
    found = told(compared)["sft"]
    assert found.text == "cannot tell: none of 2 win rates differs significantly from 50 %"
    assert found.kind == "undecided"


def test_two_seeds_cannot_tell_even_of_a_clear_gain(compared):
    """Both seeds win every image; with one degree of freedom no row of several can be significant."""
    for seed, lost in ((0, 2), (1, 6)):
        for evaluator in ("realism", "clip"):
            add(compared, "sft", evaluator, 0.1, seed=seed, num_lost=lost)
    found = told(compared)["sft"]
    assert (
        str(found) == "sft (2 training seeds): cannot tell: with 2 training seeds no win rate can be significant here"
    )


def test_many_seeds_that_agree_earn_a_star_without_parentheses(compared):
    for seed in range(6):
        add(compared, "sft", "realism", 0.1, seed=seed, num_lost=seed % 2)
    found = told(compared)["sft"]
    assert found.who == "sft (6 training seeds)"
    assert found.text.startswith("better on realism 98.8 % *")
    assert "(*" not in found.text
    assert "weights alone" not in found.text


@pytest.mark.parametrize(
    ("won", "expected"), [(1.0, "people: better, 100.0 % (***)"), (0.5, "people: cannot tell, 50.0 % n.s.")]
)
def test_people_are_told_apart_from_evaluators(compared, won, expected):
    add(compared, "base", "human", 0.0)
    add(compared, "srpo", "realism", 0.1)
    add(compared, "srpo", "human", 0.1, num_lost=round(NUM * (1 - won)))
    assert (
        told(compared)["srpo"].text
        == f"better on realism 100.0 % (***); {expected}; this holds for these weights alone"
    )


def test_the_start_is_compared_with_too(compared):
    start = add(compared, "tuned", "realism", 0.1)
    folder = add(compared, "dpo", "realism", 0.05)
    folder.update(start_run=start.name)
    assert "; over its start (tuned): worse on realism 0.0 % (***)" in told(compared)["dpo"].text
    assert "over its start" not in told(compared)["tuned"].text


def test_real_images_are_named_so_and_are_no_method_of_the_summary(compared):
    add(compared, "data", "realism", 0.1, seed=None)
    add(compared, "sft", "realism", 0.1)
    found = told(compared)
    assert found["data"].who == "data (real images)"
    assert summary(list(found.values())) == (
        "Better than base: sft. One training seed each, so all this holds for these weights alone. "
        "Only evaluators that a method did not train on count."
    )


def test_real_images_pay_no_price(compared):
    """Where an evaluator prefers base to real images, the doubt is about the evaluator."""
    add(compared, "data", "realism", 0.1, seed=None)
    add(compared, "data", "clip", -0.1, seed=None)
    add(compared, "data", "reward", 0.1, num_lost=20, seed=None)
    found = told(compared)["data"]
    assert found.kind == "real"
    assert found.text == (
        "preferred to base's images by realism 100.0 % ***; less preferred by clip 0.0 % ***: a doubt about this "
        "evaluator; 1 evaluator cannot tell"
    )


def test_the_summary_doubts_evaluators_that_prefer_base_to_real_images(compared):
    add(compared, "data", "realism", -0.1, seed=None)
    add(compared, "sft", "realism", -0.1)
    tables = build(compared.root)
    found = verdicts(tables, sections(tables)[0])
    assert summary(found, below_base(tables)).endswith(
        "Do not trust realism here: it prefers base's images to real ones."
    )


def test_the_summary_sorts_the_methods_by_what_they_are():
    of = {"a": "mixed", "b": "undecided", "c": "better", "d": "mixed", "e": "worse"}
    found = [module.Verdict("m", "p", name, kind, name == "a", name, "") for name, kind in of.items()]
    assert summary(found) == (
        "Better than base: c. Better than base on some evaluators, worse on others: a and d. Worse than base: e. "
        "Cannot tell: b. Only evaluators that a method did not train on count."
    )
    assert summary([]) == ""


def test_lower_is_better_where_an_evaluator_says_so(world):
    add(world, "base", "loss", 0.0, higher_is_better=False)
    add(world, "sft", "loss", -0.1, higher_is_better=False)
    assert told(world)["sft"].text.startswith("better on loss 100.0 % (***)")


def test_an_evaluator_of_two_versions_is_named_with_its_version(world):
    for version in ("1", "2"):
        add(world, "base", "clip", 0.0, version=version)
        add(world, "sft", "clip", 0.1, version=version)
    assert told(world)["sft"].text.startswith("better on clip@1 100.0 % (***) and clip@2 100.0 % (***)")


def test_without_base_nothing_is_said(world):
    add(world, "sft", "clip", 0.1)
    assert told(world) == {}


def test_equal_methods_rarely_get_a_star(world):
    """Of scores that are base's with noise, words claim a difference in at most one table in twenty."""
    rng = np.random.default_rng(0)
    world.run("base", rng.normal(size=NUM).tolist(), **OPTIONS)
    for number in range(20):
        world.run(f"null{number:02d}", rng.normal(size=NUM).tolist(), **OPTIONS)
    assert {one.kind for one in told(world).values()} == {"undecided"}


# ---- what stands beside the verdicts


def test_what_training_cost_is_told_in_passes_time_and_device_hours(world):
    folder = add(world, "sft", "clip", 0.1)
    add(world, "base", "clip", 0.0)
    from dataclasses import replace

    folder.update(budget=replace(folder.manifest.budget, network_passes=24000, device_hours=0.000556))
    [section] = sections(build(world.root))
    costs = {method: cost_text(row) for (method, _), row in section.rows.items()}
    assert costs == {"base": "", "sft": "24,000 network passes, 2 min 00 s of training, 0.0006 device hours"}


@pytest.mark.parametrize(
    ("hours", "expected"), [(0, "0"), (0.0999, "0.10"), (0.031, "0.03"), (0.001, "0.001"), (2.5, "2.50")]
)
def test_few_hours_are_not_rounded_to_nothing(hours, expected):
    assert hours_text(hours) == expected


def test_base_counts_as_half_in_the_tables_of_win_rates(compared):
    add(compared, "sft", "realism", -0.1)
    [section] = sections(build(compared.root))
    wins = next(grid for grid in grids(section) if grid.title.startswith("Win rate over base"))
    [base] = [row for row in wins.rows if row[0] == "base"]
    assert base[1:] == ["50", "50", "50"]


def test_the_notes_name_the_evaluators_of_the_mean_rank(compared):
    for evaluator in ("clip", "realism", "reward"):
        add(compared, "dpo", evaluator, 0.1, trained_on=["reward"])
    for folder in run_folders(compared.root):
        folder.update(trained_on=["reward"] if folder.manifest.method == "dpo" else [])
    [section] = sections(build(compared.root))
    text = dict(section_notes(section))["rank"]
    assert (
        text == "mean rank: of the median scores by clip and realism, the evaluators that no compared method trained on"
    )
