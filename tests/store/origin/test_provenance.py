"""What results say of where they come from."""

import re
from types import SimpleNamespace

from hydra.core.hydra_config import HydraConfig

from alignbench.store.origin.provenance import command, commit, now


def test_a_machine_without_git_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None


def test_the_command_of_a_job_can_be_typed_again(monkeypatch):
    overrides = SimpleNamespace(task=["method=dpo", "model=sd15_mini", "data.path=/my pictures"])
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(overrides=overrides))
    assert command() == "python -m alignbench method=dpo model=sd15_mini 'data.path=/my pictures'"


def test_a_run_that_python_started_has_no_command(monkeypatch):
    monkeypatch.setattr(HydraConfig, "initialized", lambda: False)
    assert command() is None


def test_dates_are_to_the_minute():
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", now())
