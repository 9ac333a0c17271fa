"""Judges made as PickScore was: both towers of a CLIP, whose cosine learns which image people prefer."""

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.reward_model import RewardModel, RewardModelRecipe, freeze_share
from evaluators.clip_reward import ClipReward, unit
from evaluators.networks.checkpoint import assign
from evaluators.networks.clip import checkpoint_layers
from evaluators.networks.preprocess import Pixels, pixels_from, pixels_values

TOKENIZER = "tokenizer.json"


class ClipRewardModel(RewardModel):
    """The cosine of image and prompt times the network's logit scale.

    Args:
        network: both towers.
        preprocess: how pictures become inputs of the image tower.
        tokenizer: file that transformers reads the tokens by; None for OpenCLIP's.
    """

    kind = "pickscore_like"
    has_embeddings = True
    preprocess: Pixels

    def __init__(self, network: CLIPModel, preprocess: Pixels, tokenizer: Path | None) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.tokenizer_file = tokenizer
        self._tokenizer = None if tokenizer is None else CLIPTokenizer.from_pretrained(tokenizer.parent)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        text_config: Any = self.network.config.text_config
        length = text_config.max_position_embeddings
        if self._tokenizer is None:
            from open_clip import tokenize

            ids = tokenize(list(prompts), context_length=length)
            return ids[:, : int(ids.argmax(dim=-1).max()) + 1]  # the end token has the largest id
        encoded = self._tokenizer(
            list(prompts), padding="longest", truncation=True, max_length=length, return_tensors="pt"
        )
        return encoded.input_ids

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return unit image features, [N, D]."""
        output: Any = self.network.get_image_features(pixel_values=inputs)
        return unit(output.pooler_output)

    def text_features(self, encoded: Tensor) -> Tensor:
        """Return unit text features, [N, D]."""
        output: Any = self.network.get_text_features(input_ids=encoded)
        return unit(output.pooler_output)

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        return (self.network.logit_scale + self.log_scale).exp() * (images * texts).sum(dim=-1)

    def description(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "network": json.loads(self.network.config.to_json_string()),
            "preprocess": pixels_values(self.preprocess),
            "tokenizer": "open_clip" if self.tokenizer_file is None else TOKENIZER,
        }

    def save_parts(self, folder: Path) -> None:
        if self.tokenizer_file is not None:
            shutil.copy(self.tokenizer_file, folder / TOKENIZER)
            settings = self.tokenizer_file.with_name("tokenizer_config.json")
            if settings.is_file():
                shutil.copy(settings, folder)

    @classmethod
    def restored(
        cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path, start: Evaluator | None
    ) -> Self:
        config = CLIPConfig.from_dict(description["network"])
        tokenizer = None if description["tokenizer"] == "open_clip" else folder / TOKENIZER
        return assign(lambda: cls(CLIPModel(config), pixels_from(description["preprocess"]), tokenizer), tensors)

    def checkpoint_activations(self) -> None:
        checkpoint_layers(self.network.vision_model.encoder.layers)


class PickScoreLike(RewardModelRecipe):
    """All of a CLIP is trained, as PickScore was, or its last layers.

    Args:
        start: the evaluator whose CLIP it starts from.
        frozen_share: share of the layers of either tower, from the first on, that stay as they are.

    Raises:
        UserError: the evaluator is no CLIP with both towers.

    Source: Kirstain et al. 2023 (Pick-a-Pic), arXiv 2305.01569, section 4: the two-way softmax over the scores of both
    images, against the distribution of preferences.
    """

    kind = ClipRewardModel.kind

    def __init__(self, start: Evaluator, frozen_share: float) -> None:
        if not isinstance(start, ClipReward):
            raise UserError(
                f"judge=pickscore_like starts from a CLIP with both towers, and {start.name} has none; choose another "
                "judge.start, such as evaluator@judge.start=pickscore"
            )
        if not 0.0 <= frozen_share < 1.0:
            raise UserError(f"judge.frozen_share={frozen_share} must be at least 0 and below 1")
        self.start: ClipReward = start
        self.frozen_share = frozen_share

    def make(self) -> ClipRewardModel:
        network: Any = copy.deepcopy(self.start.network).float()
        network.requires_grad_(True)
        vision, text = network.vision_model, network.text_model
        freeze_share(vision.encoder.layers, [vision.embeddings, vision.pre_layrnorm], self.frozen_share)
        freeze_share(text.encoder.layers, [text.embeddings], self.frozen_share)
        return ClipRewardModel(network, self.start.preprocess, self.start.tokenizer_file).train()
