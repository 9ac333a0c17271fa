"""Networks that are left out because what they would compute is known, and what tells their weights apart."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.files import file_digest


def on_meta(class_name: str, config: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return a network of diffusers or transformers whose tensors have shape and dtype and take no memory."""
    import diffusers
    import transformers

    with torch.device("meta"):
        if hasattr(diffusers, class_name):
            network = getattr(diffusers, class_name).from_config(config)
        else:
            network_class = getattr(transformers, class_name)
            network = network_class(network_class.config_class.from_dict(config))
    return nn.Module.to(network, dtype)


def drop(network: nn.Module) -> nn.Module:
    """Take the weights of a network away, for good; its configuration stays, and where it had weights their digest."""
    own = vars(network)
    if not ("files" in own or next(network.parameters()).is_meta):
        own["digest"] = weights_digest(network)
    own["dropped"] = True
    return nn.Module.to(network, "meta")


def is_without_weights(network: nn.Module) -> bool:
    """Say whether a network was left out."""
    return vars(network).get("dropped", False)


def note_files(network: nn.Module, files: Sequence[Path]) -> None:
    """Note which files a frozen network comes from, so that they tell its weights apart."""
    vars(network)["files"] = tuple(files)


def weights_digest(network: nn.Module) -> str:
    """Return what tells the weights of a frozen network from all others: of its files where they are known."""
    own = vars(network)
    if "digest" in own:
        return own["digest"]
    digest = hashlib.sha256()
    if "files" in own:
        for file in own["files"]:
            digest.update(f"{file.name}\0{file_digest(file)}\n".encode())
        return digest.hexdigest()
    if is_without_weights(network):
        raise UserError(
            f"the {type(network).__name__} was left out and its files are not here, so nothing tells its weights "
            "apart; fetch the whole model first, with `hf download`"
        )
    return content_digest(network)


def content_digest(network: nn.Module) -> str:
    """Return the digest of the configuration and tensors that a network has now, wherever they come from."""
    digest = hashlib.sha256()
    config = {key: value for key, value in _config(network).items() if not key.startswith("_")}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _config(network: Any) -> dict[str, Any]:
    config = network.config
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
