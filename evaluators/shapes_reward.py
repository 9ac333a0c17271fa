"""The rewards of the shapes world: two small CLIP models, one trained on captions, one on simulated annotators."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from alignbench.miniature.scenes import IMAGE_SIZE
from alignbench.settings.section import Positive
from evaluators.clip_reward import ClipReward
from evaluators.networks.checkpoint import bytes_on_meta
from evaluators.networks.preprocess import ClipPixels


class ShapesReward(ClipReward):
    """Similarity of image and prompt in a CLIP model of the shapes world.

    `shapes_clip` scores like CLIPScore, by the cosine. `shapes_preference` scores like PickScore's README, by the
    cosine times the logit scale: the difference of two scores is the log-odds of the one image being preferred.

    Args:
        name: which of the two.
        embedding_scale: factor on the cosine in relative rewards.
    """

    version = "1"
    calibrated_on = "scenes"

    def __init__(self, name: Literal["shapes_clip", "shapes_preference"], embedding_scale: Positive = 1.0) -> None:
        super().__init__(ClipPixels(IMAGE_SIZE), embedding_scale)
        self.name = name
        self.matches_prompts = name == "shapes_clip"  # people like some scenes better under any caption
        if name == "shapes_preference":
            self.range = (float("-inf"), float("inf"))

    @cached_property
    def network(self) -> CLIPModel:
        """The CLIP model, frozen."""
        return self._loaded[0].requires_grad_(False).eval()

    @cached_property
    def _loaded(self) -> tuple[CLIPModel, CLIPTokenizer]:
        from alignbench.miniature.weights import load_clip

        return load_clip(self.name)

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        from alignbench.miniature.weights import FOLDER

        return bytes_on_meta(lambda: CLIPModel(CLIPConfig.from_pretrained(FOLDER / settings["name"])))

    @property
    def tokenizer_file(self) -> Path:
        from alignbench.miniature.weights import FOLDER

        return FOLDER / "tokenizer" / "tokenizer.json"

    @cached_property
    def scale(self) -> float:
        """Factor between the cosine and the score."""
        return 1.0 if self.name == "shapes_clip" else float(self.network.logit_scale.exp())

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, [N, 77]."""
        return self._loaded[1](list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
