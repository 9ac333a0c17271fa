"""What situations of users are made of: folders of data, results folders, and a run that was killed."""

import pytest

from tests.cases.killed_runs import fit
from tests.data.conftest import encoded, source
from tests.report.conftest import small_table, world
from tests.tiny_runs import DiesAt, Interrupted, sft

__all__ = ["encoded", "small_table", "source", "world"]


@pytest.fixture
def killed(tmp_path):
    """The checkpoints of a run that was killed after three updates."""
    with pytest.raises(Interrupted):
        fit(tmp_path / "killed", DiesAt(sft(), 3))
    return tmp_path / "killed" / "checkpoints"
