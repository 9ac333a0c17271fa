"""Lines at a terminal: a fact that is longer than a line goes on in its column."""

import io

from rich.console import Console

from alignbench.terminal.console import FACT_INDENT, open_console, print_fact


def printed(width, name, told):
    console = Console(file=io.StringIO(), width=width)
    print_fact(console, name, told)
    return console.file.getvalue()


def test_a_fact_goes_on_in_its_column():
    told = "16 samples an update = 1 process x 1 micro-batch of 16; 60 updates, full tuning"
    first, *others = printed(80, "batch", told).splitlines()
    assert first.startswith("  batch       16 samples")
    assert [line[:FACT_INDENT].strip() for line in others] == [""]
    assert all(len(line) <= 80 and line == line.rstrip() for line in (first, *others))
    assert " ".join(line[FACT_INDENT:] for line in (first, *others)) == told


def test_a_word_longer_than_a_line_is_not_cut():
    assert f"{'x' * 100}\n" in printed(40, "data", f"of {'x' * 100}")


def test_a_notebook_gets_lines_and_no_blocks_of_their_own(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert Console().is_jupyter, "else this test says nothing"
    open_console().print("one line")
    assert capsys.readouterr().out == "one line\n"
