"""The command: its words, its exit status, and what it loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from alignbench.capsule.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def run(*words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["capsule", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_refusal_is_one_sentence_and_status_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.tar").write_bytes(b"x" * 20000)
    for words, message in (
        (("verify", tmp_path / "a.tar"), "is no capsule"),
        (("verify", tmp_path / "a.tar", "--share", "0"), "--share 0 must be above 0 and at most 1"),
        (("merge", tmp_path / "a.tar", tmp_path / "results"), "is no capsule"),
        (("pack", tmp_path, "--out", tmp_path / "b.tar"), "is not a run folder"),
    ):
        assert run(*words, monkeypatch=monkeypatch) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert run("pack", tmp_path, monkeypatch=monkeypatch) == 2


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['capsule', '--help']\n"
        "from alignbench.capsule.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'PIL', 'hydra', 'diffusers', 'pydantic'} & {*sys.modules}\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (found.returncode, found.stderr) == (0, "")
    assert "pack RUN" in found.stdout
