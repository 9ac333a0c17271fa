"""Whoever reads of a gain reads of the loss that came with it."""

import io

from rich.console import Console

from alignbench.report import markdown
from alignbench.report.display import sections
from alignbench.report.hacking import side_effects
from alignbench.report.page.hacking import hacking_entry
from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run

NUM = 40
PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(NUM)}


def add(world, method, trained_on=(), **gains):
    """Add a run whose scores are above base's by so much, with a wobble."""
    for evaluator, gain in gains.items():
        wobble = [0.004 * (-1) ** (i // 2) * (method != "base") for i in range(NUM)]
        scores = [0.2 + 0.001 * (i * 7 % NUM) + gain + wobble[i] for i in range(NUM)]
        folder = world.run(method, scores, evaluator=evaluator, prompts=PROMPTS, groups={}, trained_on=trained_on)
    return folder


def test_a_loss_by_a_held_out_evaluator_stands_beside_the_gain(world):
    """The reward did not move, so this is no reward hacking; cleanliness fell all the same."""
    add(world, "base", clip=0, realism=0, cleanliness=0)
    folder = add(world, "srpo", trained_on=["clip"], clip=0.0, realism=0.03, cleanliness=-0.02)
    tables = build(world.root)
    [effect] = side_effects(tables)
    text = str(effect)
    assert text.startswith("side effect: srpo on sd15_mini, shapes: realism rose by 0.0300 [")
    assert "but cleanliness fell by 0.0200 [" in text
    assert "> " + text.replace("_", r"\_") in markdown.markdown(tables)
    assert f"% {text}" in markdown.latex(tables)
    [section] = sections(tables)
    assert hacking_entry(tables, section)["sideEffects"] == [text]
    console = Console(file=io.StringIO(), width=400)
    print_run(folder, tables, console)
    assert text in console.file.getvalue()


def test_a_loss_without_any_gain_is_told_too(world):
    add(world, "base", clip=0, realism=0)
    add(world, "sft", clip=0, realism=-0.02)
    [effect] = side_effects(build(world.root))
    assert "sft on sd15_mini, shapes: nothing rose significantly, and realism fell by" in str(effect)


def test_what_is_called_hacking_is_not_told_twice(world):
    add(world, "base", clip=0, realism=0)
    add(world, "srpo", trained_on=["clip"], clip=0.03, realism=-0.02)
    assert side_effects(build(world.root)) == []


def test_no_loss_no_side_effect(world):
    add(world, "base", clip=0, realism=0)
    add(world, "srpo", trained_on=["clip"], clip=-0.03, realism=0.02)
    assert side_effects(build(world.root)) == []
