"""Judges that `python -m alignbench.train_reward` fitted: the taste of a person, a group or a data set, by folder."""

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Reward, weight_bytes
from alignbench.reward_model import RewardModel
from alignbench.settings.arguments import wrong_arguments
from alignbench.settings.section import Positive
from alignbench.store.reward_model_folder import RewardModelRecord, read_tensors, tensor_bytes, weights_digest
from alignbench.store.training_data import data_of_reward_model
from evaluators.clip_reward import ClipReward
from evaluators.clip_score import ClipScore
from evaluators.hpsv2 import HPSv2
from evaluators.image_reward import ImageReward
from evaluators.judges.attention import AttentionRewardModel
from evaluators.judges.blip import BlipRewardModel
from evaluators.judges.clip import ClipRewardModel
from evaluators.judges.head import HeadRewardModel
from evaluators.networks.preprocess import Pixels, pixels_from
from evaluators.pickscore import PickScore
from evaluators.shapes_matching import ShapesMatching
from evaluators.shapes_reward import ShapesReward

KINDS: Mapping[str, type[RewardModel]] = {
    kind.kind: kind for kind in (ClipRewardModel, BlipRewardModel, HeadRewardModel, AttentionRewardModel)
}
# What judges start from, by the name in their records. Folders come from others too, and name nothing else.
STARTS: Mapping[str, type[Evaluator]] = {
    kind.__name__: kind for kind in (ClipScore, HPSv2, PickScore, ShapesReward, ImageReward, ShapesMatching)
}
# The same by the exact `_target_` in judges of version 0.1.0.
TARGETS = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in STARTS.values()}


class TrainedRewardModel(Reward):
    """How much those whose votes a judge learned from prefer the image for the prompt, in log-odds.

    The difference of two scores is the logarithm of the odds of the one image being preferred; a score alone means
    nothing, and no two judges share a scale. Its name is that of the folder's `config.json`.

    Args:
        path: the folder that training wrote.
        source: where the weights of the evaluator that a head builds upon are now; None for where they were.
        embedding_scale: factor on the cosine in relative rewards, which judges with embeddings have.
        gradient_checkpointing: compute the image tower's layers twice instead of keeping their activations.

    Raises:
        UserError: the folder holds no judge, or the weights that a head builds upon are not there.
    """

    version = "1"
    preprocess: Pixels

    def __init__(
        self,
        path: str,
        source: str | None = None,
        embedding_scale: Positive = 1.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.folder = Path(path)
        self.record = RewardModelRecord.read(self.folder)
        self.name = self.record.name
        self.calibrated_on = self.record.calibrated_on
        self.labelled_by = tuple(self.record.judged_by)
        self._kind = _kind(self.record, self.folder)
        self.preprocess = pixels_from(self.record.judge["preprocess"])
        self.has_embeddings = self._kind.has_embeddings
        self.embedding_scale = embedding_scale
        self.gradient_checkpointing = gradient_checkpointing
        start = _start(self.record, self.folder)
        self._start: Evaluator | None = None
        if self._kind.builds_on_start:
            self._start = self._build_start(*start, source)
        elif source is not None:
            raise UserError(f"source={source} is for heads, and judge {self.name} has all its weights in its folder")
        self._texts: dict[str, Tensor] = {}  # features of prompts, on the CPU

    @cached_property
    def training_data(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return data_of_reward_model(self.folder, self.record.data["fingerprint"])

    def _build_start(self, kind: type[Evaluator], values: dict[str, Any], source: str | None) -> Evaluator:
        if source is not None and "source" not in values:
            raise UserError(f"{self.record.start['evaluator']} has no source; leave source={source} out")
        return kind(**(values if source is None else values | {"source": source}))

    @property
    def weights(self) -> str:
        upon = [self._start.weights] if self._start is not None and self._start.weights else []
        return " ".join([weights_digest(self.folder), *upon])

    @cached_property
    def network(self) -> RewardModel:
        """The judge, frozen.

        Raises:
            UserError: the tensors are of another architecture, or a head's start has other weights.
        """
        if self._start is not None:
            self.record.check_start(self._start)
        reward_model = self._kind.restored(self.record.judge, read_tensors(self.folder), self.folder, self._start)
        if self.gradient_checkpointing:
            reward_model.checkpoint_activations()
        return reward_model

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        """Return what the folder's tensors take, and the evaluator that a head builds upon."""
        folder = Path(settings["path"])
        record, own = RewardModelRecord.read(folder), tensor_bytes(folder)
        if not _kind(record, folder).builds_on_start:
            return own
        start = weight_bytes(*_start(record, folder))
        return None if start is None else own + start

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return what the judge compares images with, one entry a prompt.

        Each prompt is encoded once, and alone: others would change its rounding.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._texts:
                features = self.network.text_features(self.network.encode_prompts([prompt]).to(self.device))
                self._texts[prompt] = features[0].cpu()
        return torch.stack([self._texts[prompt] for prompt in prompts]).to(self.device)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return what the judge sees of preprocessed pixels [N, 3, H, W]."""
        return self.network.image_features(inputs.to(self.device))

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        """Score image features against encoded prompts, entry by entry."""
        return self.network.compare(features, encoded.to(features.device))

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient."""
        return self.score_inputs(self.preprocess.differentiable(pixels), self.encode_prompts(prompts))

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Return unit image features, [N, D], with a gradient; of judges with embeddings alone."""
        if not self.has_embeddings:
            return super().embed_image(pixels)
        return self.image_features(self.preprocess.differentiable(pixels))

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D]; of judges with embeddings alone."""
        return self.encode_prompts(prompts) if self.has_embeddings else super().embed_text(prompts)


def _kind(record: RewardModelRecord, folder: Path) -> type[RewardModel]:
    """Return the class of a judge's network.

    Raises:
        UserError: there is none of that name.
    """
    kind = str(record.judge.get("kind"))
    if kind not in KINDS:
        raise UserError(f"{folder} holds a judge of kind {kind}, which is unknown; available: {', '.join(KINDS)}")
    return KINDS[kind]


def _start(record: RewardModelRecord, folder: Path) -> tuple[type[Evaluator], dict[str, Any]]:
    """Return the class of the evaluator that a judge starts from, and its arguments.

    Raises:
        UserError: no judge of this kind starts from it, or its arguments are not those of this class.
    """
    node = dict(record.start["node"])
    target, name = node.pop("_target_", None), node.pop("kind", None)
    kind = STARTS.get(name) if target is None else TARGETS.get(target)
    if kind is None or (_kind(record, folder).builds_on_start and not issubclass(kind, ClipReward)):
        raise UserError(
            f"{folder} holds a judge that starts from {target or name}, which is not read from a folder; available: "
            f"{', '.join(STARTS)}"
        )
    known = inspect.signature(kind).parameters
    needed = {key for key, argument in known.items() if argument.default is inspect.Parameter.empty}
    wrong = wrong_arguments(kind, node)
    wrong += [f"{key} is no argument of {kind.__name__}" for key in node.keys() - known.keys()]
    wrong += [f"{key} names code to run" for key, value in node.items() if "_target_" in json.dumps(value)]
    wrong += [f"{key} is missing" for key in needed - node.keys()]
    if wrong:
        raise UserError(f"{folder} holds a judge whose start cannot be built: {'; '.join(wrong)}; give another folder")
    return kind, node
