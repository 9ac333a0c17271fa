"""The README's pictures of the report are made by a program, from any results."""

import sys

import pytest
from PIL import Image

from benchmarks import screenshots


def test_each_view_becomes_a_small_picture_of_its_window(browser, tmp_path, monkeypatch):
    (tmp_path / "index.html").write_text("<body style='background: rgb(0, 128, 0)'>")
    monkeypatch.setattr(sys, "argv", ["screenshots.py", str(tmp_path), "--to", str(tmp_path / "pictures")])
    screenshots.main()
    for name, (_, size) in screenshots.VIEWS.items():
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert picture.size == size
            assert picture.convert("RGB").getpixel((9, 9)) == (0, 128, 0)


def test_results_without_a_page_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["screenshots.py", str(tmp_path)])
    monkeypatch.setattr(screenshots.shutil, "which", lambda name: name)
    with pytest.raises(SystemExit):
        screenshots.main()
    assert "index.html is missing" in capsys.readouterr().err
