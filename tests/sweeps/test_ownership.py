"""A command in a results folder is a user's own if that user's key signed it."""

import pytest

from alignbench.files import cache_folder
from alignbench.sweeps.ownership import KEY_FILE, is_own, signature


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_command_that_was_signed_is_own_and_no_other():
    signed = signature(["-m", "seed=0,1"], "/here")
    assert is_own(["-m", "seed=0,1"], "/here", signed)
    assert not is_own(["-m", "seed=0,2"], "/here", signed)
    assert not is_own(["-m", "seed=0,1"], "/there", signed)
    assert not is_own(["-m", "seed=0,1"], "/here", "")
    assert not is_own(["-m", "seed=0,1"], "/here", "é")


def test_another_users_signature_is_not_own(tmp_path, monkeypatch):
    signed = signature(["-m"], "/here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another"))
    assert not is_own(["-m"], "/here", signed), "there is no key yet"
    signature(["-m"], "/here")
    assert not is_own(["-m"], "/here", signed)


def test_the_key_is_made_once_and_only_its_user_reads_it():
    assert signature(["-m"], "/here") == signature(["-m"], "/here")
    key = cache_folder() / KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 64
    assert [file.name for file in key.parent.iterdir()] == [KEY_FILE]
