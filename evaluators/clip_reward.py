"""Rewards where image and prompt meet as two unit vectors of a CLIP network; their score is the cosine."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from alignbench.evaluator import Reward
from alignbench.files import file_digest
from evaluators.networks.checkpoint import bytes_on_meta, check_checkpoint, checkpoint_file
from evaluators.networks.clip import Precision, check_precision, clip_config, image_pass, load_clip
from evaluators.networks.preprocess import Pixels


class ClipReward(Reward):
    """Similarity of image and prompt in a CLIP network.

    Attributes:
        preprocess: how pictures become its inputs.
        scale: factor between the cosine and the score.
    """

    has_embeddings = True
    range = (-1.0, 1.0)
    preprocess: Pixels
    scale: float = 1.0

    def __init__(self, preprocess: Pixels, embedding_scale: float) -> None:
        self.preprocess = preprocess
        self.embedding_scale = embedding_scale
        self._text: dict[str, Tensor] = {}  # unit features, on the CPU

    @property
    @abstractmethod
    def network(self) -> CLIPModel:
        """The CLIP network, frozen."""

    @property
    def tokenizer_file(self) -> Path | None:
        """The tokenizer.json that transformers reads tokens by; None where OpenCLIP makes them."""
        return None

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, [N, L], each row cut so that its end token is kept."""

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D]."""
        return self.embed_text(prompts)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return unit image features, [N, D], of preprocessed pixels [N, 3, H, W]."""
        output: Any = self.network.get_image_features(pixel_values=inputs.to(self.device, self.network.dtype))
        return unit(output.pooler_output)

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        """Score unit image features [N, D] against those of prompts, [N, D]."""
        return self.scale * (features * encoded.to(features.device)).sum(dim=-1)

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient."""
        return self.score_inputs(self.preprocess.differentiable(pixels), self.embed_text(prompts))

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Return unit image features, [N, D], with a gradient."""
        return self.image_features(self.preprocess.differentiable(pixels))

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D]. Each prompt is encoded once, and alone: others change its rounding."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._text:
                output: Any = self.network.get_text_features(input_ids=self.tokenize([prompt]).to(self.device))
                self._text[prompt] = unit(output.pooler_output)[0].cpu()
        return torch.stack([self._text[prompt] for prompt in prompts]).to(self.device)


class PublishedClipReward(ClipReward):
    """A CLIP reward with weights of its own, read when they are first needed.

    Args:
        source: hub id, folder that holds `filename`, or the file; in the layout of OpenCLIP or of transformers.
        filename: the name it was published under.
        revision: of the hub's repository.
        architecture: see `clip_config`.
        preprocess: the published pixel pipeline.
        precision: in which numbers the two towers compute; unit vectors and their product are always float32.
        embedding_scale: factor on the cosine in relative rewards.
        gradient_checkpointing: compute the image tower's layers twice instead of keeping their activations for the
            gradient.

    Raises:
        UserError: the weights are not there, or the precision is unknown.
    """

    version = "1"
    display_scale = 100.0
    matches_prompts = True
    caches_text = True

    def __init__(
        self,
        source: str,
        filename: str,
        revision: str | None,
        architecture: str | Mapping[str, Any],
        preprocess: Pixels,
        precision: Precision,
        embedding_scale: float,
        gradient_checkpointing: bool,
    ) -> None:
        check_precision(precision)
        check_checkpoint(source, filename, revision)
        super().__init__(preprocess, embedding_scale)
        self.source, self.filename, self.revision = source, filename, revision
        self.architecture = architecture
        self.precision: Precision = precision
        self.gradient_checkpointing = gradient_checkpointing

    @property
    def file(self) -> Path:
        """The weights on the disk."""
        return checkpoint_file(self.source, self.filename, self.revision)

    @property
    def weights(self) -> str:
        return file_digest(self.file)

    @property
    def shared_pass(self) -> str:
        return image_pass(self.file, self.architecture, self.precision)

    @cached_property
    def network(self) -> CLIPModel:
        return load_clip(self.file, self.architecture, self.precision, self.gradient_checkpointing)

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        config = clip_config(settings["architecture"])
        return bytes_on_meta(lambda: CLIPModel(config), settings["precision"])

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt, start and end included."""
        text_config: Any = self.network.config.text_config
        return text_config.max_position_embeddings

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, [N, L], by OpenCLIP, which repairs the text first; L is that of the longest prompt."""
        from open_clip import tokenize

        return shortened(tokenize(list(prompts), context_length=self.context_length))


def shortened(ids: Tensor) -> Tensor:
    """Return token ids without what follows the end token in every row: the text tower is causal and stops there."""
    return ids[:, : int(ids.argmax(dim=-1).max()) + 1]  # the end token has the largest id


def unit(features: Tensor) -> Tensor:
    """Normalise in float32 at least: half precision would tie scores that differ."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
