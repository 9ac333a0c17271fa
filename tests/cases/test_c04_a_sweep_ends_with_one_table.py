"""C4: a sweep ends with one table: every method, its letters and stars, and nothing wider than 80 columns."""

import io

import pytest
from rich.console import Console

from alignbench.report.figures import NOTES
from alignbench.report.terminal.sweep_table import print_sweep
from alignbench.report.write import write_report
from tests.program import SMALL_RUN, alignbench


def printed(root):
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_sweep(root, console)
    return console.file.getvalue()


def test_every_method_is_a_column_and_every_evaluator_a_row(world):
    world.run("base", [1, 1, 1, 1])
    for number, method in enumerate(("sft", "dpo", "kto", "mapo", "a_method_of_a_long_name")):
        world.run(method, [2, 2, 2, 0][number:] + [0] * number, trained_on=["clip"] if method == "dpo" else [])
    write_report(world.root, num_resamples=50)
    told = printed(world.root)
    heads = [line.split()[1:] for line in told.splitlines() if line.lstrip().startswith("evaluator")]
    assert heads == [["a_me…name", "dpo", "kto", "mapo"], ["sft"]]
    rates = [line.split()[1:] for line in told.splitlines() if line.lstrip().startswith("clip")]
    assert rates == [["0.0", "50.0", "b", "25.0", "0.0"], ["75.0"]], told
    assert told.startswith("wins over base in %, sd15_mini: shapes a\n"), "one seed each: said once"
    assert " ".join(NOTES["trained_on"].split()) in " ".join(told.split())
    assert max(len(line) for line in told.splitlines() if str(world.root) not in line) <= 80


def test_stars_are_bold_only_over_training_seeds(world):
    prompts = {f"p{n}": f"prompt {n}" for n in range(40)}
    groups = dict.fromkeys(prompts, ())
    world.run("base", [0] * 40, prompts=prompts, groups=groups)
    world.run("once", [1] * 40, prompts=prompts, groups=groups)
    write_report(world.root, num_resamples=50)
    assert "100.0(***)" in printed(world.root)


@pytest.mark.matrix
def test_a_sweep_ends_with_a_table_of_all_its_methods(tmp_path):
    (tmp_path / "leaderboard.csv").write_text("")
    told = alignbench("-m", "method=sft,mapo", "model=sd15_mini", *SMALL_RUN, f"results={tmp_path}").stdout
    assert told.startswith("alignbench 0")
    last = told[told.rindex("wins over base in %") :]
    assert last.splitlines()[2].split() == ["evaluator", "mapo", "sft"]
    assert str(tmp_path / "index.html") in last
