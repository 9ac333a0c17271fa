"""B5: a file of weights that is cut, empty or something else is named before anything loads, with what is wrong."""

import pytest
import torch
from safetensors.torch import save_file

from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.weights.state_dicts import check_whole, read_state_dict

STATE = {"weight": torch.arange(40_000.0)}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def saved(path):
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization="old" not in path.name)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pt", None, r"a\.pt is cut, at [\d,]+ bytes; fetch it again"),
        ("a.safetensors", None, r"a\.safetensors is cut, at 80,\d+ of 160,\d+ bytes; fetch it again"),
        ("a.safetensors", b"\1", r"a\.safetensors is no whole safetensors file"),
        ("a.pt", b"", r"a\.pt is empty; fetch it again"),
        ("a.bin", b"version https://git-lfs.github.com/spec/v1\n", r"a\.bin is a pointer of Git LFS"),
        ("a.pth", b"<!DOCTYPE html><html>", r"a\.pth is no file of weights: it begins with b'<!DOCTYPE ht'"),
    ],
)
def test_the_file_is_named_with_what_is_wrong(tmp_path, name, content, told):
    file = tmp_path / name
    if content is None:
        saved(file)
        cut(file)
    else:
        file.write_bytes(content)
    for read in (check_whole, read_state_dict):
        with pytest.raises(UserError, match=told):
            read(file)


@pytest.mark.parametrize("name", ["a.pt", "old.pt", "a.safetensors"])
def test_a_whole_file_is_read(tmp_path, name):
    saved(tmp_path / name)
    check_whole(tmp_path / name)
    assert read_state_dict(tmp_path / name)["weight"].equal(STATE["weight"])


def test_what_only_reading_shows_is_told_in_a_sentence_too(tmp_path):
    saved(tmp_path / "old.pt")
    cut(tmp_path / "old.pt")
    with pytest.raises(UserError, match=r"old\.pt is damaged \(.*\); fetch it again"):
        read_state_dict(tmp_path / "old.pt")
    torch.save(torch.zeros(2), tmp_path / "one.pt")
    with pytest.raises(UserError, match=r"one\.pt holds a Tensor and no tensors by name"):
        read_state_dict(tmp_path / "one.pt")


def refusal(*words):
    with pytest.raises(UserError) as refused:
        check_command_line(["method=base", "evaluators=shapes", "prompts=shapes", *words], multirun=False)
    return str(refused.value)


def test_a_scorer_that_is_cut_is_refused_with_the_command(tmp_path):
    file = tmp_path / "HPS_v2.1_compressed.pt"
    saved(file)
    cut(file)
    add = ["+evaluator@evaluators.hps=hpsv2_1", f"evaluators.hps.source={tmp_path}"]
    assert refusal("model=sd15_mini", *add).startswith(f"{file} is cut, at ")


def test_a_network_and_a_policy_that_are_cut_are_refused_with_the_command(tmp_path):
    tiny_stable_diffusion().save_pretrained(tmp_path / "model")
    model = ["model=sd15", f"model.pretrained_model_name_or_path={tmp_path / 'model'}"]
    save_file(STATE, tmp_path / "policy.safetensors")
    cut(tmp_path / "policy.safetensors")
    told = refusal(*model, f"model.policy={tmp_path / 'policy.safetensors'}")
    assert told.startswith(f"{tmp_path / 'policy.safetensors'} is cut, at ")
    file = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    cut(file)
    assert refusal(*model).startswith(f"{file} is cut, at ")
