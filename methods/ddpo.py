"""DDPO: policy gradients on sampling steps, an image compared with earlier ones of its prompt.

Paper: Black et al. 2023, "Training Diffusion Models with Reinforcement Learning", arXiv 2305.13301. Reference code:
kvablack/ddpo-pytorch, scripts/train.py, ddpo_pytorch/stat_tracking.py.

Deviations: the last step adds no noise and is not trained; the steps of an image are trained level by level, not in an
order of its own; an update has all its steps; rewards are told by the text of the prompt as it is in the data, not as
the tokenizer cut it. Flow models are ours: the steps of Flow-GRPO in place of ancestral ones.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.online.path_policy import PathPolicy, StepComparison
from alignbench.online.policy_objectives import is_clipped, ppo_loss
from alignbench.online.reward_tracker import RewardTracker, prompt_numbers
from alignbench.settings.section import Positive


@dataclass(eq=False, kw_only=True)
class DDPO(PathPolicy):
    """DDPO with importance sampling.

    Attributes:
        advantage: what an image is compared with.
        clip_range: how far from 1 the ratio of probabilities may go.
    """

    smallest_group = 1

    advantage: RewardTracker  # pyright: ignore[reportIncompatibleVariableOverride] # nothing here reads another's keys
    clip_range: Positive

    def comparison_groups(self, batch: PromptBatch, index: Tensor, context: Context) -> Tensor:
        return context.gather(prompt_numbers(batch.prompts).to(index.device))

    def objective(self, steps: StepComparison) -> tuple[Tensor, Tensor]:
        stopped = is_clipped(steps.log_ratio, steps.advantage, self.clip_range)
        return ppo_loss(steps.log_ratio, steps.advantage, self.clip_range), stopped

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": self.advantage.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.advantage.load_state_dict(state["rewards"])
