"""Where encoded prompts and images are kept: a folder for each way to encode them, shared by all runs."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignbench.crop import CropSpec
from alignbench.data.storage.tensor_store import TensorStore, key_of
from alignbench.files import write_json
from alignbench.former_names import former_class_name
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.without_weights import weights_digest
from alignbench.settings.data import Posterior

FORMAT = 1  # to be raised when the program encodes prompts or images in another way


@dataclass(frozen=True)
class Caches:
    """What is kept of the prompts and images of a model.

    Attributes:
        prompts: features of prompts, by `prompt_key`.
        latents: mean, and where draws are made standard deviation, of the VAE's posterior, by `picture_key`.
        made_by: for each folder what decides the values in it.
    """

    prompts: TensorStore
    latents: TensorStore
    made_by: dict[Path, dict[str, Any]]

    @classmethod
    def open(cls, root: Path, model: ModelAdapter, posterior: Posterior, device: torch.device) -> "Caches":
        """Open the caches below `root` that belong to a model; its networks may have been left out.

        Two folders differ if anything does that changes a value: weights and configuration of the networks, tokenizers,
        dtypes, precision, resolution. Of the device it is the kind, for a CPU rounds otherwise than a GPU.
        """
        made_by = {
            _folder(root / kind, identity): identity
            for kind, identity in (
                ("prompts", text_identity(model, device)),
                ("latents", image_identity(model, posterior, device)),
            )
        }
        prompts, latents = made_by
        return cls(TensorStore(prompts), TensorStore(latents), made_by)

    @staticmethod
    def exist(root: Path) -> bool:
        """Say whether anything was ever prepared below `root`."""
        return (root / "prompts").is_dir()

    def describe(self) -> None:
        """Write beside the shards what made them."""
        for folder, identity in self.made_by.items():
            write_json(folder / "made_by.json", identity)


def prompt_key(text: str) -> bytes:
    """Return the key of a prompt's features."""
    return key_of(text)


def picture_key(address: str, cut: CropSpec) -> bytes:
    """Return the key of the latents of what is cut out of an image."""
    return key_of(address, cut.name)


def text_identity(model: ModelAdapter, device: torch.device) -> dict[str, Any]:
    """Return all that decides what the model makes of a prompt."""
    pipeline = model.pipeline
    kinds = ("tokenizer", "processor")  # a processor is a tokenizer with what it does to images
    tokenizers = {name: part for name, part in pipeline.components.items() if name.startswith(kinds)}
    return {
        "format": FORMAT,
        "adapter": former_class_name(type(model)),
        "networks": {name: _network(getattr(pipeline, name)) for name in model.frozen_parts if name != "vae"},
        "tokenizers": {name: _tokenizer(part) for name, part in tokenizers.items()},
        **model.text_settings,
        **_per_call(model.prompts_per_call),
        **_precision(device),
    }


def image_identity(model: ModelAdapter, posterior: Posterior, device: torch.device) -> dict[str, Any]:
    """Return all that decides what the model makes of an image of a given size."""
    return {
        "format": FORMAT,
        "vae": _network(model.pipeline.vae),
        "posterior": posterior,
        **_per_call(model.images_per_call),
        **_precision(device),
    }


def _folder(parent: Path, identity: dict[str, Any]) -> Path:
    return parent / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _network(network: Any) -> dict[str, str] | None:
    if network is None:  # a pipeline may lack a text encoder
        return None
    return {"class": type(network).__name__, "dtype": str(network.dtype), "weights": weights_digest(network)}


def _tokenizer(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    template = getattr(tokenizer, "chat_template", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    del state["truncation"], state["padding"]  # these follow its last call
    beside = [type(tokenizer).__name__, tokenizer.model_max_length, tokenizer.padding_side, tokenizer.pad_token]
    beside += [] if template is None else [template]
    return hashlib.sha256(json.dumps([state, beside]).encode()).hexdigest()


def _per_call(num: int) -> dict[str, int]:
    """Return what tells entries that are encoded in batches from those encoded alone, as all once were."""
    return {"per_call": num} if num > 1 else {}


def _precision(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"device": "cpu"}
    return {"device": device.type, "tf32": torch.backends.cuda.matmul.allow_tf32}
