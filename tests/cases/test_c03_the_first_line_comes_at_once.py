"""C3: a command answers before it loads what takes seconds, and steps that take seconds show how far they are."""

import subprocess
import sys

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
