"""Weights are found where the user says, refused in one sentence, and put into modules without a copy."""

import pytest
import torch
from huggingface_hub import constants, errors
from torch import nn

from alignbench.errors import UserError
from alignbench.models.weights import hub
from evaluators.networks.checkpoint import assign, check_checkpoint, checkpoint_file


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def sentence_of(source, filename="weights.pt", revision=None) -> str:
    with pytest.raises(UserError) as caught:
        check_checkpoint(str(source), filename, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- files


def test_a_file_and_a_folder_are_taken_as_they_are(tmp_path):
    file = tmp_path / "mine.pt"
    torch.save({}, file)
    assert checkpoint_file(str(file), "weights.pt") == file
    assert checkpoint_file(str(tmp_path), "mine.pt") == file


def test_a_folder_without_the_file_is_refused(tmp_path):
    assert sentence_of(tmp_path).startswith(f"{tmp_path} lacks weights.pt; give weights.pt or its folder")


def test_a_path_that_is_not_there_is_refused():
    assert "/no/such/file.pt (weights.pt) is neither here nor a hub id" in sentence_of("/no/such/file.pt")


def test_without_a_connection_the_sentence_says_what_to_download(monkeypatch):
    def refuse(*_, **__):
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    sentence = sentence_of("some/model", revision="abc")
    assert sentence.startswith("some/model (weights.pt) at revision abc is neither here nor whole in the local hub")
    assert "run `hf download some/model weights.pt --revision abc` while connected, or give weights.pt" in sentence


def test_a_cached_file_is_found_without_asking(tmp_path):
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    torch.save({}, snapshot / "weights.pt")
    refs = tmp_path / "hub" / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    assert checkpoint_file("some/model", "weights.pt") == snapshot / "weights.pt"
    assert checkpoint_file("some/model", "weights.pt", "0" * 40) == snapshot / "weights.pt"


# ---- modules


class Positions(nn.Module):
    """Embeds numbered positions as transformers' models do."""

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 2)
        self.register_buffer("position_ids", torch.arange(4).expand(1, -1), persistent=persistent)


def test_the_module_takes_the_tensors_themselves_and_is_frozen():
    state = {"weight": torch.ones(2, 3, dtype=torch.float16), "bias": torch.zeros(2)}
    module = assign(lambda: nn.Linear(3, 2), state)
    assert module.weight.data_ptr() == state["weight"].data_ptr()
    assert module.weight.dtype == torch.float16
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("persistent", [True, False])
def test_position_ids_are_counted_anew_whether_stored_or_not(stored, persistent):
    ids = {"position_ids": torch.full((1, 4), 7)} if stored else {}
    module = assign(lambda: Positions(persistent), {"embedding.weight": torch.ones(4, 2)} | ids)
    assert module.position_ids.tolist() == [[0, 1, 2, 3]]
    assert "position_ids" in dict(module.named_buffers())
    assert ("position_ids" in module.state_dict()) == persistent


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"weight": (2, 3)}, "the weights do not fit Linear; missing: bias; give"),
        ({"weight": (2, 3), "bias": (2,), "extra": (1,)}, "left over: extra;"),
        ({"weight": (2, 4), "bias": (2,)}, r"of another shape: weight is \(2, 4\) instead of \(2, 3\);"),
        ({"weight": (2, 3), "b1": (1,), "b2": (1,), "b3": (1,), "b4": (1,)}, "left over: b1, b2, b3 and 1 more;"),
    ],
)
def test_tensors_that_do_not_fit_are_named(state, complaint):
    with pytest.raises(UserError, match=complaint):
        assign(lambda: nn.Linear(3, 2), {key: torch.zeros(shape) for key, shape in state.items()})


def test_a_buffer_that_nothing_fills_is_an_error():
    def make():
        module = nn.Linear(3, 2)
        module.register_buffer("mask", torch.ones(3), persistent=False)
        return module

    with pytest.raises(ValueError, match="Linear keeps mask out of its state"):
        assign(make, nn.Linear(3, 2).state_dict())
