"""How a program ends whose output nobody reads any more."""

import subprocess
import sys

import pytest

from tests.pages import ROOT

LINES = """
from alignbench.terminal.endings import one_sentence
with one_sentence():
    for number in range(100_000):
        print(number)
"""


@pytest.mark.parametrize("program", [LINES, LINES.replace("print(number)", "print(number, flush=True)")])
def test_a_program_whose_reader_has_ended_ends_silently(program, tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout is not None
    assert writer.stderr is not None
    assert writer.stdout.readline() == b"0\n"
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait() == 141
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_breaks_elsewhere_is_a_defect(tmp_path):
    program = (
        "from alignbench.terminal.endings import one_sentence\nwith one_sentence():\n    raise BrokenPipeError(32, 'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"This is a defect of alignbench" in done.stderr
