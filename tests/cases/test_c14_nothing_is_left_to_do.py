"""C14: a finished command tells again what it told, and loads nothing heavy; what has changed makes it look anew."""

import json
import shutil
import subprocess
import sys

import pytest

from alignbench.configuration.build import run_name
from alignbench.configuration.compose import unchecked
from alignbench.stages.last_command import FILE, recall
from alignbench.store.run_folder import RunFolder
from tests.program import SMALL_RUN, alignbench

WORDS = ["method=sft", "model=sd15_mini", *SMALL_RUN]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    return root, alignbench(*WORDS, f"results={root}").stdout


def recalled(root, *more):
    found = unchecked([*WORDS, *more, f"results={root}"])
    assert found is not None
    assert not found.is_sweep
    return recall(found.cfg, RunFolder(root / run_name(found.cfg)))


def test_the_same_command_imports_no_network_library_and_says_the_same(finished):
    root, first = finished
    code = (
        "import sys; from alignbench import cli; cli.main(); "
        "heavy = {'torch', 'diffusers', 'transformers', 'accelerate', 'peft', 'bitsandbytes', 'numpy', 'scipy'}; "
        "heavy &= {*sys.modules}; "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", code, *WORDS, f"results={root}"]
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "done before, and nothing has changed since" in again
    table = first[first.index("sft on sd15_mini: shapes") :]
    assert again.endswith(table)


@pytest.mark.matrix
def test_a_change_of_anything_makes_the_command_look_anew(finished, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(finished[0], root)
    alignbench(*WORDS, f"results={root}")  # the copy is another folder: noted anew
    assert recalled(root) is not None
    assert recalled(root, "sampling.batch_size=3") is None, "another setting"
    (run,) = root.glob("sft-*")
    for change in (
        lambda: next(run.glob("images/*/*/*.png")).unlink(),
        lambda: (root / "leaderboard.csv").unlink(),
        lambda: (run / "policy" / "extra").write_text(""),
        lambda: shutil.copytree(run, root / "dpo-of-another"),
        lambda: (run / FILE).write_text("{"),
        lambda: (run / FILE).write_text(json.dumps(json.loads((run / FILE).read_text()) | {"text": "something else"})),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(root, copy, copy_function=shutil.copy2)
        change()
        assert recalled(root) is None
        shutil.rmtree(root)
        copy.rename(root)
        assert recalled(root) is not None


def test_weights_that_may_move_are_looked_at(finished, monkeypatch):
    root, _ = finished
    assert recalled(root) is not None
    monkeypatch.setenv("RANK", "0")
    assert recalled(root) is None, "processes of one command must agree"
