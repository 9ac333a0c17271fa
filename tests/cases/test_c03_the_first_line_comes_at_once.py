"""C3: a command answers before it loads what takes seconds, and shows at a terminal that it goes on."""

import io
import os
import subprocess
import sys

import pytest
from tqdm import tqdm

from alignbench.data.sources import shapes
from alignbench.miniature.annotators import Population
from alignbench.terminal import signals
from alignbench.terminal.waiting import waiting

CODE = """
import sys
from alignbench import cli

def tell_what_is_loaded(*_):
    print(*sorted({"torch", "diffusers", "transformers", "numpy", "pandas", "scipy"} & set(sys.modules)))
    sys.exit()

cli.checked_jobs = tell_what_is_loaded
cli.main()
"""


def test_the_command_is_repeated_before_any_library_is_loaded():
    """The check of the command is the first that loads some."""
    words = ["method=dpo", "model=sd15_mini"]
    told = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=True).stdout
    head, loaded = told.splitlines()
    assert head.startswith("alignbench ")
    assert head.endswith("  method=dpo model=sd15_mini")
    assert loaded == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_while_libraries_load_a_terminal_shows_it_and_a_file_does_not(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = {}
    for kind in (Terminal, io.StringIO):
        monkeypatch.setattr(sys, "stderr", kind())
        with waiting("loading libraries"):
            pass
        shown[kind] = sys.stderr.getvalue()
    assert "loading libraries" in shown[Terminal]
    assert shown[io.StringIO] == ""


def test_who_ends_the_program_meanwhile_gets_the_cursor_back(monkeypatch):
    ours, theirs = os.openpty()
    monkeypatch.setattr(sys, "__stderr__", os.fdopen(theirs, "w"))
    signals._say("ended at once")
    assert os.read(ours, 200).startswith(signals.SHOW_CURSOR.encode())
    os.close(ours)


@pytest.mark.parametrize(("delay", "shown"), [(0, True), (600, False)])
def test_pairs_that_take_long_are_drawn_with_a_bar(monkeypatch, capsys, delay, shown):
    monkeypatch.setattr(shapes, "tqdm", lambda *words, **settings: tqdm(*words, **settings | {"delay": delay}))
    votes = {"annotators": Population(), "num_votes": 5, "posterior": "mode"}
    source = shapes.ShapesData("shapes", 2, 3, **votes, fault_share=0.4, dirt_share=0.3, seed=7 + delay)
    assert source.pairs
    assert ("draw pairs: 100%" in capsys.readouterr().err) is shown
