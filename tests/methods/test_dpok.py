"""DPOK: the baseline learns what images score, and the ratio is clamped on both sides."""

import pytest
import torch

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.models.tiny_random import tiny_adapter
from alignbench.online.advantages import PlainReward
from alignbench.online.path_policy import StepComparison
from methods.dpok import DPOK, ValueNetwork


@pytest.fixture
def dpok(kit):
    """A function that makes the method, with changes to its settings."""

    def make(**changes):
        own = {
            "name": "dpok",
            "group_size": 1,
            "advantage": PlainReward(floor=None),
            "kl_weight": 0.0,
            "kl_form": "prediction",
            "reward_weight": 10.0,
            "clip_range": 0.1,
            "value_network": ValueNetwork(num_features=8, width=16),
            "value_weight": 1.0,
        }
        return DPOK(**kit.path_settings(**own | changes))

    return make


def rolled_out(method, model, step=0):
    texts = [f"prompt {n}" for n in range(8)]
    batch = PromptBatch(torch.arange(8), texts, model.encode_prompts(texts))
    (steps,) = method.rollout(model, batch, Context(step, 0, 8))
    return steps


def toy(kit):
    return kit.ToyModel(kit.Linear(0.3), shape=(3, 8, 8))


def test_the_advantage_is_what_the_baseline_did_not_expect(dpok, kit):
    method, model = dpok(), toy(kit)
    (batch, *_) = rolled_out(method, model)
    reward = batch.advantage
    torch.testing.assert_close(reward, batch.scores[:, 0])
    assert method.mean_reward == pytest.approx(float(reward.mean()))  # of the first round, which V begins at
    loss = method.loss(model, batch, Context(0, 0, 8))
    torch.testing.assert_close(loss.metrics["advantage"], reward - reward.mean())
    error = (reward - reward.mean()).square()
    torch.testing.assert_close(loss.metrics["value_error"], error)
    torch.testing.assert_close(loss.values, -10 * (reward - reward.mean()) + error)
    kit.perturb(model)
    rolled_out(method, model, step=1)
    assert method.mean_reward == pytest.approx(float(reward.mean()))


def test_a_resumed_run_knows_the_mean_reward(dpok, kit):
    """Checkpoints hold the trained weights of the value network, not what it begins at."""
    method, resumed = dpok(), dpok()
    rolled_out(method, toy(kit))
    resumed.load_state_dict(method.state_dict())
    assert resumed.mean_reward == method.mean_reward != 0


def test_the_baseline_learns_and_the_policy_does_not_feel_its_error(dpok, kit):
    method, model = dpok(reward_weight=1e-12), toy(kit)
    steps = rolled_out(method, model)
    optimizer = torch.optim.Adam(method.value_network.parameters(), 1e-2)
    errors = []
    for _ in range(60):
        losses = [method.loss(model, batch, Context(0, 0, 8)) for batch in steps]
        sum(loss.values.sum() for loss in losses).backward()
        errors.append(float(sum(loss.metrics["value_error"].sum() for loss in losses)))
        optimizer.step()
        optimizer.zero_grad()
    assert errors[-1] < errors[0] / 4
    assert model.network.a.grad.abs() < 1e-9


def test_the_baseline_has_no_gradient_of_the_policys_loss(dpok, kit):
    method, model = dpok(value_weight=0.0), toy(kit)
    (batch, *_) = rolled_out(method, model)
    method.loss(model, batch, Context(0, 0, 8)).values.sum().backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in method.value_network.parameters())
    assert model.network.a.grad.abs() > 0


def test_a_ratio_out_of_range_is_not_even_brought_back(dpok):
    log_ratio = torch.tensor([1.2, 1.2, 1.05], dtype=torch.float64).log().requires_grad_()
    rows = torch.ones(3, dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    values, stopped = dpok().objective(StepComparison(log_ratio, rows, rows, rows, advantage))
    torch.testing.assert_close(values, torch.tensor([-11.0, 11.0, 10.5], dtype=torch.float64))
    values.sum().backward()
    assert stopped.tolist() == [True, True, False]
    torch.testing.assert_close(log_ratio.grad, torch.tensor([0.0, 0.0, 10.5], dtype=torch.float64))


def test_a_floor_hides_how_bad_an_image_is():
    rewards, weights = torch.tensor([[-2.0], [0.5]]), torch.ones(1)
    assert PlainReward(floor=0.0).of(rewards, weights, torch.zeros(2)).tolist() == [0.0, 0.5]
    assert PlainReward(floor=None).of(rewards, weights, torch.zeros(2)).tolist() == [-2.0, 0.5]


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_one_baseline_fits_all_families_and_is_the_same_in_every_process(family):
    model = tiny_adapter(family)
    conditioning = model.encode_prompts(["a cat", "a dog"])
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = ValueNetwork(num_features=8, width=16)
        torch.nn.init.ones_(network.layers[-1].weight)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, *model.latent_shape, generator=generator)
        values.append(network(latents, torch.tensor([0.9, 0.1], dtype=torch.float64), conditioning.prompt_embeds))
    assert values[0].shape == (2,)
    assert torch.equal(*values)
    assert values[0][0] != values[0][1]
