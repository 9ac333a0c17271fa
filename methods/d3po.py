"""D3PO: a preference loss on the sampling steps of two images that start from the same noise.

Paper: Yang et al. 2023, "Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model", arXiv
2311.13231. Reference code: yk7333/d3po, scripts/rm/train_d3po.py.

Deviations: the better image is that with the higher reward, or the higher weighted sum of several; the code compares
several by Pareto dominance. The reference is the start of the run, also of a resumed one. The last step adds no noise
and is not trained; the steps of a pair are trained level by level. Flow models are ours: the steps of Flow-GRPO.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignbench.context import Context
from alignbench.method import Loss
from alignbench.models.adapter import ModelAdapter
from alignbench.online.path_sampling import PathSampling, StepBatch
from alignbench.online.policy_objectives import clamped_preference_loss
from alignbench.settings.section import Positive, ProperShare


@dataclass(eq=False, kw_only=True)
class D3PO(PathSampling):
    """D3PO.

    Attributes:
        beta, clip_range: see `clamped_preference_loss`.
    """

    needs_reference = True
    rows_together = 2

    beta: Positive
    clip_range: ProperShare

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size != 2:
            raise ValueError(
                f"method.group_size={self.group_size} must be 2 for method=d3po, which compares two images"
            )

    def with_predictions(self, model: ModelAdapter, updates: Sequence[list[StepBatch]]) -> list[list[StepBatch]]:
        return [self.with_expected(model, batches) for batches in updates]

    def loss(self, model: ModelAdapter, batch: StepBatch, context: Context) -> Loss:
        assert batch.expected is not None
        policy = self.transition(model, batch, self.predict(model, batch))
        log_ratio = self.log_ratio(batch.next_latents, policy, self.transition(model, batch, batch.expected))

        def pairs(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (-1, 2))

        better = pairs(batch.advantage)
        first_wins, decided = better[:, 0] > better[:, 1], better[:, 0] != better[:, 1]
        ratios = pairs(log_ratio)
        ratio_w, ratio_l = (ratios[:, place].where(first_wins, ratios[:, 1 - place]) for place in (0, 1))
        values = clamped_preference_loss(ratio_w, ratio_l, self.beta, self.clip_range)
        margin = (ratio_w - ratio_l).detach()
        stopped = (log_ratio.detach().exp() - 1).abs() > self.clip_range
        metrics = self.reward_metrics(pairs(batch.scores).mean(1)) | {
            "flat_groups": 1 - decided.float(),
            "accuracy": ((margin.sign() + 1) / 2).where(decided, torch.nan),
            "margin": margin.where(decided, torch.nan),
            "stopped": pairs(stopped.float()).mean(1),
        }
        return Loss((values * decided).float(), torch.ones_like(values), metrics)
