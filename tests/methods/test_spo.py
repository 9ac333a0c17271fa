"""SPO on worked numbers, and on samplings whose candidates, judge and continuation are known."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from alignbench.batch import PromptBatch
from alignbench.configuration.compose import check_command_line
from alignbench.context import Context
from alignbench.diffusion.samplers import TransitionKernel
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.online.policy_objectives import clamped_preference_loss
from alignbench.online.rewards import ImageScorer
from alignbench.online.step_window import StepWindow
from methods.spo import SPO, ComparisonBatch, is_clear
from tests.online_runs import AsTheyAre, Brightness


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def window(first=1, size=3, **changes):
    values = {"stop": None, "choice": "fixed", "rounds_per_position": 1, "num_trained": None}
    return StepWindow(first=first, size=size, **values | changes)


@pytest.fixture
def spo(kit):
    """A function that makes the method, with changes to its settings."""

    def make(**changes):
        own = {"name": "spo", "group_size": 4, "threshold": 0.0, "logit_scale": 1.0, "beta": 10.0, "clip_range": 0.1}
        settings = kit.path_settings(detach_unconditional=False, **own)
        del settings["share_initial_noise"]
        return SPO(**settings | changes)

    return make


@pytest.fixture(params=["velocity", "epsilon"])
def toy(request, kit):
    model = kit.ToyModel(kit.Linear(0.3), request.param, shape=(3, 8, 8))
    model.make_reference()
    return model


def prompts_of(model, num_prompts=4, group_size=4, first=5):
    texts = [f"prompt {n}" for n in range(num_prompts) for _ in range(group_size)]
    return PromptBatch(torch.arange(len(texts)) + first * group_size, texts, model.encode_prompts(texts))


def context(micro_batch_size=8, **changes):
    return Context(**{"step": 0, "seed": 0, "micro_batch_size": micro_batch_size} | changes)


def sampled(method, model, batch=None):
    with torch.no_grad():
        return method.sample(model, batch or prompts_of(model), context(), ImageScorer(method.reward))


def compared(method, model, batch=None, micro_batch_size=8):
    with torch.no_grad():
        return method.comparisons(model, batch or prompts_of(model), context(micro_batch_size))


def compared_at(comparisons, number):
    return comparisons.take([row for row, step in enumerate(comparisons.step.tolist()) if step == number])


def rolled_out(method, model, micro_batch_size=8, **changes):
    return list(method.rollout(model, prompts_of(model, **changes), context(micro_batch_size)))


def average(losses, name):
    """What the loop logs of a figure."""
    values, weights = (torch.cat([getattr(loss, part) for loss in losses]) for part in ("values", "weights"))
    values = values if name == "loss" else torch.cat([loss.metrics[name] for loss in losses])
    known = weights.double() * ~values.isnan()
    return float((values.detach().double().nan_to_num() * known).sum() / known.sum())


# ---- the loss


@pytest.mark.parametrize(("threshold", "log_odds"), [(0.3, 0.61904), (0.4, 0.84730)])
def test_thresholds_of_the_paper_are_these_log_odds(threshold, log_odds):
    assert is_clear(column(log_odds - 1e-4, log_odds + 1e-4), threshold).tolist() == [False, True]


def test_a_pair_is_clear_by_the_softmax_of_its_two_scores():
    scores = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double().sort(1, descending=True).values
    share = scores.softmax(1)
    expected = share[:, 0] - share[:, 1] > 0.3
    assert torch.equal(is_clear(scores[:, 0] - scores[:, 1], 0.3), expected)
    assert 10 < expected.sum() < 45


def test_equal_scores_are_never_clear():
    assert is_clear(column(0.0, 1e-6), 0.0).tolist() == [False, True]


def test_the_loss_is_bounded_by_the_clamped_ratios():
    """With beta 10 the sigmoid acts: it reaches from 0.12 to 0.88."""
    best, worst = (clamped_preference_loss(column(s * 9.0), column(-s * 9.0), 10.0, 0.1).item() for s in (1, -1))
    assert best == pytest.approx(0.1261, abs=5e-5)
    assert worst == pytest.approx(2.1328, abs=5e-5)
    assert worst - best == pytest.approx(2.0067, abs=5e-5)  # the largest logit


def test_a_ratio_beyond_its_range_has_no_gradient_not_even_one_that_leads_back():
    ratio_w, ratio_l = column(0.2, -0.2, 0.05).requires_grad_(), column(0.3, -0.3, -0.05).requires_grad_()
    clamped_preference_loss(ratio_w, ratio_l, 10.0, 0.1).sum().backward()
    assert ratio_w.grad.tolist()[:2] == ratio_l.grad.tolist()[:2] == [0, 0]
    assert ratio_w.grad[2] == -ratio_l.grad[2] < 0


def test_a_pair_computed_by_hand(spo, kit):
    """A flow step from tau 0.5 to 0.4 with noise 0.7: variance 0.049, mean 0.951 x - 0.1245 v.

    x is 1, and v 0.2 by the policy and 0.1 by the reference: means 0.9261 and 0.93855. Candidates at 0.8 and 1.1 have
    log-ratios (0.13855^2 - 0.1261^2) / 0.098 = 0.033621 and (0.16145^2 - 0.1739^2) / 0.098 = -0.042603.
    """
    model = kit.ToyModel(kit.Linear(0.1), shape=(1, 1, 1))
    model.make_reference()
    with torch.no_grad():
        model.network.a.fill_(0.2)
    ones = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    batch = ComparisonBatch(
        torch.tensor([0]),
        ["prompt"],
        model.encode_prompts(["prompt"]),
        noisy_latents=ones,
        step=torch.tensor([5]),
        next_latents_w=0.8 * ones,
        next_latents_l=1.1 * ones,
        log_odds=torch.ones(1),
        kept=torch.tensor([True]),
        scores=torch.zeros(1, 1),
        num_comparisons=torch.ones(1),
    )
    method = spo(num_rollout_steps=10, kernel=TransitionKernel("flow", 0.7))
    (batch,) = method.with_expected(model, [batch])
    loss = method.loss(model, batch, context())
    assert loss.metrics["margin"].item() == pytest.approx(0.076224, abs=1e-6)
    assert loss.values.item() == pytest.approx(math.log(1 + math.exp(-0.76224)), abs=1e-5)


# ---- the sampling


@pytest.mark.parametrize("kind", ["flow", "ddim", "cps"])
def test_the_candidates_of_a_step_leave_one_state_and_differ_by_their_noise_alone(spo, toy, kind):
    method = spo(kernel=TransitionKernel(kind, 0.7))
    found = sampled(method, toy)
    assert [step.step.tolist() for step in found] == [[number] * 4 for number in (1, 2, 3)]
    for step in found:
        assert step.index.tolist() == [20, 24, 28, 32]
        transition = method.transition(toy, step, toy.network(step.noisy_latents, None))
        number = int(step.step[0])
        for which in range(4):
            noise = context().noise(step.index + which, toy.latent_shape, f"step{number}")
            torch.testing.assert_close(step.candidates[:, which], transition.draw(noise), check_dtype=False)


def test_a_sampling_goes_on_with_one_of_the_candidates(spo, toy):
    found = sampled(spo(), toy)
    for before, after in pairwise(found):
        is_it = (before.candidates == after.noisy_latents[:, None]).flatten(2).all(2)
        assert is_it.sum(1).tolist() == [1] * 4


def test_the_continuation_is_uniform_over_the_candidates(spo, kit):
    """Chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand."""
    model = kit.ToyModel(kit.Linear(0.3), shape=(3, 8, 8))
    found = sampled(spo(), model, prompts_of(model, 150))
    drawn = [
        (before.candidates == after.noisy_latents[:, None]).flatten(2).all(2).int().argmax(1)
        for before, after in pairwise(found)
    ]
    counts = Counter(torch.cat(drawn).tolist())
    assert sum((counts[which] - 75) ** 2 / 75 for which in range(4)) < 16.3
    assert not torch.equal(*drawn)  # a draw of its own at each step


def test_the_continuation_knows_nothing_of_the_scores(spo, toy, kit):
    class Opposite(kit.Nearness):
        def score_features(self, features, encoded):
            return -super().score_features(features, encoded)

    one, other = compared(spo(), toy), compared(spo(reward=Opposite()), toy)
    assert torch.equal(one.noisy_latents, other.noisy_latents)
    assert torch.equal(one.next_latents_w, other.next_latents_l)
    assert torch.equal(one.next_latents_l, other.next_latents_w)
    assert one.kept.all()


def test_steps_that_are_not_compared_are_random_as_well(spo, toy):
    method = spo(window=window(choice="scattered", size=5, first=0, num_trained=2))
    found = sampled(method, toy)
    numbers = [int(step.step[0]) for step in found]
    assert numbers == method.window.trained_steps(list(range(5)), context())
    state = context().noise(found[0].index, toy.latent_shape, "rollout")
    for number in range(numbers[0]):
        step = replace(found[0], noisy_latents=state, step=torch.full((4,), number))
        noise = context().noise(found[0].index, toy.latent_shape, f"step{number}")
        state = method.transition(toy, step, toy.network(state, None)).draw(noise)
    torch.testing.assert_close(found[0].noisy_latents, state, check_dtype=False)


def test_the_judge_sees_the_image_that_is_predicted_from_each_candidate(spo, toy, kit, monkeypatch):
    seen = []
    monkeypatch.setattr(toy, "decode_latents", lambda latents: seen.append(latents) or latents)
    method = spo()
    for step, images in zip(sampled(method, toy), seen, strict=True):
        candidates, level = step.candidates.flatten(0, 1), method.noise_levels(toy).level[int(step.step[0]) + 1]
        expected = toy.schedule.decompose(candidates, toy.network(candidates, None), level).latents
        torch.testing.assert_close(images, expected, check_dtype=False)


def test_after_the_last_step_the_candidates_are_the_images(spo, toy, monkeypatch):
    seen = []
    monkeypatch.setattr(toy, "decode_latents", lambda latents: seen.append(latents) or latents)
    found = sampled(spo(kernel=TransitionKernel("flow", 0.7), window=window(first=4, size=None, stop=6)), toy)
    assert [int(step.step[0]) for step in found] == [4, 5]
    assert torch.equal(seen[1], found[1].candidates.flatten(0, 1))


def test_steps_with_hardly_any_noise_are_never_compared(spo, toy):
    with pytest.raises(UserError, match=r"at least 0\.01; lower method\.window\.stop"):
        sampled(spo(kernel=TransitionKernel("cps", 0.001)), toy)


# ---- comparisons


def test_best_and_worst_are_those_of_the_scores_of_8_bit_images(spo, toy):
    method = spo(logit_scale=7.0)
    found = compared(method, toy)
    for step in sampled(method, toy):
        number = int(step.step[0])
        mine = compared_at(found, number)
        candidates, level = step.candidates.flatten(0, 1), method.noise_levels(toy).level[number + 1]
        images = toy.schedule.decompose(candidates, toy.network(candidates, None), level).latents
        brightness = (images.clamp(0, 1) * 255).round().flatten(1).mean(1) / 255
        scores = -(brightness - 0.6).square().unflatten(0, (4, 4))
        best, worst = scores.argmax(1), scores.argmin(1)
        assert torch.equal(mine.next_latents_w, step.candidates[range(4), best])
        assert torch.equal(mine.next_latents_l, step.candidates[range(4), worst])
        expected = 7.0 * (scores[range(4), best] - scores[range(4), worst])
        torch.testing.assert_close(mine.log_odds, expected.float(), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(mine.scores[:, 0], scores.mean(1).float(), atol=1e-6, rtol=1e-4)


def test_two_processes_keep_the_pairs_of_one(spo, toy):
    """Draws depend on the samples alone, not on who has them, nor on how many are sampled at once."""
    probe = compared(spo(), toy).log_odds.double()
    method = spo(threshold=float((probe.median() / 2).tanh()))
    whole = compared(method, toy)
    shares = [compared(method, toy, prompts_of(toy).rows(start, start + 8), size) for start, size in ((0, 8), (8, 4))]
    shares = ComparisonBatch.cat(shares)

    def pairs(found):
        rows = found.kept.nonzero()[:, 0].tolist()
        return {
            (int(found.index[row]), int(found.step[row])): (found.next_latents_w[row], found.next_latents_l[row])
            for row in rows
        }

    one, two = pairs(whole), pairs(shares)
    assert 0 < len(one) < len(whole)
    assert one.keys() == two.keys()
    assert all(torch.equal(x, y) for key in one for x, y in zip(one[key], two[key], strict=True))


def test_network_passes_are_those_of_the_cost_on_the_page(spo, make_model):
    """Steps 0 and 1 once, steps 2 to 4 for four candidates; a pair 3 + 1; twice that with guidance."""
    model = make_model()
    guided = 2 if model.is_guided(3.0) else 1
    method = spo(rollout_guidance_scale=3.0)
    with torch.no_grad():
        found = method.comparisons(model, prompts_of(model, 2), context())
    assert model.network_passes == 2 * (2 + 3 * 4) * guided
    assert method.reward_calls == 2 * 3 * 4
    model.network_passes = 0
    (batch,) = method.with_expected(model, method.micro_batches(model, found, context()))
    method.loss(model, batch, context())
    assert model.network_passes == len(batch) * (3 + 1) * guided


# ---- updates


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_at_the_start_all_ratios_are_exactly_1(spo, make_model, kit, tuning):
    model, method = make_model(tuning), spo(rollout_guidance_scale=3.0)
    (batches,) = rolled_out(method, model, 3, num_prompts=2)
    assert [len(batch) for batch in batches] == [3, 3]
    for batch in batches:
        loss = method.loss(model, batch, context())
        assert loss.metrics["margin"].tolist() == [0.0] * 3
        torch.testing.assert_close(loss.values, torch.full((3,), math.log(2)))
        loss.values.sum().backward()
    assert kit.gradient(model).abs().max() > 0


def test_winners_become_more_probable_than_losers(spo, toy):
    method = spo()
    ((batch, *_),) = rolled_out(method, toy, 16)
    method.loss(toy, batch, context()).values.sum().backward()
    with torch.no_grad():
        toy.network.a -= 1e-4 * toy.network.a.grad.sign()
    assert method.loss(toy, batch, context()).metrics["margin"].sum() > 0


def test_dropped_comparisons_are_one_row_without_gradient_and_all_count(spo, toy, kit):
    """Four prompts and three steps are 12 comparisons, whatever is kept; figures are averages over all of them."""
    all_of_them = compared(spo(), toy)
    threshold = float((all_of_them.log_odds.double().median() / 2).tanh())
    method = spo(threshold=threshold)
    (batches,) = rolled_out(method, toy, 4)
    kit.perturb(toy)
    losses = [method.loss(toy, batch, context()) for batch in batches]
    num_kept = int(is_clear(all_of_them.log_odds.double(), threshold).sum())
    assert 4 <= num_kept <= 7
    assert sum(len(batch) for batch in batches) == num_kept + 1
    assert sum(loss.weights.sum() for loss in losses) == 12
    assert losses[-1].values[-1] == 0
    assert average(losses, "kept") == pytest.approx(num_kept / 12)
    assert average(losses, "log_odds") == pytest.approx(float(all_of_them.log_odds.mean()))
    assert average(losses, "reward") == pytest.approx(float(all_of_them.scores.mean()))
    assert losses[-1].metrics["margin"].isnan().tolist() == [False] * (len(batches[-1]) - 1) + [True]


def test_a_round_that_keeps_no_pair_has_no_gradient_and_says_so(spo, toy):
    method = spo(threshold=0.999)
    (batches,) = rolled_out(method, toy)
    (loss,) = (method.loss(toy, batch, context()) for batch in batches)
    loss.values.sum().backward()
    assert toy.network.a.grad == 0
    assert (loss.values.tolist(), loss.weights.tolist()) == ([0], [12])
    assert loss.metrics["kept"].tolist() == [0]
    assert loss.metrics["reward"].item() == pytest.approx(float(compared(method, toy).scores.mean()))


@dataclass(frozen=True)
class Among(Context):
    """A process among others, one of which has so many micro-batches."""

    most: int = 0

    def maximum(self, value, device):
        return max(self.most, value)


def test_a_process_with_fewer_pairs_calls_the_network_as_often_as_the_others(spo, toy):
    method = spo()
    found = compared(method, toy)
    alone = method.micro_batches(toy, found, context(5))
    among = method.micro_batches(toy, found, Among(0, 0, 5, most=5))
    assert [len(batch) for batch in alone] == [5, 5, 2]
    assert [len(batch) for batch in among] == [5, 5, 2, 1, 1]
    for batch in method.with_expected(toy, among[3:]):
        loss = method.loss(toy, batch, context())
        assert loss.weights.tolist() == [0]
        assert loss.values.tolist() == [0]


def test_updates_of_a_round_have_other_prompts(spo, toy):
    updates = rolled_out(spo(updates_per_round=2), toy)
    prompts = [{prompt for batch in batches for prompt in batch.prompts} for batches in updates]
    assert prompts == [{"prompt 1", "prompt 3"}, {"prompt 0", "prompt 2"}]
    with pytest.raises(UserError, match="a process has 3 prompts in a round"):
        rolled_out(spo(updates_per_round=2), toy, num_prompts=3)


def test_one_candidate_is_refused(spo):
    with pytest.raises(ValueError, match=r"method\.group_size=1 must be at least 2"):
        spo(group_size=1)


class Shifted(nn.Module):
    """A prediction whose mean is trained."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, noisy_latents, timesteps):
        return 0.3 * noisy_latents + self.shift


class Darkness(Evaluator):
    """Minus the brightness of a picture: 0 is black."""

    name, version, preprocess, network = "darkness", "1", AsTheyAre(), None

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, features, encoded):
        return torch.tensor([-np.asarray(picture).mean() / 255 for picture in features], dtype=torch.float32)


@pytest.mark.parametrize("reward", [Brightness(), Darkness()], ids=lambda reward: reward.name)
def test_training_raises_the_scores_of_the_judge(spo, kit, reward):
    model = kit.ToyModel(Shifted(), shape=(3, 8, 8))
    model.make_reference()
    method = spo(reward=reward, logit_scale=100.0, threshold=0.3)
    optimizer = torch.optim.Adam(model.network.parameters(), lr=0.1)
    before = compared(method, model).scores.mean()
    for number in range(15):
        for batches in method.rollout(model, prompts_of(model, first=4 * number), context(64)):
            optimizer.zero_grad()
            losses = [method.loss(model, batch, context(64)) for batch in batches]
            sum((loss.values * loss.weights).sum() for loss in losses).backward()
            optimizer.step()
    assert compared(method, model).scores.mean() > before + 0.01


def test_a_threshold_that_no_pair_can_pass_is_refused():
    with pytest.raises(UserError, match=r"method\.threshold=1\.0 must be a number from 0 to 1, the 1 excluded"):
        check_command_line(["method=spo", "model=flux_mini", "method.threshold=1.0"], multirun=False)
