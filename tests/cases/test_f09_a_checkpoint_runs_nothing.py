"""F9: a run that goes on reads tensors and numbers of its checkpoint, and runs nothing that lies in it."""

import os
import pickle

import pytest
import torch

from alignbench.errors import UserError
from alignbench.files import sha256, write_json
from alignbench.store.checkpoint_files import DIGESTS
from tests.cases.killed_runs import fit
from tests.tiny_runs import sft


class Payload:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("file", ["generators-0.pt", "state.pt"])
def test_a_planted_pickle_in_a_checkpoint_is_not_run(tmp_path, killed, file):
    """Whoever plants it can write digests, too."""
    for step in ("step-2", "step-3"):
        with (killed / step / file).open("wb") as pickled:
            torch.save({"python": Payload(tmp_path / "ran")}, pickled)
        digests = {one.name: sha256(one) for one in (killed / step).iterdir() if one.name != DIGESTS}
        write_json(killed / step / DIGESTS, digests)
    with pytest.raises(UserError, match=f"{file} holds more than tensors and numbers, which could run code"):
        fit(tmp_path / "killed", sft())
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_in_place_of_a_checkpoint_is_not_run(tmp_path, killed):
    for step in ("step-2", "step-3"):
        (killed / step / "generators-0.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
        (killed / step / DIGESTS).unlink()
    with pytest.raises(UserError, match="holds more than tensors and numbers, which could run code"):
        fit(tmp_path / "killed", sft())
    assert not (tmp_path / "ran").exists()
