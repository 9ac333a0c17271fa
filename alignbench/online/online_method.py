"""What all methods share that train on images of their own: sampling, scoring, and comparing within a prompt."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from alignbench.batch import ImageBatch, PromptBatch
from alignbench.context import Context
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.method import BatchT, Method
from alignbench.models.adapter import ModelAdapter
from alignbench.models.predictor import Trajectory
from alignbench.online.advantages import AdvantageSettings, flat_groups
from alignbench.online.rewards import ImageScorer
from alignbench.settings.section import Count, NotNegative


@dataclass(frozen=True)
class RolledOut(ImageBatch):
    """The images of one round, those of a prompt one after the other.

    Attributes:
        scores: by each reward, [B, K], float32, in its published scale.
        advantage: over the other images of the prompt, [B], float32.
        flat: whether all images of the prompt have the same reward, [B]; nothing can be learned from these.
    """

    scores: Tensor
    advantage: Tensor
    flat: Tensor


@dataclass(eq=False, kw_only=True)
class RolloutMethod(Method[BatchT]):
    """A method that samples images, scores them and makes updates of them, round after round.

    Attributes:
        name: as typed in `method=`.
        reward: what is optimised: any evaluator, or a weighted sum of several.
        group_size: images of each prompt that are compared.
        num_rollout_steps, rollout_guidance_scale: how images are sampled; a scale of None is the family's default.
        rollout_batch_size: images sampled at once; None for the micro-batch size of training.
        updates_per_round: optimizer updates made of the images of one round, each of equally many prompts.
        smallest_group: fewest images of a prompt in a round that a method can compare.
    """

    reads_pixels = True
    smallest_group: ClassVar[int] = 2

    name: str
    reward: Evaluator
    group_size: Count
    num_rollout_steps: Count
    rollout_guidance_scale: NotNegative | None
    rollout_batch_size: Count | None
    updates_per_round: Count
    beside: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.group_size < self.smallest_group:
            raise ValueError(
                f"method.group_size={self.group_size} must be at least {self.smallest_group}: an image is compared "
                "with others"
            )

    @property
    def batch_multiple(self) -> int:
        return self.group_size * self.updates_per_round

    def rows_of_updates(self, index: Tensor) -> list[list[int]]:
        """Return which images of this process's share each update of the round is made of.

        Whole groups take turns, so that an update has the same images on any number of processes.

        Args:
            index: of the images of the share, [N], equally many of each group.

        Raises:
            UserError: if the share has not equally many groups for each update.
        """
        groups = index // self.group_size
        turn = (groups % self.updates_per_round).tolist()
        rows = [[row for row, its in enumerate(turn) if its == update] for update in range(self.updates_per_round)]
        if len({len(one) for one in rows}) > 1:
            raise UserError(
                f"a process has {len(groups.unique())} prompts in a round, which cannot be split evenly over "
                f"method.updates_per_round={self.updates_per_round}; choose train.total_batch_size as a multiple of "
                f"{self.batch_multiple} for each process"
            )
        return rows

    def scored(self, scorer: ImageScorer, model: ModelAdapter, context: Context) -> Tensor:
        """Return the scores of a round, by each reward, [N, K], on the device; note what its rewards have counted."""
        scores = scorer.scores().to(model.device)
        self.reward_calls += scores.numel()
        for name, (_, evaluator) in self.reward.components.items():
            where = "reward" if len(self.reward.components) == 1 else f"reward_{name}"
            for figure, both in evaluator.take_figures().items():
                total, count = torch.tensor(both, dtype=torch.float64, device=scores.device)
                self.beside[f"{where}_{figure}"] = context.reduce(total, count)
        return scores

    @property
    def component_weights(self) -> Tensor:
        """The weight of each reward, [K], float64."""
        return torch.tensor([weight for weight, _ in self.reward.components.values()], dtype=torch.float64)

    def reward_metrics(self, scores: Tensor) -> dict[str, Tensor]:
        """Return what is logged of rewards: their weighted sum, and each apart where there are several."""
        reward = (scores.double() @ self.component_weights.to(scores.device, non_blocking=True)).float()
        each = dict(zip(self.reward.components, scores.unbind(1), strict=True)) if scores.shape[1] > 1 else {}
        return {"reward": reward} | {f"reward_{name}": values for name, values in each.items()}


@dataclass(eq=False, kw_only=True)
class OnlineMethod(RolloutMethod[BatchT]):
    """A method that compares the final images of each prompt with one another.

    Attributes:
        advantage: how rewards become advantages.
    """

    advantage: AdvantageSettings

    def sample(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Trajectory:
        """Sample an image for each row, by the model's own deterministic sampler unless a method has another."""
        noise = context.noise(batch.index, model.latent_shape, "rollout").to(model.device)
        guidance = self.rollout_guidance_scale
        empty = model.unconditional(guidance, batch.conditioning)
        return model.sample(noise, batch.conditioning, model.noise_levels(self.num_rollout_steps), guidance, empty)

    def compared(
        self, model: ModelAdapter, batch: PromptBatch, latents: Tensor, scores: Tensor, context: Context
    ) -> RolledOut:
        """Return the images of a round with their advantages; statistics are those of all processes."""
        index = context.gather(batch.index.to(model.device))
        of_all = context.gather(scores.double())
        groups, weights = self.comparison_groups(batch, index, context), self.component_weights
        own = torch.searchsorted(index, batch.index.to(model.device))  # shares follow each other in rank order
        advantage = self.advantage.of(of_all, weights, groups)[own].float()
        flat = flat_groups(of_all @ weights.to(of_all), groups)[own]
        return RolledOut(batch.index, batch.prompts, batch.conditioning, latents, scores, advantage, flat)

    def comparison_groups(self, batch: PromptBatch, index: Tensor, context: Context) -> Tensor:
        """Return the number of the group in which each image is compared, [N], int64: here the images of a prompt.

        Args:
            batch: this process's share of the round.
            index: of the images of all processes, [N].
        """
        return index // self.group_size

    def roll_out(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> tuple[RolledOut, list[Trajectory]]:
        """Sample and score an image for each row of this process's share.

        Returns:
            The images, and the trajectory of each batch that was sampled at once.
        """
        scorer, trajectories = ImageScorer(self.reward, self.group_size), []
        for chunk in batch.split(self.rollout_batch_size or context.micro_batch_size):
            trajectories.append(self.sample(model, chunk, context))
            scorer.add(model.decode_latents(trajectories[-1].latents), chunk.prompts)
        latents = torch.cat([trajectory.latents for trajectory in trajectories])
        return self.compared(model, batch, latents, self.scored(scorer, model, context), context), trajectories
