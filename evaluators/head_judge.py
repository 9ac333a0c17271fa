"""Judges that are a small head on the features of a network that stays as it is: fitted in seconds to minutes."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.judge import Judge, JudgeRecipe
from evaluators.checkpoint import assign
from evaluators.clip_reward import ClipReward
from evaluators.preprocess import Pixels, pixels_values

OF_START = "start."  # before the names of the frozen network's parameters


class HeadJudge(Judge):
    """A perceptron that reads the unit features of image and prompt and their product.

    Args:
        start: the CLIP whose features it reads.
        hidden: width of its two hidden layers; None for a linear function, which cannot weigh what the prompt asks for
            but by the product.
        dropout: share of the hidden values that are left out in training.
    """

    kind = "head"
    frozen_features = True
    builds_on_start = True
    preprocess: Pixels

    def __init__(self, start: ClipReward, hidden: int | None, dropout: float) -> None:
        super().__init__()
        self._clip = start
        self.start = start.network  # registered, so that it goes where the head goes
        self.preprocess = start.preprocess
        self.hidden, self.dropout = hidden, dropout
        self.width = cast(Any, start.network.config).projection_dim
        self.head = make_head(3 * self.width, hidden, dropout)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D]."""
        return self._clip.embed_text(prompts).cpu()

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return unit image features, [N, D]."""
        return self._clip.image_features(inputs)

    def text_features(self, encoded: Tensor) -> Tensor:
        return encoded

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        # entries of a unit vector have a mean square of 1 / D
        joined = torch.cat([images, texts, images * texts * self.width**0.5], dim=-1) * self.width**0.5
        return self.log_scale.exp() * self.head(joined).squeeze(-1)

    def kept_state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(OF_START)}

    def description(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "hidden": self.hidden,
            "dropout": self.dropout,
            "preprocess": pixels_values(self.preprocess),
        }

    @classmethod
    def restored(
        cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: object, start: Evaluator | None
    ) -> Self:
        judge = cls(cast(ClipReward, start), description["hidden"], description["dropout"])
        own = dict(tensors)
        judge.log_scale.copy_(own.pop("log_scale"))
        head = {name.removeprefix("head."): tensor for name, tensor in own.items()}
        judge.head = assign(lambda: make_head(3 * judge.width, judge.hidden, judge.dropout), head)
        return judge.eval()


def make_head(width: int, hidden: int | None, dropout: float) -> nn.Sequential:
    """Return the head, [N, width] to [N, 1], with weights drawn from torch's global generator."""
    if hidden is None:
        return nn.Sequential(nn.Linear(width, 1))
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout),
        nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout),
        nn.Linear(hidden, 1),
    )  # fmt: skip


class FrozenHead(JudgeRecipe):
    """A head on frozen features.

    Args:
        start: the CLIP whose features it reads; what it does not see, no head can like.
        hidden, dropout: see `HeadJudge`.

    Raises:
        UserError: the evaluator is no CLIP with both towers, or a value is impossible.
    """

    kind = HeadJudge.kind

    def __init__(self, start: Evaluator, hidden: int | None, dropout: float) -> None:
        if not isinstance(start, ClipReward):
            raise UserError(
                f"judge=head reads features of a CLIP with both towers, and {start.name} has none; choose another "
                "judge.start, such as evaluator@judge.start=pickscore"
            )
        if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
            raise UserError(f"judge.hidden={hidden} must be a whole number of at least 1, or null")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"judge.dropout={dropout} must be at least 0 and below 1")
        self.start: ClipReward = start
        self.hidden, self.dropout = hidden, dropout

    def make(self) -> HeadJudge:
        judge = HeadJudge(self.start, self.hidden, self.dropout)
        judge.start.requires_grad_(False)
        return judge.train()
