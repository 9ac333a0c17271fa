"""C2: whoever copies the commands of the first pages in their order has what each of them needs."""

import re

import pytest

from tests.pages import README, ROOT, command_lines, name

INSTALLS = "pip install uv && uv run python -m alignbench"
ACTIVATES = "source .venv/bin/activate"


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "index.md"], ids=name)
def test_a_bare_python_comes_after_the_environment_is_made_and_activated(page):
    text = page.read_text()
    first = re.search(r"^(\w+=\S+ )*(python|accelerate) ", text, re.MULTILINE)
    assert 0 < text.index(INSTALLS) < text.index(ACTIVATES) < first.start()


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "index.md"], ids=name)
def test_the_size_of_what_is_installed_is_said_beside_the_command(page):
    text = page.read_text()
    assert re.search(r"\d+ GB on disk", text[text.index(INSTALLS) : text.index(ACTIVATES)])


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "index.md"], ids=name)
def test_the_program_is_started_in_one_form(page):
    """The short name `alignbench` is for the shell's completion alone."""
    for command in command_lines(page):
        assert not re.match(r"(uv run )?alignbench\b", command), command
