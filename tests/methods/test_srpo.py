from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from alignbench.batch import PromptBatch
from alignbench.training.parallel import join
from alignbench.training.update import read, update
from methods.recovery import RecoveryWindow
from methods.srpo import SRPO, srpo_reward

WINDOW = {"unit": "entries", "num_inference_steps": 50, "shift": 3.0, "known_ratio": 0.9, "edge": 5}
BOTH = ("denoise", "inversion")


def srpo(reward, **changes) -> SRPO:
    """Return the released recipe with few rollout steps."""
    options = {
        "name": "srpo",
        "window": RecoveryWindow([5, 25], num_levels=1000, **WINDOW),
        "num_rollout_steps": 2,
        "rollout_guidance_scale": 1.0,
        "rollout_shift": None,
        "train_guidance_scale": None,
        "detach_unconditional": True,
        "noise_source": "rollout",
        "share_noise": True,
        "branches": BOTH,
        "redraw_level": False,
        "gain": "landing",
        "gain_constant": 1.0,
        "discount_mode": "absolute_bonus",
        "discount_denoise": (0.1, 0.25),
        "discount_inversion": (0.3, 0.01),
        "discount_shift": 1.0,
        "margin": 0.7,
        "positive_words": ["Natural-lighting", "Detail", "Detailed", "Real"],
        "negative_words": ["Concept art", "Painting", "Anime", "Flat", "Oil"],
        "template": "{word}. {prompt}",
    }
    return SRPO(**options | {"reward": reward} | changes)


DIRECT_ALIGN = {
    "branches": ("denoise",),
    "positive_words": [],
    "negative_words": [],
    "discount_mode": "multiplicative",
    "discount_denoise": (0.0, 1.0),
    "margin": None,
}


class Output(nn.Module):
    """A network whose output is itself the parameter."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.output = nn.Parameter(torch.randn(1, *shape, generator=generator, dtype=torch.float64))

    def forward(self, noisy_latents, timesteps):
        return self.output.expand(len(noisy_latents), -1, -1, -1)


def recoveries(method, model, batch, context):
    """Return the only update of a rollout, as a list of micro-batches."""
    (update,) = list(method.rollout(model, batch, context))
    return update


# ---- the pure functions


def scores(num: int = 5) -> tuple[torch.Tensor, ...]:
    return tuple(torch.rand(4, num, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def test_equal_captions_cancel_and_the_discount_is_a_bonus_on_the_plain_reward():
    plus, _, discount, _ = scores()
    forward = torch.ones(5)
    assert srpo_reward(plus, plus, 0 * discount, forward, "absolute_bonus").abs().max() == 0
    torch.testing.assert_close(srpo_reward(plus, plus, discount, forward, "absolute_bonus"), discount * plus)
    assert srpo_reward(plus, plus, discount, forward, "multiplicative").abs().max() == 0


def test_equal_captions_have_exactly_no_gradient():
    score = scores()[0].requires_grad_()
    srpo_reward(score, score, torch.zeros(5), torch.ones(5), "absolute_bonus").sum().backward()
    assert score.grad.abs().max() == 0


def test_swapping_captions_negates_the_relative_reward_and_so_does_inversion():
    plus, minus, discount, _ = scores()
    forward, none = torch.ones(5), torch.zeros(5)
    relative = srpo_reward(plus, minus, none, forward, "absolute_bonus")
    torch.testing.assert_close(srpo_reward(minus, plus, none, forward, "absolute_bonus"), -relative)
    torch.testing.assert_close(srpo_reward(plus, minus, none, -forward, "absolute_bonus"), -relative)
    for mode in ("absolute_bonus", "multiplicative"):
        swapped = srpo_reward(minus, plus, discount, forward, mode)
        torch.testing.assert_close(srpo_reward(plus, minus, discount, -forward, mode), swapped)


# ---- the gradient of both branches together


def two_branches(kit, common: float = 0.0, **changes):
    """Return gradient with respect to the network's output, and what a hand calculation needs."""
    model = kit.ToyModel(Output(3, 4, 4))
    reward = kit.ToyReward(48, torch.float64)
    reward.common = common * torch.randn(48, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    method = srpo(reward, margin=None, **changes)
    batch = kit.batch(PromptBatch, model, num=1)
    context = next(
        context
        for context in map(kit.context, range(20), [1] * 20, range(20))
        if (method.window.draw(context.uniform(batch.index, "level0")).length == 100).all()
    )
    kit.backward(method, model, batch, context)
    denoise, inversion = recoveries(method, model, batch, context)
    level = model.schedule.level
    c = model.schedule.recovery_coefficient(level(denoise.start), level(denoise.landing))
    plus, minus = denoise.text_plus.view(3, 4, 4), denoise.text_minus.view(3, 4, 4)
    return (
        model.network.output.grad[0],
        c,
        denoise.discount,
        inversion.discount,
        plus,
        minus,
        reward.common.view(3, 4, 4),
    )


def test_both_branches_raise_the_wanted_score_and_lower_the_unwanted_one(kit):
    gradient, c, bonus, other, plus, minus, _ = two_branches(kit)
    expected = c / 2 * ((2 + bonus) * plus - (2 + other) * minus)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)


def test_without_the_swap_the_relative_parts_would_cancel(kit):
    """The negative control: both branches scored as if they were denoising."""
    model, reward = kit.ToyModel(Output(3, 4, 4)), kit.ToyReward(48, torch.float64)
    method = srpo(reward, margin=None)
    context = kit.context(seed=1)
    denoise, inversion = recoveries(method, model, kit.batch(PromptBatch, model, num=1), context)
    for part in (denoise, replace(inversion, direction=denoise.direction)):
        method.loss(model, part, context).values.sum().backward()
    level = model.schedule.level
    c = model.schedule.recovery_coefficient(level(denoise.start), level(denoise.landing))
    expected = c * (denoise.discount - inversion.discount) * denoise.text_plus.view(3, 4, 4)
    torch.testing.assert_close(model.network.output.grad[0], expected, rtol=1e-4, atol=1e-8)


def test_what_both_captions_share_enters_with_the_difference_of_the_discounts(kit):
    gradient, c, bonus, other, *_, common = two_branches(kit, common=1.0)
    without = two_branches(kit)[0]
    torch.testing.assert_close(gradient - without, c / 2 * (bonus - other) * common, rtol=1e-4, atol=1e-8)


def test_equal_discounts_filter_the_shared_part_out(kit):
    even = {"discount_denoise": (0.2, 0.2), "discount_inversion": (0.2, 0.2)}
    difference = two_branches(kit, common=1.0, **even)[0] - two_branches(kit, **even)[0]
    assert difference.abs().max() < 1e-6 * two_branches(kit, common=1.0)[0].abs().max()


def test_a_perfect_network_gets_its_own_image_scored(kit):
    """The recovered image is then the rolled-out one, for both branches and whatever the level."""
    model = kit.ToyModel(kit.Linear(0.3))
    method = srpo(kit.ToyReward(48), margin=None)
    batch = kit.batch(PromptBatch, model, num=3)
    for part in recoveries(method, model, batch, kit.context()):
        target = part.noise - part.latents
        perfect = kit.ToyModel(nn.Identity())
        perfect.forward = lambda *inputs, target=target: target
        metrics = method.loss(perfect, part, kit.context()).metrics
        expected = (part.latents.flatten(1) * part.text_plus).sum(1)
        torch.testing.assert_close(metrics["score_plus"], expected, rtol=1e-5, atol=1e-5)


def test_rewards_without_features_give_the_same_loss_by_two_calls(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    batch, context = kit.batch(PromptBatch, model), kit.context()
    with_features, without = (
        kit.backward(srpo(kind(48), margin=None), model, batch, context) for kind in (kit.ToyReward, kit.ScoreReward)
    )
    for one, other in zip(with_features, without, strict=True):
        torch.testing.assert_close(one["loss"], other["loss"])


# ---- draws


def test_noise_is_one_for_all_prompts_of_an_update_while_levels_differ(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    batch, method = kit.batch(PromptBatch, model), srpo(kit.ToyReward(48))
    parts = recoveries(method, model, batch, kit.context(micro_batch_size=2))
    noise = torch.cat([part.noise for part in parts])
    assert (noise == noise[0]).all()
    assert len(torch.cat([parts[0].landing, parts[2].landing]).unique()) == 4
    assert not torch.equal(recoveries(method, model, batch, kit.context(step=1))[0].noise[0], noise[0])

    own = recoveries(srpo(kit.ToyReward(48), share_noise=False), model, batch, kit.context())[0]
    assert not torch.equal(own.noise[0], own.noise[1])


def test_branches_land_on_one_level_unless_each_draws_its_own(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    batch = kit.batch(PromptBatch, model)
    denoise, inversion = recoveries(srpo(kit.ToyReward(48)), model, batch, kit.context())
    assert torch.equal(denoise.landing, inversion.landing)
    assert (denoise.start > denoise.landing).all()
    assert (inversion.start < inversion.landing).all()
    first, second = recoveries(srpo(kit.ToyReward(48), redraw_level=True), model, batch, kit.context())
    assert not torch.equal(first.landing, second.landing)


def test_fresh_noise_is_not_the_one_the_image_was_made_from(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    batch, context = kit.batch(PromptBatch, model), kit.context()
    rollout, fresh = (
        recoveries(srpo(kit.ToyReward(48), noise_source=source), model, batch, context)[0]
        for source in ("rollout", "fresh")
    )
    assert torch.equal(rollout.latents, fresh.latents)
    assert not torch.equal(rollout.noise, fresh.noise)


def test_a_repeated_step_is_the_same_to_the_last_bit(make_model, kit):
    model = make_model(reference=False)
    batch, method = kit.batch(PromptBatch, model, num=2), srpo(kit.ToyReward(3 * 32 * 32))
    gradients = []
    for _ in range(2):
        kit.backward(method, model, batch, kit.context(step=3))
        gradients.append(kit.gradient(model))
    assert torch.equal(*gradients)


# ---- control words


def test_twenty_updates_use_twenty_pairs_of_words_in_turn(kit):
    reward = kit.ToyReward(48)
    model = kit.ToyModel(kit.Linear(0.3))
    method, batch = srpo(reward), kit.batch(PromptBatch, model, num=1)
    asked = []
    for step in range(20):
        reward.asked.clear()
        recoveries(method, model, batch, kit.context(step=step))
        asked.append(tuple(reward.asked))
    assert asked[0] == ("Natural-lighting. a red circle", "Concept art. a red circle")
    assert asked[5] == ("Detail. a red circle", "Concept art. a red circle")
    assert len(set(asked)) == 20


def test_the_word_stands_where_a_text_encoder_cannot_cut_it_off(kit, make_model):
    caption = srpo(kit.ScoreReward(48)).captions(["a very long caption " * 100], ["Real"], step=0)[0]
    tokenizer = make_model(reference=False).pipeline.tokenizer
    kept = tokenizer.decode(tokenizer(caption, max_length=77, truncation=True).input_ids, skip_special_tokens=True)
    assert kept.replace(" ", "").startswith("real.avery")


def test_control_words_do_not_reach_the_denoiser(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    batch = kit.batch(PromptBatch, model)
    for part in recoveries(srpo(kit.ToyReward(48)), model, batch, kit.context()):
        assert torch.equal(part.conditioning.prompt_embeds, batch.conditioning.prompt_embeds)
        assert part.prompts == batch.prompts


def test_without_words_the_caption_itself_is_rewarded(kit):
    reward = kit.ToyReward(48)
    model = kit.ToyModel(kit.Linear(0.3))
    method = srpo(reward, **DIRECT_ALIGN)
    (part,) = recoveries(method, model, kit.batch(PromptBatch, model), kit.context())
    assert reward.asked == part.prompts
    metrics = method.loss(model, part, kit.context()).metrics
    torch.testing.assert_close(metrics["reward"], part.discount * metrics["score_plus"])
    assert metrics["score_minus"].abs().max() == 0


# ---- on real networks


def test_only_the_trained_calls_build_a_graph_and_only_the_policy_gets_a_gradient(make_model, kit):
    model = make_model(reference=False)
    method, batch = srpo(kit.ToyReward(3 * 32 * 32)), kit.batch(PromptBatch, model, num=2)
    modes = {name: module.training for name, module in model.denoiser.named_modules()}
    calls = []
    forward = model.forward

    def counting(*inputs):
        calls.append(torch.is_grad_enabled())
        return forward(*inputs)

    model.forward = counting
    for part in recoveries(method, model, batch, kit.context()):
        assert not part.latents.requires_grad
        assert not part.noise.requires_grad
    assert sum(calls) == 0
    calls.clear()
    kit.backward(method, model, batch, kit.context())
    assert sum(calls) == 2
    assert model.network_passes == 2 * 2 * 2 + 2 * 2 * 3  # two rollouts of 2 steps, then two branches
    assert kit.gradient(model).norm() > 0
    assert all(p.grad is None for p in model.pipeline.vae.parameters())
    assert {name: module.training for name, module in model.denoiser.named_modules()} == modes


def test_four_prompts_at_once_and_one_by_one_have_one_gradient(make_model, kit):
    model = make_model(reference=False)
    method, batch = srpo(kit.ToyReward(3 * 32 * 32)), kit.batch(PromptBatch, model)
    gradients = []
    for micro_batch_size in (4, 1, 3):
        kit.backward(method, model, batch, kit.context(micro_batch_size=micro_batch_size))
        gradients.append(kit.gradient(model))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-4 * gradients[0].norm()


def test_one_branch_trains_the_branch_that_is_named(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    for branch, direction in (("denoise", 1), ("inversion", -1)):
        method = srpo(kit.ToyReward(48), branches=[branch])
        metrics = kit.backward(method, model, kit.batch(PromptBatch, model), kit.context())
        assert len(metrics) == 1
        assert metrics[0]["reward_denoise"].isnan().all() == (direction == -1)
        assert metrics[0]["reward_inversion"].isnan().all() == (direction == 1)


def test_discrete_models_are_asked_at_whole_timesteps(kit):
    model = kit.ToyModel(kit.Linear(0.3), "epsilon")
    window = RecoveryWindow([0.9, 0.62], num_levels=1000, **WINDOW | {"unit": "tau"})
    for part in recoveries(srpo(kit.ToyReward(48), window=window), model, kit.batch(PromptBatch, model), kit.context()):
        assert torch.equal(part.start, part.start.round())
        assert part.start.min() >= 480
        assert part.start.max() <= 920


def test_guidance_reaches_rollout_and_training_where_it_is_not_distilled(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    batch, context = kit.batch(PromptBatch, model), kit.context()
    rows = []
    forward = model.forward
    model.forward = lambda noisy, *rest: rows.append(len(noisy)) or forward(noisy, *rest)
    guided = srpo(kit.ToyReward(48), rollout_guidance_scale=4.0, train_guidance_scale=4.0)
    kit.backward(guided, model, batch, context)
    assert rows == [8, 8, 4, 4, 4, 4]  # the detached empty half is a call of its own
    rows.clear()
    kit.backward(srpo(kit.ToyReward(48)), model, batch, context)
    assert rows == [4, 4, 4, 4]


def test_adapters_change_and_what_lies_under_them_does_not(make_model, kit):
    model = make_model("lora")
    batch, context = kit.batch(PromptBatch, model, num=2), kit.context()
    base = {name: p.detach().clone() for name, p in model.denoiser.named_parameters() if not p.requires_grad}
    noisy, timesteps = torch.randn(2, *model.latent_shape), torch.tensor([500.0, 800.0])
    with torch.no_grad():
        before = model.predict(noisy, timesteps, batch.conditioning)
    optimizer = torch.optim.AdamW([p for p in model.denoiser.parameters() if p.requires_grad], lr=1e-2)
    kit.backward(srpo(kit.ToyReward(3 * 32 * 32)), model, batch, context)
    optimizer.step()
    for name, parameter in model.denoiser.named_parameters():
        assert parameter.requires_grad or torch.equal(parameter, base[name])
    with torch.no_grad(), model.reference():
        assert torch.equal(model.predict(noisy, timesteps, batch.conditioning), before)
    with torch.no_grad():
        assert not torch.equal(model.predict(noisy, timesteps, batch.conditioning), before)


def test_metrics_say_what_happened(kit):
    model = kit.ToyModel(kit.Linear(0.3))
    method = srpo(kit.ToyReward(48))
    denoise, inversion = kit.backward(method, model, kit.batch(PromptBatch, model, num=4), kit.context())
    plus, minus = denoise["score_plus"], denoise["score_minus"]
    assert ((denoise["reward"] - (plus - minus)).abs() <= 0.25 * plus.abs() + 1e-6).all()
    assert torch.equal(denoise["reward"], denoise["reward_denoise"])
    assert torch.equal(denoise["hinged"], (denoise["reward"] > 0.7).float())
    assert ((denoise["landing_sigma"] > 0.75) & (denoise["landing_sigma"] < 0.965)).all()
    torch.testing.assert_close(denoise["bias_sign"], torch.sign(denoise["landing_sigma"] - 0.8615).float())
    assert (denoise["gain"] > 0).all()
    assert torch.equal(denoise["landing_sigma"], inversion["landing_sigma"])
    assert not any(value.requires_grad for value in (denoise | inversion).values())
    assert method.trained_on == ("toy",)


def test_figures_of_one_branch_are_averages_over_that_branch(kit):
    model, context = kit.ToyModel(kit.Linear(0.3)), kit.context()
    method = srpo(kit.ToyReward(48))
    parts = recoveries(method, model, kit.batch(PromptBatch, model), context)
    separate = [method.loss(model, part, context) for part in parts]
    parallel = join(Accelerator(cpu=True))
    figures = update(method, model, parts, context, parallel, [], list(model.network.parameters()))
    logged, _ = read([("", figures)], {}, parallel.accelerator)
    assert logged["reward_denoise"] == pytest.approx(separate[0].metrics["reward"].mean().item(), rel=1e-5)
    assert logged["reward_inversion"] == pytest.approx(separate[1].metrics["reward"].mean().item(), rel=1e-5)
    assert logged["loss"] == pytest.approx(sum(loss.values.mean().item() for loss in separate) / 2, rel=1e-5)


def test_unknown_choices_are_named(kit):
    with pytest.raises(ValueError, match=r"method.branches=invert is unknown; available: denoise, inversion"):
        srpo(kit.ToyReward(48), branches=["denoise", "invert"])


# ---- what it is for


def test_the_wanted_direction_rises_while_the_shared_bias_drifts_less_than_under_the_plain_reward(kit):
    """A small network, a linear reward with a planted liking common to all captions, 200 updates of each method."""

    class Wishes(kit.ToyReward):
        """Wanted captions point along the first pixel, unwanted ones against it, all along the second."""

        def embed_text(self, prompts):
            rows = torch.zeros(len(prompts), 48)
            for row, prompt in zip(rows, prompts, strict=True):
                row[0] = 1.0 if prompt.startswith("good") else -1.0 if prompt.startswith("bad") else 0.5
            rows[:, 1] = 1.0
            return rows

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(49, 32), nn.SiLU(), nn.Linear(32, 48))

        def forward(self, noisy_latents, timesteps):
            time = timesteps.float()[:, None] / 1000
            return self.layers(torch.cat([noisy_latents.flatten(1), time], 1)).view_as(noisy_latents)

    def drift(**changes) -> tuple[float, float]:
        torch.manual_seed(0)
        model = kit.ToyModel(Network())
        method = srpo(Wishes(48), num_rollout_steps=4, positive_words=["good"], negative_words=["bad"], margin=None)
        method = replace(method, **changes)
        optimizer = torch.optim.SGD(model.network.parameters(), lr=0.01)
        batch = kit.batch(PromptBatch, model, num=8)

        def mean_image() -> torch.Tensor:
            noise = torch.randn(64, *model.latent_shape, generator=torch.Generator().manual_seed(9))
            conditioning = model.encode_prompts([""] * 64)
            return model.sample(noise, conditioning, model.noise_levels(8)).latents.flatten(1).mean(0)

        before = mean_image()
        for step in range(200):
            kit.backward(method, model, batch, kit.context(step=step, micro_batch_size=8))
            optimizer.step()
        wanted, bias = (mean_image() - before)[:2].tolist()
        return wanted, bias

    wanted, bias = drift()
    plain_wanted, plain_bias = drift(**DIRECT_ALIGN)
    assert wanted > 0.5
    assert abs(bias) < 0.05 * wanted
    assert plain_bias > plain_wanted > 0
    assert abs(bias) < 0.1 * plain_bias
