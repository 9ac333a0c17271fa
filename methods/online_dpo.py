"""Online DPO: any preference loss on pairs that the policy makes itself, the best and the worst image of each prompt.

Published code: Flow-Factory, trainers/dpo.py (groups of four, loss of Diffusion-DPO on velocities); Guo et al. 2024,
"Direct language model alignment from online AI feedback", arXiv 2402.04792, for language models.

Deviations from Flow-Factory: a prompt whose images all have one reward gives no gradient (there two of them make a
pair); pairs are never repeated to fill processes; levels are those of the model's family.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor

from alignbench.batch import PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.method import Loss, Method, TrainedCalls, WeightCopies
from alignbench.models.adapter import ModelAdapter
from alignbench.online.online_method import OnlineMethod, RolledOut


@dataclass(frozen=True)
class RankedBatch(PairBatch):
    """Pairs of rolled-out images.

    Attributes:
        scores: by each reward, mean over all images of the prompt, [B, K], float32.
        decided: 1 where the two have unlike rewards, else 0, [B], float32.
    """

    scores: Tensor = field(kw_only=True)
    decided: Tensor = field(kw_only=True)


def best_and_worst(advantage: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Return the entries of the best and of the worst image of each group, [B / group_size] each.

    Args:
        advantage: of the images, those of a group one after the other, [B].
    """
    groups = advantage.reshape(-1, group_size)
    first = torch.arange(len(groups), device=advantage.device) * group_size
    return first + groups.argmax(1), first + groups.argmin(1)


@dataclass(eq=False, kw_only=True)
class OnlinePairs(OnlineMethod[RankedBatch]):
    """A method on pairs, trained on pairs of the policy's own images.

    Attributes:
        pairwise: the method whose loss is taken.
    """

    pairwise: Method[PairBatch]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairwise.batch_type is not PairBatch or self.pairwise.lag is not None:
            raise ValueError(
                f"method.pairwise.name={self.pairwise.name} trains on more than pairs and a frozen reference, and "
                "method=online_dpo has nothing else; choose another loss, or method.pairwise.reference=frozen"
            )
        if self.pairwise.num_draws is not None:
            raise ValueError(
                f"method.pairwise.num_draws={self.pairwise.num_draws} keeps errors on the images of the data, and "
                "method=online_dpo makes new images; set it to null"
            )
        if self.pairwise.prompt_dropout:
            raise ValueError(
                f"method.pairwise.prompt_dropout={self.pairwise.prompt_dropout} would need images that were sampled "
                "without their prompt; set it to 0"
            )

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        return _pairwise(settings).weight_copies(settings["pairwise"])

    @classmethod
    def trained_calls(cls, settings: Mapping[str, Any], model: ModelAdapter) -> TrainedCalls:
        return _pairwise(settings).trained_calls(settings["pairwise"], model)

    @property
    def needs_reference(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pairwise.needs_reference

    def rollout(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Iterable[list[RankedBatch]]:
        with torch.no_grad():
            images, _ = self.roll_out(model, batch, context)
        pairs = self.pairs(images)
        for rows in self.rows_of_updates(pairs.index):
            yield pairs.take(rows).split(context.micro_batch_size)

    def pairs(self, images: RolledOut) -> RankedBatch:
        """Return the pair of each prompt."""
        best, worst = best_and_worst(images.advantage, self.group_size)
        firsts = images.map(lambda value: value[:: self.group_size])
        return RankedBatch(
            firsts.index,
            firsts.prompts,
            firsts.conditioning,
            latents_w=images.latents[best],
            latents_l=images.latents[worst],
            probability_w=torch.ones(len(best), device=images.latents.device),
            scores=images.scores.unflatten(0, (-1, self.group_size)).mean(1),
            decided=(images.advantage[best] > images.advantage[worst]).float(),
        )

    def loss(self, model: ModelAdapter, batch: RankedBatch, context: Context) -> Loss:
        loss = self.pairwise.loss(model, batch, context)
        metrics = self.reward_metrics(batch.scores) | {"flat_groups": 1 - batch.decided}
        return replace(loss, values=loss.values * batch.decided, metrics=loss.metrics | metrics)


def _pairwise(settings: Mapping[str, Any]) -> type[Method]:
    return get_class(settings["pairwise"]["_target_"])
