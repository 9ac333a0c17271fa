"""The README's pictures of the report are made by a program, from any results."""

import sys

import pytest
from PIL import Image

from benchmarks import screenshots


def test_each_view_becomes_a_small_picture_of_its_window(browser, tmp_path, monkeypatch):
    roots = {(0, 128, 0): screenshots.OF_RESULTS, (0, 0, 128): screenshots.OF_RUINED}
    for colour in roots:
        (tmp_path / str(colour)).mkdir()
        (tmp_path / str(colour) / "index.html").write_text(f"<body style='background: rgb{colour}'>")
    given = [*(str(tmp_path / str(colour)) for colour in roots), "--to", str(tmp_path / "pictures")]
    monkeypatch.setattr(sys, "argv", ["screenshots.py", *given])
    screenshots.main()
    for colour, views in roots.items():
        for name, (_, size) in views.items():
            with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
                assert picture.size == size
                assert picture.convert("RGB").getpixel((9, 9)) == colour


def test_results_without_a_page_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["screenshots.py", str(tmp_path), str(tmp_path)])
    monkeypatch.setattr(screenshots.shutil, "which", lambda name: name)
    with pytest.raises(SystemExit):
        screenshots.main()
    assert "index.html is missing" in capsys.readouterr().err
