"""The simulation of stars prints its tables, on few comparisons."""

import sys

from benchmarks import significance


def test_it_prints_all_tables(monkeypatch, capsys):
    monkeypatch.setattr(significance, "NUM_PROMPTS", (20, 30))
    monkeypatch.setattr(sys, "argv", ["significance", "--comparisons", "20"])
    significance.main()
    said = capsys.readouterr().out
    assert said.count("## ") == 4
    assert "| 1 | 8 | 20 | 4 | cannot tell | cannot tell |" in said
    assert "| 3 | 8 | 20 | 4 | " in said
