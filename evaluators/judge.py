"""Judges that `python -m alignbench.train_reward` fitted: the taste of a person, a group or a data set, by folder."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Reward, weight_bytes
from alignbench.reward_model import RewardModel
from alignbench.store.reward_model_folder import RewardModelRecord, read_tensors, tensor_bytes, weights_digest
from alignbench.store.training_data import data_of_reward_model
from evaluators.judges.attention import AttentionRewardModel
from evaluators.judges.blip import BlipRewardModel
from evaluators.judges.clip import ClipRewardModel
from evaluators.judges.head import HeadRewardModel
from evaluators.networks.preprocess import Pixels, pixels_from

KINDS: Mapping[str, type[RewardModel]] = {
    kind.kind: kind for kind in (ClipRewardModel, BlipRewardModel, HeadRewardModel, AttentionRewardModel)
}


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
        embedding_scale: float = 1.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.folder = Path(path)
        self.record = RewardModelRecord.read(self.folder)
        self.name = self.record.name
        self.calibrated_on = self.record.calibrated_on
        self.labelled_by = tuple(self.record.judged_by)
        self.preprocess = pixels_from(self.record.judge["preprocess"])
        self._kind = KINDS[self.record.judge["kind"]]
        self.has_embeddings = self._kind.has_embeddings
        self.embedding_scale = embedding_scale
        self.gradient_checkpointing = gradient_checkpointing
        self._start: Evaluator | None = None
        if self._kind.builds_on_start:
            self._start = self._build_start(source)
        elif source is not None:
            raise UserError(f"source={source} is for heads, and judge {self.name} has all its weights in its folder")
        self._texts: dict[str, Tensor] = {}  # features of prompts, on the CPU

    @cached_property
    def training_data(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return data_of_reward_model(self.folder, self.record.data["fingerprint"])

    def _build_start(self, source: str | None) -> Evaluator:
        node = self.record.start["node"]
        if source is not None and "source" not in node:
            raise UserError(f"{self.record.start['evaluator']} has no source; leave source={source} out")
        return instantiate(node if source is None else node | {"source": source})

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
        if not KINDS[record.judge["kind"]].builds_on_start:
            return own
        start = weight_bytes(record.start["node"])
        return None if start is None else own + start

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return what the judge compares images with, one entry a prompt; each prompt is encoded once."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if missing:
            features = self.network.text_features(self.network.encode_prompts(missing).to(self.device))
            self._texts |= dict(zip(missing, features.cpu(), strict=True))
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
