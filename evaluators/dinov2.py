"""Unit image features of DINOv2, a network that was trained on images alone: it sees content, not what words name."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from alignbench.errors import UserError
from alignbench.evaluator import Features
from alignbench.files import file_digest
from alignbench.reading import read_json_object
from evaluators.clip_reward import unit
from evaluators.networks.checkpoint import check_checkpoint, checkpoint_file
from evaluators.networks.clip import Precision, check_precision
from evaluators.networks.preprocess import Dinov2Pixels

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Dinov2Features(Features):
    """The class token of DINOv2 behind its last normalisation, as a unit vector.

    Args:
        name: in tables, by the size of the network.
        source: hub id, or folder that holds model.safetensors and config.json; None for the published of that size.
        revision: of the hub's repository.
        precision: in which numbers the network computes; unit vectors are always float32.

    Raises:
        UserError: the weights are not there, or the precision is unknown.

    Source: Oquab et al. 2023 (DINOv2), arXiv 2304.07193; Dinov2Model of transformers.
    """

    version = "1"

    def __init__(
        self,
        name: Literal["dinov2_small", "dinov2_base", "dinov2_large", "dinov2_giant"] = "dinov2_base",
        source: str | None = None,
        revision: str | None = None,
        precision: Precision = "float32",
    ) -> None:
        check_precision(precision)
        source = source or f"facebook/{name.replace('_', '-')}"
        for filename in (WEIGHTS, CONFIG):
            check_checkpoint(source, filename, revision)
        self.name, self.source, self.revision = name, source, revision
        self.precision: Precision = precision
        self.preprocess = Dinov2Pixels()

    @property
    def file(self) -> Path:
        """The weights on the disk."""
        return checkpoint_file(self.source, WEIGHTS, self.revision)

    @property
    def weights(self) -> str:
        return file_digest(self.file)

    @cached_property
    def network(self) -> Dinov2Model:
        """The network, frozen.

        Transformers names its layers otherwise than the published file, so it has to read the file itself.

        Raises:
            UserError: weights and configuration are not of one DINOv2.
        """
        config = checkpoint_file(self.source, CONFIG, self.revision)
        if (kind := read_json_object(config).get("model_type")) != Dinov2Config.model_type:
            raise UserError(f"{config} is of a {kind}, expected a {Dinov2Config.model_type}; give the published folder")
        loaded: Any = Dinov2Model.from_pretrained(
            self.file.parent, local_files_only=True, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, dtype=getattr(torch, self.precision),
        )  # fmt: skip
        network, found = loaded
        if wrong := sorted({str(key) for keys in found.values() for key in keys}):
            raise UserError(
                f"{self.file} does not fit {config}: {', '.join(wrong[:3])}{' and others' if len(wrong) > 3 else ''} "
                "missing, left over or of another shape; give the published folder"
            )
        return network.requires_grad_(False).eval()

    def rows(self, inputs: Tensor) -> Tensor:
        output = self.network(pixel_values=inputs.to(self.device, self.network.dtype))
        return unit(output.pooler_output)
