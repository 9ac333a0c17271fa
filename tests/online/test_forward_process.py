"""Methods that noise their own images anew: who samples, what is kept, and that layouts do not matter."""

from dataclasses import replace

import pytest
import torch

from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.models.lagged_weights import Lag
from alignbench.online.advantages import group_relative
from alignbench.online.likelihood import elbo
from tests.online_runs import keep_old_policy, method_of, prompts_in_groups

METHODS = ("nft", "awm", "pepg", "dgpo")


@pytest.fixture
def model(make_model, kit):
    model = make_model()
    keep_old_policy(model)
    return model


@pytest.mark.parametrize("name", METHODS)
def test_the_first_update_meets_the_old_policy_bit_for_bit(model, kit, name):
    """So the ratio is exactly 1, and the gradient is that of matching weighted by the advantage."""
    method = method_of(name)
    metrics = kit.backward(method, model, prompts_in_groups(model, 2, 2), kit.context())
    assert all((one["moved"] == 0).all() for one in metrics)
    assert kit.gradient(model).norm() > 0


@pytest.mark.parametrize("who", ["old", "policy"])
def test_images_are_sampled_by_whom_the_setting_names(model, kit, who):
    method = method_of("nft", rollout_policy=who)
    batch, context = prompts_in_groups(model, 2, 2), kit.context()
    by_start = method.roll_out(model, batch, context)[0].latents
    kit.perturb(model)
    by_moved = method.roll_out(model, batch, context)[0].latents
    assert not torch.equal(by_start, by_moved)
    found = next(iter(method.rollout(model, batch, context)))[0].latents
    assert torch.equal(found, by_start if who == "old" else by_moved)


def test_the_old_policy_follows_after_the_last_update_of_a_round(model, kit):
    method = method_of("nft", updates_per_round=2, lag={"start": 0.0, "slope": 0.25, "cap": 1.0, "delay": 0})
    before = [value.clone() for value in model.lagged_weights.values]
    kit.perturb(model)
    for batches in method.rollout(model, prompts_in_groups(model, 2, 2), kit.context(step=0)):
        assert all(torch.equal(a, b) for a, b in zip(before, model.lagged_weights.values, strict=True))
        assert batches
    expected = [torch.lerp(p.detach(), b, 0.5) for p, b in zip(model.lagged_weights.parameters, before, strict=True)]
    for found, wanted in zip(model.lagged_weights.values, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_change_nothing(kit, make_model, name):
    found = []
    for size in (8, 3):
        model, method = make_model(), method_of(name, rollout_batch_size=2)
        keep_old_policy(model)
        kit.perturb(model)
        kit.backward(method, model, prompts_in_groups(model, 4, 2), replace(kit.context(), micro_batch_size=size))
        found.append(kit.gradient(model))
    assert (found[0] - found[1]).norm() < 1e-5 * found[0].norm()


def test_updates_of_a_round_share_its_prompts(model, kit):
    method = method_of("nft", updates_per_round=2)
    rounds = list(method.rollout(model, prompts_in_groups(model, 4, 2), kit.context()))
    prompts = [{prompt for batch in batches for prompt in batch.prompts} for batches in rounds]
    assert [len(one) for one in prompts] == [2, 2]
    assert not prompts[0] & prompts[1]


def test_images_of_a_prompt_share_noise_and_level_where_that_is_asked_and_only_there(model, kit):
    batch = prompts_in_groups(model, 2, 2)
    shared = next(iter(method_of("dgpo").rollout(model, batch, kit.context())))[0]
    assert torch.equal(shared.noise[0], shared.noise[1])
    assert not torch.equal(shared.noise[0], shared.noise[2])
    assert len(set(shared.timesteps.tolist())) == 1
    own = next(iter(method_of("nft").rollout(model, batch, kit.context())))[0]
    assert not torch.equal(own.noise[0], own.noise[1])


def test_every_level_of_every_image_is_trained_once(model, kit):
    batches = next(iter(method_of("nft", num_steps=3).rollout(model, prompts_in_groups(model, 2, 2), kit.context())))
    seen = sorted((int(i), float(t)) for batch in batches for i, t in zip(batch.index, batch.timesteps, strict=True))
    assert len(seen) == len(set(seen)) == 4 * 3


def test_a_reward_that_is_the_same_for_all_images_leaves_the_policy_where_it_is(model, kit):
    method = method_of("pepg", kl_weight=0.0)
    method.reward.score_features = lambda features, encoded: torch.zeros(len(features))
    metrics = kit.backward(method, model, prompts_in_groups(model, 2, 2), kit.context())
    assert all((one["flat_groups"] == 1).all() for one in metrics)
    assert kit.gradient(model).norm() == 0


def test_what_was_asked_of_old_policy_and_reference_is_asked_once(model, kit):
    """8 images, 2 steps of sampling, 2 levels: 16 passes, then 16 each, then 3 times 16 with a gradient."""
    batch, method = prompts_in_groups(model, 4, 2), method_of("nft", rollout_guidance_scale=None)
    before = model.network_passes
    kit.backward(method, model, batch, kit.context())
    assert model.network_passes - before == 16 + 16 + 16 + 48


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"group_size": 1}, "method.group_size=1 must be at least 2"),
        ({"lag": None, "rollout_policy": "policy"}, "method=nft needs method.lag"),
        ({"lag": None}, "method.rollout_policy=old needs method.lag"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, sentence):
    with pytest.raises(Exception, match=sentence):
        method_of("nft", **changes)


# ---- models that predict noise: the same losses, weighted by sigma


@pytest.mark.parametrize("kind", ["adaptive", "sigma2"])
def test_a_likelihood_of_noise_is_that_of_velocity_at_the_weights_of_the_flow(kind):
    """Of one pair of implied latents and noise: velocity error e gives noise error (1 - s) e."""
    generator = torch.Generator().manual_seed(0)
    velocity, target = torch.randn(2, 3, 3, 4, 4, dtype=torch.float64, generator=generator)
    s = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    flow, level = NoiseSchedule("velocity"), Level(1 - s, s)
    noisy = torch.randn(3, 3, 4, 4, dtype=torch.float64, generator=generator)
    noise, true_noise = (flow.decompose(noisy, one, level).noise for one in (velocity, target))
    weight = (1 - s) if kind == "adaptive" else (1 - s) ** 2
    torch.testing.assert_close(elbo(noise, true_noise, s, kind), weight * elbo(velocity, target, s, kind))


# ---- the policy gradient that the surrogate estimates


@pytest.mark.parametrize(("baseline", "factor"), [("constant", 1.0), ("group", 0.75)])
def test_the_gradient_estimate_is_unbiased_up_to_the_mean_that_includes_the_image_itself(baseline, factor):
    """Images N(0, 1), network w x + c, reward -(x - m)^2, groups of 4: the closed form is 4 m (w (1 - s) + 1)."""
    w, m, s, num = 0.3, 0.5, 0.6, 400_000
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, num, dtype=torch.float64, generator=generator)
    rewards = -((images - m) ** 2)
    own_mean = group_relative(rewards, torch.arange(num) // 4, "none")
    advantage = own_mean if baseline == "group" else rewards + 1 + m**2
    c = torch.zeros(num, dtype=torch.float64, requires_grad=True)
    prediction = w * ((1 - s) * images + s * noise) + c
    likelihood = elbo(prediction[:, None], (noise - images)[:, None], torch.full((num,), s), "uniform")
    estimates = torch.autograd.grad(-(advantage * likelihood).sum(), c)[0]
    error = float(estimates.std() / num**0.5)
    assert float(estimates.mean()) == pytest.approx(factor * 4 * m * (w * (1 - s) + 1), abs=3 * error)


def test_lag_is_read_from_the_configuration():
    assert method_of("nft").lag == Lag(start=0.0, slope=0.001, cap=0.5, delay=0)
