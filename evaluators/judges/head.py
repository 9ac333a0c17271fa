"""Judges that are a small head on the features of a CLIP that stays as it is: fitted in seconds to minutes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.reward_model import RewardModel, RewardModelRecipe
from evaluators.clip_reward import ClipReward
from evaluators.networks.checkpoint import assign
from evaluators.networks.preprocess import Pixels, pixels_values

OF_START = "start."  # before the names of the frozen network's parameters
HEAD = "head."


class FrozenClipRewardModel(RewardModel):
    """A head on what a frozen CLIP computes of image and prompt.

    Args:
        start: the CLIP.
        options: what `make_head` makes the head of, as JSON.
    """

    frozen_features = True
    builds_on_start = True
    preprocess: Pixels

    def __init__(self, start: ClipReward, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.clip = start
        self.start = start.network  # registered, so that it goes where the head goes
        self.preprocess = start.preprocess
        self.options = dict(options)
        self.head = self.make_head(self.start.config, **self.options)

    @staticmethod
    @abstractmethod
    def make_head(clip: Any, **options: Any) -> nn.Module:
        """Return the head for a CLIP of this configuration, with weights drawn from torch's global generator."""

    def kept_state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(OF_START)}

    def description(self) -> dict[str, Any]:
        return {"kind": self.kind, "options": self.options, "preprocess": pixels_values(self.preprocess)}

    @classmethod
    def restored(
        cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: object, start: Evaluator | None
    ) -> Self:
        with torch.random.fork_rng(devices=[]):  # loading should not move the draws of who loads
            reward_model = cls(cast(ClipReward, start), description["options"])
        reward_model.log_scale.copy_(tensors["log_scale"])
        own = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
        reward_model.head = assign(lambda: cls.make_head(reward_model.start.config, **reward_model.options), own)
        return reward_model.eval()


def check_clip(kind: str, start: Evaluator) -> ClipReward:
    """Return the evaluator that a head is to be built upon.

    Raises:
        UserError: it is no CLIP with both towers.
    """
    if not isinstance(start, ClipReward):
        raise UserError(
            f"judge={kind} reads features of a CLIP with both towers, and {start.name} has none; choose another "
            "judge.start, such as evaluator@judge.start=pickscore"
        )
    return start


class HeadRewardModel(FrozenClipRewardModel):
    """A perceptron that reads the unit features of image and prompt and their product."""

    kind = "head"

    @staticmethod
    def make_head(clip: Any, hidden: int | None, dropout: float) -> nn.Module:
        width = 3 * clip.projection_dim
        if hidden is None:
            return nn.Sequential(nn.Linear(width, 1))
        return nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D]."""
        return self.clip.embed_text(prompts).cpu()

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return unit image features, [N, D]."""
        return self.clip.image_features(inputs)

    def text_features(self, encoded: Tensor) -> Tensor:
        return encoded

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        size = images.shape[-1] ** 0.5  # entries of a unit vector have a mean square of 1 / D
        joined = torch.cat([images, texts, images * texts * size], dim=-1) * size
        return self.log_scale.exp() * self.head(joined).squeeze(-1)


class FrozenHead(RewardModelRecipe):
    """A perceptron on the pooled features of a frozen CLIP.

    Args:
        start: the CLIP whose features it reads; what it does not see, no head can like.
        hidden: width of the two hidden layers; None for a linear function, which can weigh what the prompt asks for by
            the product alone.
        dropout: share of the hidden values that are left out in training.

    Raises:
        UserError: the evaluator is no CLIP with both towers, or a value is impossible.
    """

    kind = HeadRewardModel.kind

    def __init__(self, start: Evaluator, hidden: int | None, dropout: float) -> None:
        self.start: ClipReward = check_clip(self.kind, start)
        if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
            raise UserError(f"judge.hidden={hidden} must be a whole number of at least 1, or null")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"judge.dropout={dropout} must be at least 0 and below 1")
        self.options = {"hidden": hidden, "dropout": dropout}

    def make(self) -> HeadRewardModel:
        return HeadRewardModel(self.start, self.options).train()
