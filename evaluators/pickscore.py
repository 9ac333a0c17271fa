"""PickScore v1: a CLIP ViT-H/14 trained on the choices of users between two generated images."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPTokenizer

from alignbench.settings.section import Positive
from evaluators.clip_reward import PublishedClipReward, shortened
from evaluators.networks.checkpoint import check_checkpoint, checkpoint_file
from evaluators.networks.clip import Precision
from evaluators.networks.preprocess import ClipPixels

TOKENIZER_FILE = "tokenizer.json"


class PickScore(PublishedClipReward):
    """How likely users of Pick-a-Pic (v1) are to prefer the image for the prompt: a cosine, 0.16 to 0.26 in practice.

    The published demo multiplies the cosine by `network.logit_scale.exp()`, about 100, before it compares images.

    Args:
        source: hub id, or folder that holds model.safetensors.
        tokenizer: hub id, or folder that holds tokenizer.json. Curly apostrophes and other rare signs are read as
            transformers does, not as OpenCLIP.
        revision, architecture, precision, embedding_scale, gradient_checkpointing: see `PublishedClipReward`.

    Raises:
        UserError: the weights or the tokenizer are not there.

    Source: Kirstain et al. 2023 (Pick-a-Pic), arXiv 2305.01569; README.md of yuvalkirstain/PickScore.
    """

    name = "pickscore"

    def __init__(
        self,
        source: str = "yuvalkirstain/PickScore_v1",
        revision: str | None = None,
        tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        architecture: str | Mapping[str, Any] = "ViT-H-14",
        precision: Precision = "float32",
        embedding_scale: Positive = 1.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        check_checkpoint(tokenizer, TOKENIZER_FILE)
        self.tokenizer = tokenizer
        super().__init__(
            source, "model.safetensors", revision, architecture, ClipPixels(224), precision, embedding_scale,
            gradient_checkpointing,
        )  # fmt: skip

    @property
    def tokenizer_file(self) -> Path:
        return checkpoint_file(self.tokenizer, TOKENIZER_FILE)

    @cached_property
    def _tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self.tokenizer_file.parent)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, [N, L], by transformers."""
        output = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.context_length, return_tensors="pt"
        )
        return shortened(output.input_ids)
