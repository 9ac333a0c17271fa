"""Published weights of evaluators: where their files are, and how they get into a module without being copied."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.models.weights.hub import ask_hub
from alignbench.models.weights.missing import MissingWeightsError, going_on
from alignbench.models.weights.state_dicts import check_whole, misfits, shapes

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def checkpoint_file(source: str, filename: str, revision: str | None = None) -> Path:
    """Return the local path of a file of published weights, fetched from the hub if it is not here.

    Args:
        source: the file itself, a folder that holds `filename`, or a hub id.
        filename: the name it was published under.
        revision: commit, branch or tag on the hub.

    Raises:
        UserError: as `check_checkpoint` does.
    """
    _check(source, filename, revision)
    return _local_file(source, filename, revision) or Path(hf_hub_download(source, filename, revision=revision))


def check_checkpoint(source: str, filename: str, revision: str | None = None) -> None:
    """Make sure within seconds that `checkpoint_file` will find the file; nothing is fetched and no weights are read.

    Raises:
        UserError: if the folder lacks the file, or if it is neither here nor in the hub cache and the hub cannot help.
            Within `alignbench.models.weights.missing.all_missing` it is raised in the end, together with others.
    """
    with going_on():
        _check(source, filename, revision)


def _check(source: str, filename: str, revision: str | None) -> None:
    if (file := _local_file(source, filename, revision)) is not None:
        check_whole(file)
    else:
        expected = f"{filename} or its folder"
        if Path(source).is_dir():
            raise MissingWeightsError(
                f"{source} lacks {filename}; give {expected}, or an id of the hub such as owner/name"
            )
        ask_hub(source, filename, revision, f"{source} ({filename})", expected, download=f"{source} {filename}")


def _local_file(source: str, filename: str, revision: str | None) -> Path | None:
    """Return the file if it is here or in the hub cache."""
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return path / filename if (path / filename).is_file() else None
    try:
        cached = try_to_load_from_cache(source, filename, revision=revision)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def bytes_on_meta(make_module: Callable[[], nn.Module], dtype: str = "float32") -> int:
    """Return how many bytes a module takes in a dtype, by name; nothing is loaded."""
    with torch.device("meta"):
        module = make_module().to(getattr(torch, dtype))
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def assign(make_module: Callable[[], ModuleT], state_dict: Mapping[str, Tensor]) -> ModuleT:
    """Return a module, frozen and in eval mode, whose parameters are these very tensors, in their own dtypes.

    The module is built without memory, so that nothing is initialised in vain. Position ids, which transformers keeps
    in buffers that old checkpoints store and new ones do not, are counted anew.

    Raises:
        UserError: if a tensor is missing, left over, or of another shape than the module's.
    """
    with torch.device("meta"):
        module = make_module()
    positions = {key: buffer for key, buffer in module.named_buffers() if key.rpartition(".")[2] == "position_ids"}
    tensors = {key: tensor for key, tensor in state_dict.items() if key not in positions}
    expected = {key: tensor for key, tensor in module.state_dict().items() if key not in positions}
    if faults := misfits(shapes(expected), shapes(tensors)):
        raise UserError(
            f"the weights do not fit {type(module).__name__}; {faults}; "
            "give the published file, or the architecture that the weights were made with"
        )
    # strict but for the position ids, which a module may count among its state
    module.load_state_dict(tensors, strict=not positions, assign=True)
    for key, buffer in positions.items():
        owner, _, name = key.rpartition(".")
        setattr(module.get_submodule(owner), name, torch.arange(buffer.shape[-1]).expand(buffer.shape))
    if unset := [key for key, buffer in module.named_buffers() if buffer.is_meta]:
        raise ValueError(f"{type(module).__name__} keeps {', '.join(unset)} out of its state; assign cannot fill it")
    return module.requires_grad_(False).eval()
