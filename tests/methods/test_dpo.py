import copy
import math

import pytest
import torch
import torch.nn.functional as F

from alignbench.batch import PairBatch
from alignbench.objectives.denoising_error import (
    PairErrors,
    add_noise,
    noise_pairs,
    pair_errors,
    prediction_error,
    sample_error,
)
from methods.dpo import DPO, dpo_loss, loser_scale, scale_gradient

OPTIONS = {
    "beta_convention": "half",
    "labels": "hard",
    "label_smoothing": 0.0,
    "safeguard": None,
    "error_weighting": "uniform",
    "prompt_dropout": 0.0,
    "num_draws": None,
}


def dpo(beta: float = 500.0, **options) -> DPO:
    return DPO("dpo", beta, **OPTIONS | options)


def hard_loss(errors: PairErrors, beta: float) -> torch.Tensor:
    """The loss of pairs whose winner is certain."""
    margin = errors.margin(beta)
    return dpo_loss(margin, torch.ones_like(margin), 0.0)


def four(num: int = 6, seed: int = 0) -> list[torch.Tensor]:
    """Errors as they come: around 0.1, policy and reference close."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(4, num, generator=generator, dtype=torch.float64)
    return list(0.1 + 0.001 * draw)


# ---- the pure function


def test_the_loss_of_one_pair_is_what_a_hand_calculation_gives():
    """Changes: winner 0.10 - 0.12 = -0.02, loser 0.30 - 0.31 = -0.01. Margin: -(100 / 2) (-0.02 + 0.01) = 0.5."""
    errors = [torch.tensor([value], dtype=torch.float64) for value in (0.10, 0.30, 0.12, 0.31)]
    assert PairErrors(*errors).margin(beta=100).item() == pytest.approx(0.5)
    assert hard_loss(PairErrors(*errors), beta=100).item() == pytest.approx(math.log(1 + math.exp(-0.5)))


def test_the_gradient_is_half_beta_times_the_probability_of_the_wrong_answer():
    beta = 2000.0
    errors = [error.requires_grad_() for error in four()]
    hard_loss(PairErrors(*errors), beta).mean().backward()
    size = beta / 2 * torch.sigmoid(-PairErrors(*errors).margin(beta)) / len(errors[0])
    for error, sign in zip(errors, (1, -1, -1, 1), strict=True):
        torch.testing.assert_close(error.grad, sign * size, rtol=1e-6, atol=0)


def test_swapping_winner_and_loser_flips_the_margin_exactly():
    error_w, error_l, ref_w, ref_l = (error.float() for error in four())
    pair, swapped = PairErrors(error_w, error_l, ref_w, ref_l), PairErrors(error_l, error_w, ref_l, ref_w)
    margin = pair.margin(5000)
    assert torch.equal(swapped.margin(5000), -margin)
    difference = hard_loss(pair, 5000) - hard_loss(swapped, 5000)
    torch.testing.assert_close(difference, -margin, rtol=1e-5, atol=1e-6)


def test_without_beta_nothing_is_preferred_and_the_gradient_grows_linearly_with_it():
    slopes = []
    for beta in (0.0, 1e-3, 2e-3):
        error_w, *rest = four()
        error_w.requires_grad_()
        loss = hard_loss(PairErrors(error_w, *rest), beta)
        torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)), rtol=0, atol=1e-5)
        loss.sum().backward()
        slopes.append(error_w.grad)
    torch.testing.assert_close(slopes[0], torch.zeros_like(slopes[0]))
    torch.testing.assert_close(2 * slopes[1], slopes[2], rtol=1e-5, atol=0)


def test_extreme_margins_stay_finite():
    zero = torch.zeros(2)
    loss = hard_loss(PairErrors(torch.tensor([0.0, 2.0]), torch.tensor([2.0, 0.0]), zero, zero), beta=1e4)
    assert torch.equal(loss, torch.tensor([0.0, 1e4]))


def test_half_precision_predictions_move_the_logit_by_less_than_a_thousandth():
    """And reducing only the reference in half precision, as some code does, moves it a hundred times more."""
    torch.manual_seed(0)
    beta, target = 5000.0, torch.randn(8, 16384)
    policy, reference = ((target + 0.33 * torch.randn(8, 16384)).half() for _ in range(2))
    exact = [(p.double() - target.double()).square().mean(1) for p in (policy, reference)]
    ours = [(p.float() - target).square().mean(1) for p in (policy, reference)]
    halved = (reference - target.half()).square().mean(1)

    def logit(error, ref_error):
        return -beta / 2 * (error.double() - ref_error.double())

    assert (logit(*ours) - logit(*exact)).abs().max() < 1e-3
    assert (logit(ours[0], halved) - logit(*exact)).abs().mean() > 0.01


# ---- labels that are not certain


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_uncertain_labels_are_a_cross_entropy(smoothing):
    """Winner with 0.8: with 10 % of labels wrong, 0.9 * 0.8 + 0.1 * 0.2 = 0.74. Margin 0.5."""
    p = (1 - smoothing) * 0.8 + smoothing * 0.2
    q = 1 / (1 + math.exp(-0.5))
    loss = dpo_loss(torch.tensor([0.5]), torch.tensor([0.8]), smoothing)
    assert loss.item() == pytest.approx(-p * math.log(q) - (1 - p) * math.log(1 - q))


def test_a_certain_label_is_the_plain_loss_to_the_last_bit():
    margin = torch.linspace(-20, 20, 41)
    assert torch.equal(dpo_loss(margin, torch.ones(41), 0.0), F.softplus(-margin))


@pytest.mark.parametrize(("probability", "smoothing"), [(1.0, 0.1), (0.9, 0.0), (0.5, 0.0), (0.5, 0.1)])
def test_an_uncertain_label_comes_to_rest_at_its_log_odds(probability, smoothing):
    """Even odds rest where policy and reference agree, and pull back from either side."""
    p = (1 - smoothing) * probability + smoothing * (1 - probability)
    rest = math.log(p / (1 - p))
    margin = torch.tensor([rest - 1, rest, rest + 1], dtype=torch.float64, requires_grad=True)
    loss = dpo_loss(margin, torch.full((3,), probability, dtype=torch.float64), smoothing)
    slope = torch.autograd.grad(loss.sum(), margin)[0]
    assert slope[0] < 0 < slope[2]
    assert slope[1].item() == pytest.approx(0, abs=1e-9)


def test_soft_labels_are_those_of_the_batch(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    probability = torch.tensor([0.5, 0.6, 0.8, 1.0])
    batch = PairBatch(batch.index, batch.prompts, batch.conditioning, batch.latents_w, batch.latents_l, probability)
    hard, soft = (kit.backward(dpo(20.0, labels=labels), model, batch, kit.context())[0] for labels in ("hard", "soft"))
    torch.testing.assert_close(soft["loss"], hard["loss"] + (1 - probability) * hard["margin"])
    torch.testing.assert_close(soft["margin"], hard["margin"])


def test_the_convention_without_the_half_has_twice_the_beta(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    half = kit.backward(dpo(5000), model, batch, kit.context())[0]
    full = kit.backward(dpo(2500, beta_convention="full"), model, batch, kit.context())[0]
    assert all(torch.equal(half[name], full[name]) for name in half)


# ---- the safeguard


def test_the_scale_keeps_the_winners_progress_exactly_where_it_binds():
    """g_w = (2, 0), g_l = (4, 3): <g_l, g_w> = 8, |g_w|^2 = 4. With nothing to keep 4 / 8, with 90 % 0.4 / 8."""
    winner, loser = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[4.0, 3.0]]]])
    assert loser_scale(winner, loser, 0.0).item() == pytest.approx(0.5)
    assert loser_scale(winner, loser, 0.9).item() == pytest.approx(0.05)
    assert loser_scale(winner, loser, 1.0).item() == 0
    assert loser_scale(winner, -loser, 0.9).item() == 1  # opposed: pushing the loser away helps the winner
    assert loser_scale(winner, torch.zeros_like(loser), 0.9).item() == 1
    assert loser_scale(0 * winner, loser, 0.9).item() == 1  # nothing to protect, and nothing that harms


@pytest.mark.parametrize("safeguard", [0.0, 0.6, 0.9])
def test_a_scaled_step_in_output_space_lowers_every_winners_error_by_what_was_promised(safeguard):
    generator = torch.Generator().manual_seed(0)
    winner = torch.randn(64, 3, 4, 4, generator=generator, dtype=torch.float64)
    loser = 0.8 * winner + torch.randn(winner.shape, generator=generator, dtype=torch.float64)
    scale = loser_scale(winner, loser, safeguard)
    direction = -winner + scale[:, None, None, None] * loser
    change = (direction * winner).flatten(1).sum(1)
    promised = -safeguard * winner.square().flatten(1).sum(1)
    assert (change <= promised + 1e-9).all()
    assert ((scale >= 0) & (scale <= 1)).all()
    assert (scale < 1).any()


def test_scaling_a_gradient_leaves_the_value_to_the_last_bit():
    values, scale = torch.rand(5, requires_grad=True), torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    scaled = scale_gradient(values, scale)
    assert torch.equal(scaled, values)
    assert torch.equal(torch.autograd.grad(scaled.sum(), values)[0], scale)


def test_the_safeguard_changes_the_gradient_and_nothing_that_is_logged(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    plain = kit.backward(dpo(20.0), model, batch, kit.context())[0]
    free = kit.gradient(model)
    guarded = kit.backward(dpo(20.0, safeguard=0.9), model, batch, kit.context())[0]
    assert torch.equal(plain["loser_scale"], torch.ones(4))
    assert (guarded["loser_scale"] < 0.9).any()
    assert all(torch.equal(plain[name], guarded[name]) for name in plain if name != "loser_scale")
    assert (kit.gradient(model) - free).norm() > 0.1 * free.norm()


def test_with_the_whole_progress_kept_winners_never_get_worse_where_dpo_makes_them_worse(kit):
    """prediction = a x, one number for both images; the fainter image, here the loser, gains more from a larger a."""
    slopes = {}
    for safeguard in (None, 1.0):
        model = kit.ToyModel(kit.Linear(0.2), "epsilon")
        model.reference_network = kit.Linear(0.2)
        batch = kit.batch(PairBatch, model)
        pairs = PairBatch(batch.index, batch.prompts, batch.conditioning, batch.latents_w, 0.1 * batch.latents_w,
                          batch.probability_w)  # fmt: skip
        kit.backward(dpo(20.0, safeguard=safeguard), model, pairs, kit.context())
        slopes[safeguard] = model.network.a.grad.item()
        model.network.a.grad = None
        noised = noise_pairs(model, pairs, kit.context(), "uniform")
        sample_error(model.network(noised.noisy_latents, noised.timesteps), noised.target)[:4].mean().backward()
        winner = model.network.a.grad.item()
    assert slopes[1.0] * winner > 0  # the step lowers the winners' error
    assert slopes[None] * winner < 0  # and plain DPO raises it


# ---- DSPO, which is left out; docs/methods/dpo.md says why


def dspo_gradients(beta):
    """Return the gradients of SFT and of DSPO, by the predictions of the policy for winner and loser.

    Predictions are off their target by 0.33, as those of Stable Diffusion are, and policy and reference by 0.05.
    """
    generator = torch.Generator().manual_seed(0)
    target, common, own, of_reference = torch.randn(4, 2, 16384, generator=generator, dtype=torch.float64)
    prediction = (target + 0.33 * common + 0.035 * own).requires_grad_()
    expected = target + 0.33 * common + 0.035 * of_reference
    errors = [(one - target).square().mean(1) for one in (prediction, expected)]
    margin = PairErrors(*errors[0], *errors[1]).margin(beta)
    pull = beta * torch.sigmoid(-margin) * (prediction[0] - expected[0])
    dspo = (prediction[0] - target[0] - pull).square().mean()
    return [torch.autograd.grad(loss, prediction, retain_graph=True)[0] for loss in (errors[0][0], dspo)]


def test_dspo_with_its_published_beta_is_sft_on_winners():
    sft, dspo = dspo_gradients(0.001)
    assert 1 - F.cosine_similarity(sft[0], dspo[0], dim=0) < 4e-9
    assert dspo[0].norm() / sft[0].norm() == pytest.approx(1 - 0.0005, abs=1e-5)
    assert dspo[1].norm() < 1e-6 * dspo[0].norm()  # of the loser
    assert torch.equal(*dspo_gradients(0.0))


def test_the_other_dspo_gives_up_pairs_that_are_ordered_wrongly():
    """The square of the probability of the wrong answer pulls by 2 s (1 - s) of what dpo does, s = sigmoid(margin)."""
    margin = torch.tensor([-4.0, -2.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    squared = torch.autograd.grad(torch.sigmoid(-margin).square().sum(), margin)[0]
    plain = torch.autograd.grad(F.softplus(-margin).sum(), margin)[0]
    torch.testing.assert_close(squared / plain, torch.tensor([0.0353, 0.21, 0.5, 0.21]).double(), rtol=1e-2, atol=0)


# ---- through a model


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_an_untrained_policy_knows_nothing_but_has_somewhere_to_go(make_model, kit, tuning):
    model = make_model(tuning)
    metrics = kit.backward(dpo(5000), model, kit.batch(PairBatch, model), kit.context())[0]
    assert torch.equal(metrics["margin"], torch.zeros(4))
    assert torch.equal(metrics["accuracy"], torch.full((4,), 0.5))
    torch.testing.assert_close(metrics["loss"], torch.full((4,), math.log(2)), rtol=0, atol=1e-6)
    assert kit.gradient(model).norm() > 0


def test_identical_images_give_no_gradient_whatever_the_policy(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    same = PairBatch(*(getattr(batch, name) for name in ("index", "prompts", "conditioning", "latents_w", "latents_w")),
                     batch.probability_w)  # fmt: skip
    metrics = kit.backward(dpo(), model, same, kit.context())[0]
    assert metrics["margin"].abs().max() < 1e-4
    different = kit.backward(dpo(), model, batch, kit.context())[0]
    assert different["margin"].abs().max() > 1e-2
    scale = kit.gradient(model).norm()
    kit.backward(dpo(), model, same, kit.context())
    assert kit.gradient(model).norm() < 1e-4 * scale


def test_the_same_images_under_different_noise_would_not_cancel(make_model, kit):
    """The negative control of the test before: it is the sharing of noise that cancels."""
    model = make_model()
    kit.perturb(model)
    batch, context = kit.batch(PairBatch, model), kit.context()
    timesteps = torch.full((4,), 500.0, dtype=torch.float64)
    changes = []
    for purpose in ("one", "another"):
        noise = context.noise(batch.index, model.latent_shape, purpose)
        noised = add_noise(model, batch.latents_w, noise, timesteps, "uniform")
        with torch.no_grad():
            error = prediction_error(model, noised, batch.conditioning)
            with model.reference():
                changes.append(error - prediction_error(model, noised, batch.conditioning))
    assert (250 * (changes[0] - changes[1])).abs().max() > 1e-2


def test_permuting_pairs_permutes_their_margins(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch, order = kit.batch(PairBatch, model), [2, 0, 3, 1]
    mixed = batch.map(lambda value: value[order] if torch.is_tensor(value) else [value[i] for i in order])
    margin = kit.backward(dpo(), model, batch, kit.context())[0]["margin"]
    torch.testing.assert_close(
        kit.backward(dpo(), model, mixed, kit.context())[0]["margin"], margin[order], rtol=1e-3, atol=1e-4
    )


def test_eight_pairs_at_once_and_in_uneven_parts_have_one_gradient(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model, num=8)
    gradients = []
    for micro_batch_size in (8, 1, 3):
        kit.backward(dpo(), model, batch, kit.context(micro_batch_size=micro_batch_size))
        gradients.append(kit.gradient(model))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-4 * gradients[0].norm()


def test_stored_reference_errors_reproduce_the_loss(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch, context = kit.batch(PairBatch, model), kit.context()
    stored = pair_errors(model, noise_pairs(model, batch, context, "uniform"), batch.conditioning_both)
    live = kit.backward(dpo(), model, batch, context)[0]["loss"]
    cached = hard_loss(stored, 500)
    torch.testing.assert_close(cached.detach(), live, rtol=0, atol=1e-6)


def test_switching_adapters_off_equals_a_copy_of_the_start(make_model, kit):
    model, plain = make_model("lora"), make_model("full")
    batch, context = kit.batch(PairBatch, model), kit.context()
    noised = noise_pairs(plain, batch, context, "uniform")
    start = pair_errors(plain, noised, batch.conditioning_both)
    kit.perturb(model)
    trained = pair_errors(model, noised, batch.conditioning_both)
    assert torch.equal(trained.ref_error_w, start.ref_error_w)
    assert torch.equal(trained.ref_error_l, start.ref_error_l)
    assert (trained.error_w - start.error_w).abs().max() > 0


def test_one_trainable_number_has_the_closed_form_loss_and_slope(kit):
    """prediction = a x: every error is a parabola in a, written out here without the library."""
    a, ref, beta = 0.4, 0.1, 30.0
    model = kit.ToyModel(kit.Linear(ref), "epsilon")
    model.make_reference = lambda: None
    model.reference_network = copy.deepcopy(model.network)
    model.network.a.data.fill_(a)
    batch, context = kit.batch(PairBatch, model, dtype=torch.float64), kit.context()

    loss, slope = 0.0, 0.0
    for i in range(4):
        noise = torch.randn(model.latent_shape, generator=context.sample_generator(10 + i, "noise")).double()
        uniform = torch.rand(1, generator=context.sample_generator(10 + i, "timesteps"), dtype=torch.float64)
        abar = model.schedule.alphas_cumprod[(20 + 960 * uniform).round().long()]
        margin, margin_slope = 0.0, 0.0
        for latents, sign in ((batch.latents_w[i], -1), (batch.latents_l[i], 1)):
            x = abar.sqrt() * latents + (1 - abar).sqrt() * noise
            change = ((a * x - noise) ** 2).mean() - ((ref * x - noise) ** 2).mean()
            margin += sign * beta / 2 * change
            margin_slope += sign * beta / 2 * (2 * x * (a * x - noise)).mean()
        loss += F.softplus(-margin) / 4
        slope += -torch.sigmoid(-margin) * margin_slope / 4

    metrics = kit.backward(dpo(beta), model, batch, context)[0]
    torch.testing.assert_close(metrics["loss"].mean().double(), loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(model.network.a.grad, slope, rtol=1e-6, atol=0)


def test_one_fixed_batch_is_learnt_by_heart(make_model, kit):
    model = make_model()
    batch, context, method = kit.batch(PairBatch, model, num=2), kit.context(), dpo(500)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    for _ in range(100):
        metrics = kit.backward(method, model, batch, context)[0]
        optimizer.step()
        if metrics["loss"].max() < 0.05:
            break
    metrics = kit.backward(method, model, batch, context)[0]
    assert metrics["loss"].mean() < 0.3
    assert metrics["accuracy"].mean() == 1
    assert metrics["error_change_w"].mean() < metrics["error_change_l"].mean()


def test_metrics_agree_with_each_other(make_model, kit):
    model = make_model()
    kit.perturb(model)
    metrics = kit.backward(dpo(), model, kit.batch(PairBatch, model), kit.context())[0]
    torch.testing.assert_close(metrics["margin"], metrics["implicit_reward_w"] - metrics["implicit_reward_l"])
    torch.testing.assert_close(metrics["implicit_reward_w"], -250 * metrics["error_change_w"])
    assert not any(value.requires_grad for value in metrics.values())


def test_unknown_choices_are_named():
    for options, message in (
        ({"beta_convention": "double"}, "method.beta_convention=double is unknown; available: half, full"),
        ({"labels": "true"}, "method.labels=true is unknown; available: hard, soft"),
        ({"label_smoothing": 0.5}, "method.label_smoothing=0.5 must be at least 0 and below 0.5"),
        ({"safeguard": 1.5}, "method.safeguard=1.5 must lie between 0 and 1, or be null"),
    ):
        with pytest.raises(ValueError, match=message):
            dpo(**options)
