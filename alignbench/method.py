"""The shape of an alignment method: what it asks of the data, how it rolls out, what it minimises."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from alignbench.batch import Batch, PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.evaluator import Evaluator
from alignbench.models.adapter import ModelAdapter
from alignbench.models.lagged_weights import Lag

BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True)
class Loss:
    """The loss of one micro-batch.

    The update minimises sum(values * weights) / sum(weights), the sums running over all micro-batches and processes.

    Attributes:
        values: loss of each sample, [B], float32, with a gradient.
        weights: how much each sample counts, [B], >= 0, without a gradient.
        metrics: figures to log, each [B] and detached; the loop averages them with the weights. A figure that says
            nothing of a sample is NaN there and left out of its average. All micro-batches of an update have the same.
    """

    values: Tensor
    weights: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def mean(cls, values: Tensor, metrics: dict[str, Tensor] | None = None) -> "Loss":
        """Let every sample count the same."""
        return cls(values, torch.ones_like(values), metrics or {})


@dataclass(frozen=True)
class WeightCopies:
    """Which copies of the weights lie beside the policy: the frozen start, and the old policy that follows."""

    reference: bool = False
    old: bool = False


@dataclass(frozen=True)
class TrainedCalls:
    """The calls of the network whose activations one backward pass needs.

    Attributes:
        num: calls one after the other.
        rows: of the network in each call, for each sample of a micro-batch.
    """

    num: int = 1
    rows: int = 1


class Method(ABC, Generic[BatchT]):
    """One alignment method; the training loop knows nothing else of it.

    Attributes:
        name: as typed in `method=` and printed in tables.
        trains: False for the untouched model, which skips the training stage.
        batch_type: what the data must provide.
        needs_reference: whether `loss` or `rollout` calls `model.reference()`.
        lag: how far the old policy of `model.old_policy()` stays behind; None where the method has none.
        batch_coupled: True where a sample's loss depends on the others of its micro-batch or of other processes.
        reads_pixels: whether `loss` or `rollout` calls `model.decode_latents`, which needs the VAE.
        differentiates_pixels: whether the gradient passes through the VAE and a reward.
        group_size: how many consecutive samples share one prompt.
        prompt_dropout: share of samples whose conditioning is the empty prompt's.
        desirable_share: share of desirable images among those shown, of a method on `LabelledBatch`; None shows the
            data as they are.
        reward: evaluator that the method optimises; a method that needs gradients through it takes a `Reward`.
        scorer: evaluator whose scores of the training images the method reads, as a `PairBatch` carries them. They are
            computed once, before training.
        num_draws: number of fixed draws of each sample: noise, timestep, crop, and whether the prompt is dropped. The
            visits to a sample take them in turn, and what the loss needs of the frozen start there is computed once by
            `reference_values`, before training, and kept on the disk. None: every visit has draws of its own.
        reward_calls: images that the method's rewards have scored so far, in this process.
        beside: figures of the last rollout that are of no single sample, [] each, alike on all processes; the loop logs
            them with each update.
    """

    name: str
    trains: ClassVar[bool] = True
    batch_type: ClassVar[type[PromptBatch]] = PromptBatch
    needs_reference: bool = False
    lag: Lag | None = None
    batch_coupled: ClassVar[bool] = False
    reads_pixels: ClassVar[bool] = False
    differentiates_pixels: ClassVar[bool] = False
    group_size: int = 1
    prompt_dropout: float = 0.0
    desirable_share: float | None = None
    reward: Any = None
    scorer: Evaluator | None = None
    num_draws: int | None = None
    reward_calls: int = 0
    beside: Mapping[str, Tensor] = MappingProxyType({})

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        """Return which copies of the weights a method of these settings needs; asked before anything is loaded."""
        return WeightCopies(reference=bool(cls.needs_reference))

    @classmethod
    def trained_calls(cls, settings: Mapping[str, Any], model: ModelAdapter) -> TrainedCalls:
        """Return which calls a method of these settings differentiates at once; the estimate of memory asks.

        Args:
            model: without weights.
        """
        return TrainedCalls(rows=2 if issubclass(cls.batch_type, PairBatch) else 1)

    @property
    def batch_multiple(self) -> int:
        """What the total batch is a multiple of."""
        return self.group_size

    @property
    def followed(self) -> tuple[Evaluator, ...]:
        """The evaluators whose scores the method optimises or takes its labels from: its reward and its scorer."""
        return tuple(one for one in (self.reward, self.scorer) if one is not None)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the evaluators that the method trains on, directly or not; rankings leave their scores out."""
        return tuple(name for evaluator in self.followed for name in evaluator.lineage)

    def rollout(self, model: ModelAdapter, batch: Any, context: Context) -> Iterable[list[BatchT]]:
        """Yield one list of micro-batches for each optimizer update to make from `batch`.

        Args:
            batch: this process's share of a total batch, of type `batch_type`.

        The default is a single update on the data as they are. A method that samples from the policy does so here,
        without a gradient; the generator is advanced only after the previous update was made.
        """
        yield batch.split(context.micro_batch_size)

    @abstractmethod
    def loss(self, model: ModelAdapter, batch: BatchT, context: Context) -> Loss:
        """Return the loss of one micro-batch."""

    def fit(self, scores: Tensor) -> None:
        """Take in the scores that `scorer` gave to all distinct training images, [N], float32, before training."""

    def reference_values(self, model: ModelAdapter, batch: BatchT, context: Context) -> dict[str, Tensor]:
        """Return what the loss will find in `batch.known` if `num_draws` is set, [B, ...] each, without a gradient.

        The values may depend on the frozen start, on `reference_settings`, on latents and conditioning of the batch,
        and on draws by its index; not on scores, and not on anything that training changes.
        """
        raise NotImplementedError(f"method={self.name} has num_draws and no reference_values")

    @property
    def reference_settings(self) -> dict[str, Any]:
        """What tells the values of `reference_values` apart from others, the settings that decide them included.

        Methods that return the same share what is kept.
        """
        return {"method": f"{type(self).__module__}.{type(self).__qualname__}"}

    def trainable_modules(self) -> dict[str, nn.Module]:
        """Return networks of the method's own that the loop optimises and saves with the policy."""
        return {}

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Return networks that the loop places on the device but never trains: that of the reward, if it has one."""
        return {} if self.reward is None or self.reward.network is None else {"reward": self.reward.network}

    def state_dict(self) -> dict[str, Any]:
        """Return running statistics that a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
