"""C7: the table of a run fits a terminal of 80 columns, and stays a table."""

import io

from rich.console import Console

from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run


def test_a_narrow_window_gets_80_columns_without_borders(world):
    options = {"evaluator": "shapes_oracle_cleanliness", "full_size": 100}
    world.run("base", [-0.12345, -0.2, -0.3, -0.1], **options)
    world.run("srpo_paper", [-0.1, -0.15, -0.2, -0.05], trained_on=[options["evaluator"]], **options)
    folder = world.run("srpo_paper", [1, 2, 3, 4], trained_on=[options["evaluator"]], full_size=100)
    for width in (80, 60):
        console = Console(file=io.StringIO(), width=width)
        print_run(folder, build(world.root), console)
        lines = [line for line in console.file.getvalue().splitlines() if str(world.root) not in line]
        assert max(map(len, lines)) <= 80
        assert "│" not in "".join(lines)
        (row,) = (line for line in lines if line.lstrip().startswith("shapes_oracle_cleanliness"))
        assert row.split()[:4] == ["shapes_oracle_cleanliness", "↑", "b", "-0.125"]
        assert "100.0 [" in row
