"""C11: whoever reads of a gain reads of the loss that came with it."""

import io

from rich.console import Console

from alignbench.report import markdown
from alignbench.report.display import sections
from alignbench.report.page.overview import overview_entry
from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run
from alignbench.report.verdict import verdicts

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
    [section] = sections(tables)
    [verdict] = verdicts(tables, section)
    text = str(verdict)
    told = "srpo (1 training seed): better on realism 100.0 % (***), at the price of cleanliness 0.0 % (***)"
    assert text.startswith(told)
    assert "- " + text.replace("_", r"\_").replace("*", r"\*") in markdown.markdown(tables)
    assert f"% {text}" in markdown.latex(tables)
    [entry] = overview_entry(tables, section)["verdicts"]
    assert f"{entry['who']}: {entry['text']}" == text
    console = Console(file=io.StringIO(), width=400)
    print_run(folder, tables, console)
    assert text in console.file.getvalue()


def test_a_loss_without_any_gain_is_told_too(world):
    add(world, "base", clip=0, realism=0)
    add(world, "sft", clip=0, realism=-0.02)
    tables = build(world.root)
    [verdict] = verdicts(tables, sections(tables)[0])
    assert verdict.kind == "worse"
    assert "worse on realism 0.0 % (***), better on none" in str(verdict)


def test_a_loss_of_the_mean_alone_is_a_loss(world):
    """Half of the images win by little, the other half lose much: the win rate cannot tell, the mean score can."""
    add(world, "base", clip=0, realism=0)
    add(world, "sft", clip=0)
    scores = [0.2 + 0.001 * (i * 7 % NUM) + (0.001 if i % 2 else -0.1) for i in range(NUM)]
    world.run("sft", scores, evaluator="realism", prompts=PROMPTS, groups={})
    tables = build(world.root)
    [verdict] = verdicts(tables, sections(tables)[0])
    assert verdict.kind == "worse"
    assert "worse on realism (mean worse by 0.0" in str(verdict)


def test_no_loss_no_side_effect(world):
    add(world, "base", clip=0, realism=0)
    add(world, "srpo", trained_on=["clip"], clip=-0.03, realism=0.02)
    tables = build(world.root)
    [verdict] = verdicts(tables, sections(tables)[0])
    assert verdict.kind == "better"
    assert "at the price" not in str(verdict)
