"""Files of tensors: every format gives the same ones, and what is no such file ends in one sentence."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alignbench.errors import UserError
from alignbench.models.weights.state_dicts import misfits, read_state_dict, safetensors_header


@pytest.mark.parametrize("layout", ["safetensors", "pt", "state_dict", "legacy"])
def test_every_format_gives_the_same_tensors(tmp_path, layout):
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    file = tmp_path / f"weights.{'safetensors' if layout == 'safetensors' else 'pt'}"
    if layout == "safetensors":
        save_file(tensors, file)
    else:
        content = {"state_dict": tensors, "epoch": 3} if layout == "state_dict" else tensors
        torch.save(content, file, _use_new_zipfile_serialization=layout != "legacy")
    found = read_state_dict(file)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) and found[key].dtype == tensors[key].dtype for key in tensors)


def test_a_pickled_network_is_not_run(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "unet.pth")
    with pytest.raises(UserError, match=r"unet.pth holds more than tensors.*save its state_dict alone"):
        read_state_dict(tmp_path / "unet.pth")


def test_the_header_tells_the_shapes_and_a_cut_file_is_no_such_file(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(2, 3)}, file)
    assert safetensors_header(file)["weight"]["shape"] == [2, 3]
    for content in (file.read_bytes()[:20], b"", b"no tensors at all"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="no whole safetensors file"):
            safetensors_header(file)


def test_misfits_are_named_by_kind():
    assert misfits({"a": (1,)}, {"a": [1]}) == ""
    told = misfits({"a": (1,), "b": (2, 2)}, {"b": (2, 3), "c": (1,)})
    assert told == "missing: a; left over: c; of another shape: b is (2, 3) instead of (2, 2)"
