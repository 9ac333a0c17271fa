"""What commands of the pages need to pass their checks without weights."""

from pathlib import Path

import pytest

from alignbench.models.weights import component, find_policy, loading
from evaluators.networks import checkpoint


@pytest.fixture
def scorers_at_hand(monkeypatch):
    """Published scorers count as fetched, and the files of placeholders as whole."""
    monkeypatch.setattr(checkpoint, "_local_file", lambda source, filename, _: Path(source) / filename)
    for module in (checkpoint, loading, find_policy, component):
        monkeypatch.setattr(module, "check_whole", lambda _: None)
