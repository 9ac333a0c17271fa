"""Who may import whom: the direction that keeps methods and evaluators interchangeable."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "cli", "command_line", "checks", "config", "train", "stages", "generate", "existing", "scoring", "score",
    "score_file", "score_table", "report", "results", "checkpoint",
}  # fmt: skip
MODULES = sorted(path for folder in ("alignbench", "methods", "evaluators") for path in (ROOT / folder).rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
    return {name for name in imported(path) if name.split(".")[0] in ("alignbench", "methods", "evaluators")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_the_right_way(path):
    package = path.relative_to(ROOT).parts[0]
    if package == "alignbench":
        assert not {name for name in ours(path) if not name.startswith("alignbench")}
    else:
        assert not {name for name in ours(path) if name.startswith("alignbench.") and name.split(".")[1] in FORBIDDEN}
    if path.name in ("schedule.py", "batch.py", "statistics.py") and path.parent.name == "alignbench":
        assert not ours(path)


def test_looking_at_a_configuration_loads_no_network_library():
    code = "import sys, alignbench.checks, alignbench.cli; print({'torch', 'diffusers', 'pandas'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "set()"
