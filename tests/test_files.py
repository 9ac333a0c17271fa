import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from alignbench import files
from alignbench.reading import read_json_lines


def test_a_kill_between_write_and_replace_leaves_the_old_file(tmp_path):
    """A child writes the temporary file in full and dies by SIGKILL just before the replace."""
    path = tmp_path / "manifest.json"
    files.write_json(path, {"step": 1})
    program = (
        "import os, signal, sys; from pathlib import Path; from alignbench import files\n"
        "files.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_json(Path(sys.argv[1]), {'step': 2})"
    )
    child = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"step": 1}
    files.write_json(path, {"step": 3})
    assert json.loads(path.read_text()) == {"step": 3}


def test_a_failed_write_raises_and_leaves_neither_half_a_file_nor_a_temporary_one(tmp_path):
    with pytest.raises(KeyError):
        files.write_csv(tmp_path / "table.csv", ["a"], [{"a": 1}, {"b": 1}])
    assert list(tmp_path.iterdir()) == []


def test_processes_of_one_number_on_two_machines_may_write_the_same_file(tmp_path):
    with files.replacing(tmp_path / "a.txt") as one, files.replacing(tmp_path / "a.txt") as other:
        one.write_text("one")
        other.write_text("other")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["one"]


def test_what_cannot_be_stored_stops_the_caller(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "a.txt", "a")
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_made(tmp_path):
    files.write_text(tmp_path / "a" / "b.txt", "line\r\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"line\r\n"


def test_a_csv_keeps_nine_digits_and_leaves_what_is_unknown_empty(tmp_path):
    row = {"a": 1 / 3, "b": None, "c": float("nan"), "d": True, "e": "x,y"}
    files.write_csv(tmp_path / "t.csv", list(row), [row])
    assert (tmp_path / "t.csv").read_text() == 'a,b,c,d,e\n0.333333333,,,True,"x,y"\n'


def test_a_log_line_cut_by_a_kill_is_skipped(tmp_path):
    log = tmp_path / "train.jsonl"
    files.append_json_lines(log, [{"step": 1, "prompt": "naïve"}])
    with log.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_json_lines(log) == [{"step": 1, "prompt": "naïve"}]


def test_a_log_goes_on_after_a_cut_line(tmp_path):
    log = tmp_path / "train.jsonl"
    files.append_json_lines(log, [{"step": 1}])
    with log.open("a") as file:
        file.write('{"step": 2, "lo')
    files.append_json_lines(log, [{"step": 2}])
    assert read_json_lines(log) == [{"step": 1}, {"step": 2}]


def test_prompts_with_unusual_line_separators_stay_one_line(tmp_path):
    records = [{"prompt": "a\u2028b\x85c\nd"}, {"prompt": ""}]
    files.write_json_lines(tmp_path / "p.jsonl", records)
    assert read_json_lines(tmp_path / "p.jsonl") == records


def test_equal_pixels_give_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        files.write_png(tmp_path / name, Image.new("RGB", (4, 4), "red"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_digest_of_a_folder_follows_names_and_contents(tmp_path):
    files.write_text(tmp_path / "folder" / "a", "1")
    first = files.sha256(tmp_path / "folder")
    assert first == files.sha256(tmp_path / "folder")
    (tmp_path / "folder" / "a").rename(tmp_path / "folder" / "b")
    second = files.sha256(tmp_path / "folder")
    files.write_text(tmp_path / "folder" / "b", "2")
    assert len({first, second, files.sha256(tmp_path / "folder")}) == 3
