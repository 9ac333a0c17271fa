import math

import pytest
import torch

from alignbench.batch import PairBatch
from alignbench.objectives.denoising_error import noise_pairs, sample_error
from methods.mapo import MaPO, link, mapo_loss, mapo_margin

OPTIONS = {
    "beta": 0.1,
    "snr_value": 0.5,
    "margin_scale": 1000.0,
    "error_weighting": "uniform",
    "likelihood_weight": 1.0,
    "prompt_dropout": 0.0,
}


def mapo(**options) -> MaPO:
    return MaPO("mapo", **OPTIONS | options)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_of(error_w, error_l, beta=0.1, snr_value=0.5, margin_scale=1000.0):
    return mapo_loss(error_w, mapo_margin(error_w, error_l, snr_value, margin_scale), beta, 1.0)


# ---- the pure functions


@pytest.mark.parametrize(
    ("errors", "margin", "loss"),
    [((0.10, 0.12), 4.908343, 0.100736), ((0.02, 0.021), 0.249146, 0.077631), ((0.12, 0.10), -4.908343, 0.611570)],
)
def test_margin_and_loss_of_one_pair_are_what_a_hand_calculation_gives(errors, margin, loss):
    """First: 1000 (0.05 / (exp(0.05) - 1) - 0.06 / (exp(0.06) - 1)) = 4.908; 0.10 + 0.1 log(1 + exp(-4.908))."""
    error_w, error_l = (doubles(value) for value in errors)
    assert mapo_margin(error_w, error_l, 0.5, 1000).item() == pytest.approx(margin, abs=1e-6)
    assert loss_of(error_w, error_l).item() == pytest.approx(loss, abs=1e-6)
    single = loss_of(error_w.float(), error_l.float())
    assert single.item() == pytest.approx(loss, abs=1e-5)


def test_the_link_falls_from_one_and_reflects_at_zero():
    assert link(doubles(0.0, 1.0, 2.0), 0.5).tolist() == pytest.approx([1, 0.770747, 0.581977], abs=1e-6)
    errors = torch.logspace(-8, 3, 400, dtype=torch.float64)
    values = link(errors, 0.5)
    assert (values.diff() < 0).all()
    assert ((values > 0) & (values <= 1)).all()
    reflected = errors[errors < 50]
    torch.testing.assert_close(link(reflected, 0.5), link(-reflected, 0.5) - 0.5 * reflected, rtol=1e-9, atol=1e-9)


def test_series_and_quotient_meet_without_a_step():
    errors = doubles(0.02 * (1 - 1e-9), 0.02 * (1 + 1e-9)).requires_grad_()
    values = link(errors, 0.5)
    slopes = torch.autograd.grad(values.sum(), errors)[0]
    assert (values[0] - values[1]).item() == pytest.approx(0, abs=1e-10)
    assert (slopes[0] - slopes[1]).item() == pytest.approx(0, abs=1e-8)


def test_equal_errors_leave_the_likelihood_and_log_two():
    """Slopes: 1 + beta T / 2 * s / 2 = 1 + 0.1 * 1000 * 0.125 = 13.5 on the winner, -12.5 on the loser."""
    error_w, error_l = doubles(0.01).requires_grad_(), doubles(0.01).requires_grad_()
    loss = loss_of(error_w, error_l)
    assert loss.item() == pytest.approx(0.01 + 0.1 * math.log(2))
    slopes = torch.autograd.grad(loss.sum(), (error_w, error_l))
    assert [slope.item() for slope in slopes] == pytest.approx([13.5, -12.5], rel=0.01)


def test_swapping_winner_and_loser_negates_the_margin_and_moves_the_preference_term_by_it():
    error_w, error_l = doubles(0.10, 0.02), doubles(0.12, 0.025)
    margin, swapped = mapo_margin(error_w, error_l, 0.5, 1000), mapo_margin(error_l, error_w, 0.5, 1000)
    assert torch.equal(swapped, -margin)
    terms = [mapo_loss(doubles(0.0, 0.0), m, 0.1, 1.0) for m in (swapped, margin)]
    torch.testing.assert_close(terms[0] - terms[1], 0.1 * margin)


@pytest.mark.parametrize("size", [0.3, 0.1, 0.002, 1e-4, 0.0])
def test_the_gradient_is_the_formula_even_in_single_precision(size):
    """With exp(a) - 1 in single precision the slope at errors of 1e-4 is noise, and NaN at 0."""
    error_w, error_l = doubles(size), doubles(1.1 * size)

    def slope(error):  # phi' = s (e^a - 1 - a e^a) / (e^a - 1)^2, and its series where that cancels
        a = 0.5 * error
        exact = 0.5 * (torch.expm1(a) - a * torch.exp(a)) / torch.expm1(a) ** 2
        return torch.where(a < 1e-3, 0.5 * (-0.5 + a / 6), exact)

    push = 0.1 * 1000 * torch.sigmoid(-mapo_margin(error_w, error_l, 0.5, 1000))
    expected = [(1 - push * slope(error_w)).item(), (push * slope(error_l)).item()]
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        ends = [error.to(dtype).requires_grad_() for error in (error_w, error_l)]
        found = torch.autograd.grad(loss_of(*ends).sum(), ends)
        assert [gradient.item() for gradient in found] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("errors", [(0.3, 0.31), (0.03, 0.031), (0.019, 0.0205)])
def test_the_gradient_agrees_with_finite_differences(errors):
    ends = [doubles(value).requires_grad_() for value in errors]
    assert torch.autograd.gradcheck(loss_of, ends, eps=1e-7, atol=1e-5, rtol=1e-5)


def test_without_beta_it_is_supervised_training_on_winners_bit_for_bit():
    error_w, error_l = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    loss = loss_of(error_w, error_l, beta=0.0)
    assert torch.equal(loss, error_w)
    slopes = torch.autograd.grad(loss.sum(), (error_w, error_l))
    assert torch.equal(slopes[0], torch.ones(6))
    assert torch.equal(slopes[1], torch.zeros(6))


def test_a_decided_pair_stops_pushing():
    slopes = []
    for lead in (0.0, 0.04):
        error_l = doubles(0.01 + lead).requires_grad_()
        slopes.append(torch.autograd.grad(loss_of(doubles(0.01), error_l).sum(), error_l)[0].item())
    assert abs(slopes[1]) < 1e-3 * abs(slopes[0])


def test_only_the_product_of_scale_and_steepness_matters_for_small_errors():
    error_w, error_l = doubles(1e-3), doubles(2e-3)
    plain, scaled = loss_of(error_w, error_l), loss_of(error_w, error_l, snr_value=0.05, margin_scale=1e4)
    torch.testing.assert_close(plain, scaled, rtol=1e-3, atol=0)


def test_extreme_errors_stay_finite():
    error_w, error_l = torch.tensor([1e-8, 0.0, 1e4]).requires_grad_(), torch.tensor([1e4, 1e-8, 0.0]).requires_grad_()
    loss = loss_of(error_w, error_l)
    assert loss.isfinite().all()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss.sum(), (error_w, error_l)))


# ---- through a model


def test_it_needs_no_reference_and_one_call(make_model, kit):
    model = make_model(reference=False)
    assert not MaPO.needs_reference
    calls = []
    model.denoiser.register_forward_pre_hook(lambda *inputs: calls.append(1))
    kit.backward(mapo(), model, kit.batch(PairBatch, model), kit.context())
    assert len(calls) == 1
    assert model.network_passes == 4 * 2 * 3
    assert kit.gradient(model).norm() > 0


def test_identical_images_have_one_error_and_no_margin(make_model, kit):
    model = make_model(reference=False)
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    same = PairBatch(batch.index, batch.prompts, batch.conditioning, *[batch.latents_w] * 2, batch.probability_w)
    metrics = kit.backward(mapo(), model, same, kit.context())[0]
    torch.testing.assert_close(metrics["error_w"], metrics["error_l"], rtol=1e-5, atol=0)
    different = kit.backward(mapo(), model, batch, kit.context())[0]
    assert metrics["margin"].abs().max() < 1e-2 * different["margin"].abs().max()


def test_swapped_pairs_have_the_opposite_margin(make_model, kit):
    model = make_model(reference=False)
    batch = kit.batch(PairBatch, model)
    swapped = PairBatch(
        batch.index, batch.prompts, batch.conditioning, batch.latents_l, batch.latents_w, batch.probability_w
    )
    margins = [kit.backward(mapo(), model, pairs, kit.context())[0]["margin"] for pairs in (batch, swapped)]
    torch.testing.assert_close(margins[0], -margins[1], rtol=1e-3, atol=0.05)


def test_the_weighting_reaches_the_margin_and_not_the_likelihood(kit):
    """For a flow model the error of the noise is (1 - sigma)^2 times the velocity's."""
    model = kit.ToyModel(kit.Linear(0.3))
    batch = kit.batch(PairBatch, model)
    loss = mapo(error_weighting="eps_equivalent").loss(model, batch, kit.context())
    noised = noise_pairs(model, batch, kit.context(), "uniform")
    error = sample_error(model.network(noised.noisy_latents, noised.timesteps), noised.target).detach()
    weight = (1 - noised.timesteps / 1000) ** 2
    compared_w, compared_l = (weight * error).chunk(2)
    torch.testing.assert_close(loss.metrics["error_w"].double(), error.chunk(2)[0].double())
    expected = mapo_margin(compared_w, compared_l, 0.5, 1000)
    torch.testing.assert_close(loss.metrics["margin"].double(), expected.double(), rtol=1e-4, atol=1e-3)
    values = mapo_loss(error.chunk(2)[0], expected, 0.1, 1.0)
    torch.testing.assert_close(loss.values.double(), values.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_cutting_the_batch_changes_nothing(make_model, kit, micro_batch_size):
    model = make_model(reference=False)
    batch, gradients = kit.batch(PairBatch, model), []
    for size in (4, micro_batch_size):
        kit.backward(mapo(margin_scale=10.0), model, batch, kit.context(micro_batch_size=size))
        gradients.append(kit.gradient(model))
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


def test_descent_learns_which_image_won(make_model, kit):
    model = make_model(reference=False)
    batch, method = kit.batch(PairBatch, model, num=2), mapo(margin_scale=100.0)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    start = kit.backward(method, model, batch, kit.context())[0]
    for _ in range(20):
        optimizer.step()
        metrics = kit.backward(method, model, batch, kit.context())[0]
    assert metrics["loss"].mean() < start["loss"].mean()
    assert metrics["accuracy"].mean() == 1


def test_metrics_agree_with_each_other(make_model, kit):
    model = make_model(reference=False)
    metrics = kit.backward(mapo(), model, kit.batch(PairBatch, model), kit.context())[0]
    torch.testing.assert_close(metrics["margin"], 1000 * (metrics["link_w"] - metrics["link_l"]))
    torch.testing.assert_close(metrics["wrong_probability"], torch.sigmoid(-metrics["margin"]))
    assert torch.equal(metrics["accuracy"], (metrics["error_w"] < metrics["error_l"]).float())
    assert not any(value.requires_grad for value in metrics.values())


def test_unknown_choices_are_named():
    with pytest.raises(ValueError, match=r"method.error_weighting=x0_equivalent is unknown; available: uniform, eps_"):
        mapo(error_weighting="x0_equivalent")
    with pytest.raises(ValueError, match=r"method.snr_value=0 must be above 0"):
        mapo(snr_value=0)
