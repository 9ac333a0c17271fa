"""Aesthetic predictors: how beautiful people find an image, an affine function of an image tower's unit features."""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection, SiglipConfig, SiglipModel

from alignbench.errors import UserError
from alignbench.evaluator import Reward
from alignbench.files import file_digest
from alignbench.models.weights.state_dicts import read_state_dict
from alignbench.reading import read_json_object
from evaluators.clip_reward import unit
from evaluators.networks.checkpoint import assign, bytes_on_meta, check_checkpoint, checkpoint_file
from evaluators.networks.clip import (
    Precision,
    check_precision,
    checkpoint_layers,
    clip_config,
    image_pass,
    load_clip_vision,
)
from evaluators.networks.preprocess import ClipPixels, Pixels, SiglipPixels

LAION_HEAD = Path(__file__).parent / "heads" / "laion_aesthetic_l14_affine.json"
LAION_FILE = "sac+logos+ava1-l14-linearMSE.pth"
V2_5_FILE = "aesthetic_predictor_v2_5.pth"
NUM_LAYERS = 5  # of either head, without activations between them

# google/siglip-so400m-patch14-384, config.json
SO400M = {
    "image_size": 384, "patch_size": 14, "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip


class AestheticReward(Reward):
    """Beauty of an image; the prompt is not read, so relative rewards, which compare prompts, have no gradient.

    A fixed direction in feature space: the easiest of all rewards to exploit.

    Args:
        source: hub id, folder that holds model.safetensors, or the file: the image tower.
        revision: of the hub's repository.
        head: file of the head, either its five linear layers or, as .json, the affine function they amount to.
        preprocess: the published pixel pipeline.
        precision: in which numbers the tower computes; unit vector and head are always float32.
        gradient_checkpointing: compute the tower's layers twice instead of keeping their activations for the gradient.

    Raises:
        UserError: the tower's weights are not there, or the precision is unknown.
    """

    version = "1"
    preprocess: Pixels
    output: ClassVar[str]  # under which name the tower's output holds the features

    def __init__(
        self,
        source: str,
        revision: str | None,
        head: Path,
        preprocess: Pixels,
        precision: Precision,
        gradient_checkpointing: bool,
    ) -> None:
        check_precision(precision)
        check_checkpoint(source, "model.safetensors", revision)
        self.source, self.revision, self.head = source, revision, head
        self.preprocess = preprocess
        self.precision: Precision = precision
        self.gradient_checkpointing = gradient_checkpointing

    @property
    def file(self) -> Path:
        """The tower's weights on the disk."""
        return checkpoint_file(self.source, "model.safetensors", self.revision)

    @property
    def weights(self) -> str:
        return f"{file_digest(self.file)} {file_digest(self.head)}"

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The image tower, frozen.

        Raises:
            UserError: the weights are of another architecture.
        """

    @cached_property
    def affine(self) -> nn.Linear:
        """The head, frozen, from [N, D] to [N, 1].

        Raises:
            UserError: it is not affine.
        """
        return affine_head(self.head)

    def encode_prompts(self, prompts: Sequence[str]) -> list[None]:
        """Return nothing of each prompt."""
        return [None] * len(prompts)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return unit image features, [N, D], of preprocessed pixels [N, 3, H, W]."""
        dtype = next(self.network.parameters()).dtype
        return unit(getattr(self.network(pixel_values=inputs.to(self.device, dtype)), self.output))

    def score_features(self, features: Tensor, encoded: Sequence[None]) -> Tensor:
        """Score unit image features [N, D]."""
        return self.affine.to(features.device)(features).squeeze(-1)

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient."""
        return self.score_inputs(self.preprocess.differentiable(pixels), self.encode_prompts(prompts))


class Aesthetic(AestheticReward):
    """The LAION aesthetic predictor on OpenAI's CLIP ViT-L/14: 1 to 10 by intention, 5.4 to 6.1 in practice.

    Args:
        head: None for the published head (sac+logos+ava1-l14-linearMSE.pth), which comes with this package in affine
            form; otherwise a file of that kind.
        architecture: of the tower, see `clip_config`.
        source, revision, precision, gradient_checkpointing: see `AestheticReward`.

    Raises:
        UserError: the weights or the head are not there.

    Source: simple_inference.py of christophschuhmann/improved-aesthetic-predictor.
    """

    name = "aesthetic"
    output = "image_embeds"
    range = (-12.8, 23.3)  # bias 5.24, and the length of the weights, 18.0, either way

    def __init__(
        self,
        source: str = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        head: str | None = None,
        architecture: str | Mapping[str, Any] = "ViT-L-14-quickgelu",
        precision: Precision = "float32",
        gradient_checkpointing: bool = False,
    ) -> None:
        file = LAION_HEAD if head is None else checkpoint_file(head, LAION_FILE)
        super().__init__(source, revision, file, ClipPixels(224), precision, gradient_checkpointing)
        self.architecture = architecture

    @property
    def shared_pass(self) -> str:
        return image_pass(self.file, self.architecture, self.precision)

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        config: Any = clip_config(settings["architecture"]).vision_config
        return bytes_on_meta(lambda: CLIPVisionModelWithProjection(config), settings["precision"])

    @cached_property
    def network(self) -> nn.Module:
        return load_clip_vision(self.file, self.architecture, self.precision, self.gradient_checkpointing)


class AestheticV25(AestheticReward):
    """Aesthetic Predictor V2.5 on SigLIP so400m: 1 to 10 by intention; 5.5 and more counts as beautiful.

    Args:
        head: aesthetic_predictor_v2_5.pth of discus0434/aesthetic-predictor-v2-5, or its folder. Licensed under the
            AGPL-3.0, so it does not come with this package.
        architecture: values of SiglipVisionConfig.
        source, revision, precision, gradient_checkpointing: see `AestheticReward`.

    Raises:
        UserError: the weights or the head are not there.

    Source: README.md of discus0434/aesthetic-predictor-v2-5.
    """

    name = "aesthetic_v2_5"
    output = "pooler_output"
    range = (-23.6, 27.4)  # bias 1.94, and the length of the weights, 25.5, either way

    def __init__(
        self,
        head: str,
        source: str = "google/siglip-so400m-patch14-384",
        revision: str | None = None,
        architecture: Mapping[str, Any] = SO400M,
        precision: Precision = "float32",
        gradient_checkpointing: bool = False,
    ) -> None:
        file = checkpoint_file(head, V2_5_FILE)
        pixels = SiglipPixels(architecture["image_size"])
        super().__init__(source, revision, file, pixels, precision, gradient_checkpointing)
        self.architecture = dict(architecture)

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        config = SiglipConfig(vision_config=dict(settings["architecture"]))
        return bytes_on_meta(lambda: SiglipModel(config).vision_model, settings["precision"])

    @cached_property
    def network(self) -> nn.Module:
        prefix = "vision_model."
        weights = {key: tensor for key, tensor in read_state_dict(self.file).items() if key.startswith(prefix)}
        config = SiglipConfig(vision_config=self.architecture)
        tower = assign(
            lambda: SiglipModel(config).vision_model, {key.removeprefix(prefix): weights[key] for key in weights}
        )
        if self.gradient_checkpointing:
            checkpoint_layers(tower.encoder.layers)
        return tower.to(getattr(torch, self.precision))


def affine_head(file: Path) -> nn.Linear:
    """Return a head as the one affine function that it is, float32.

    Args:
        file: .json with `weight`, a list of D numbers, and `bias`, a number; or what torch.save wrote of five linear
            layers numbered in order, as nn.Sequential numbers them.

    Raises:
        UserError: the file holds something else.
    """
    if file.suffix == ".json":
        content = read_json_object(file, "fetch it again")
        try:
            weight, bias = torch.tensor([content["weight"]]), torch.tensor([content["bias"]])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{file} has no weight and bias of one affine function; fetch it again") from None
    else:
        weight, bias = collapsed(read_state_dict(file), file.name)
    return assign(lambda: nn.Linear(weight.shape[1], 1), {"weight": weight.float(), "bias": bias.float()})


def collapsed(state_dict: Mapping[str, Tensor], named: str) -> tuple[Tensor, Tensor]:
    """Return weight [1, D] and bias [1] of linear layers that follow each other, float64.

    In half precision the layers one by one would err by up to 0.03, as much as methods differ.

    Raises:
        UserError: there are not five linear layers that fit each other and end in one number.
    """
    numbers = {int(match[1]) for key in state_dict if (match := re.search(r"(\d+)\.weight$", key))}
    layers = [
        tuple(tensor.double() for kind in ("weight", "bias") for key, tensor in state_dict.items()
              if re.search(rf"(^|\.){number}\.{kind}$", key))
        for number in sorted(numbers)
    ]  # fmt: skip
    shapes = [tuple(tensor.shape) for layer in layers for tensor in layer]
    widths = [shape[0] for shape in shapes[::2]]
    inputs = [shape[-1] for shape in shapes[::2]]
    fits = len(state_dict) == len(shapes) == 2 * NUM_LAYERS and widths[:-1] == inputs[1:] and widths[-1] == 1
    if not fits:
        raise UserError(f"{named} is not a head of {NUM_LAYERS} linear layers; it holds {', '.join(state_dict)}")
    weight, bias = layers[0]
    for layer_weight, layer_bias in layers[1:]:
        weight, bias = layer_weight @ weight, layer_weight @ bias + layer_bias
    return weight, bias
