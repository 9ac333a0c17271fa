"""Methods that train by a comparer alone make images that it prefers, however it likes the first place."""

import pytest
import torch
from torch import nn

from evaluators.comparer_reward import ComparerReward
from tests.online_runs import Brighter, keep_old_policy, method_of, prompts_in_groups


class Moved(nn.Module):
    """A shift for each channel, beside the velocity that leads noise to grey."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, noisy_latents, timesteps):
        return 0.7 * noisy_latents - 0.5 - self.shift


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", ("win_share", None, "both")),
        pytest.param("nft", ("win_share", 2, "both"), marks=pytest.mark.matrix),
        pytest.param("grpo", ("quality", 4, "once"), marks=pytest.mark.matrix),
        pytest.param("online_dpo", ("win_share", None, "both"), marks=pytest.mark.matrix),
    ],
)
def test_what_the_comparer_prefers_rises(kit, name, settings):
    torch.manual_seed(0)
    model = kit.ToyModel(Moved(), "velocity", shape=(3, 8, 8))
    model.make_reference()
    keep_old_policy(model)
    reward = ComparerReward(Brighter(3.0), *settings)
    method = method_of(name, 4, reward=reward, group_size=8, rollout_guidance_scale=None)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=0.03)
    batch, brightness = prompts_in_groups(model, 4, 8), []
    for step in range(12):
        context = kit.context(step=step)
        brightness.append(float(method.roll_out(model, batch, context)[0].latents.mean()))
        for micro_batches in method.rollout(model, batch, context):
            optimizer.zero_grad()
            losses = [method.loss(model, one, context) for one in micro_batches]
            (sum(one.values.sum() for one in losses) / sum(len(one.values) for one in losses)).backward()
            optimizer.step()
    assert brightness[-1] > brightness[0] + 0.1
