"""C3: a command answers before it loads what takes seconds, and shows at a terminal that it goes on."""

import io
import subprocess
import sys

from alignbench import cli

CODE = """
import sys
from alignbench import cli

def tell_what_is_loaded(*_):
    print(*sorted({"torch", "diffusers", "transformers", "numpy", "pandas", "scipy"} & set(sys.modules)))
    sys.exit()

cli.check_command_line = tell_what_is_loaded
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
        with cli._waiting("loading libraries"):
            pass
        shown[kind] = sys.stderr.getvalue()
    assert "loading libraries" in shown[Terminal]
    assert shown[io.StringIO] == ""
