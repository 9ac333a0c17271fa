import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from alignbench.batch import LabelledBatch
from alignbench.configuration.build import conf_folder
from alignbench.context import Context, keyed_generator
from alignbench.data.batches.stream import Stream
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from methods.kto import KTO, kto_loss, prospect
from tests.processes import together

UTILITIES = ("kt", "loss_averse", "risk_seeking")
AT_ZERO = {"kt": 0.5, "loss_averse": 1 + math.log(2), "risk_seeking": 1 - math.log(2)}
OPTIONS = {
    "beta": 1000.0,
    "utility": "kt",
    "q_mode": "batch",
    "q_clamp": True,
    "q_decay": 0.9,
    "lambda_desirable": 1.0,
    "lambda_undesirable": 1.0,
    "desirable_share": None,
    "error_weighting": "uniform",
    "prompt_dropout": 0.0,
    "num_draws": None,
}


def kto(**options) -> KTO:
    return KTO("kto", **OPTIONS | options)


def context(**changes) -> Context:
    return Context(**{"step": 0, "seed": 0, "micro_batch_size": 4} | changes)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def point_of(gain, desirable=None, **options) -> float:
    labels = torch.ones(len(gain), dtype=torch.bool) if desirable is None else torch.tensor(desirable)
    return kto(**options).reference_point(torch.as_tensor(gain), labels, context()).item()


def losses(method: KTO, gain: torch.Tensor, desirable: torch.Tensor) -> torch.Tensor:
    point = method.reference_point(gain, desirable, context())
    return kto_loss(prospect(gain, point, desirable, method.beta), method.utility)


# ---- the pure functions


@pytest.mark.parametrize(
    ("utility", "expected"), [("kt", 0.320821), ("loss_averse", 1.386871), ("risk_seeking", -0.136871)]
)
def test_the_loss_of_two_images_is_what_a_hand_calculation_gives(utility, expected):
    """Gains 0.10 - 0.0990 and 0.20 - 0.2005; their mean 0.00025; z = 1000 (0.001 - 0.00025) = 0.75 for both labels."""
    gain = doubles(0.10, 0.20) - doubles(0.0990, 0.2005)
    desirable = torch.tensor([True, False])
    method = kto(utility=utility)
    point = method.reference_point(gain, desirable, context())
    assert point.item() == pytest.approx(0.00025)
    torch.testing.assert_close(prospect(gain, point, desirable, 1000), doubles(0.75, 0.75))
    assert losses(method, gain, desirable).mean().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("utility", UTILITIES)
def test_an_image_at_the_reference_point_has_the_loss_of_no_change(utility):
    assert kto_loss(doubles(0.0), utility).item() == pytest.approx(AT_ZERO[utility], abs=1e-6)


def test_an_image_and_its_opposite_label_share_a_kt_loss_of_one():
    gain, desirable = torch.randn(6, generator=keyed_generator("gain")).double() / 500, torch.arange(6) % 2 == 0
    z, opposite = (prospect(gain, torch.zeros(()), label, 1000) for label in (desirable, ~desirable))
    torch.testing.assert_close(kto_loss(z, "kt") + kto_loss(opposite, "kt"), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("utility", UTILITIES)
def test_flipping_labels_and_gains_together_changes_nothing(utility):
    gain, desirable = torch.randn(6, generator=keyed_generator("gain")).double() / 500, torch.arange(6) % 2 == 0
    point = doubles(0.0)[0]
    assert torch.equal(
        kto_loss(prospect(gain, point, desirable, 1000), utility),
        kto_loss(prospect(-gain, point, ~desirable, 1000), utility),
    )


def test_the_gradient_is_the_slope_of_the_utility_and_no_image_pulls_at_another():
    """The second half proves that the reference point carries no gradient."""
    ref_error, desirable, beta = doubles(0.10, 0.20, 0.15), torch.tensor([True, False, True]), 1000.0
    error = doubles(0.0990, 0.2005, 0.1499)
    method = kto(beta=beta)

    def loss(error):
        return losses(method, ref_error - error, desirable)

    jacobian = torch.autograd.functional.jacobian(loss, error)
    assert isinstance(jacobian, torch.Tensor)
    gain = ref_error - error
    s = torch.sigmoid(prospect(gain, gain.mean().clamp(min=0), desirable, beta))
    sign = doubles(1, -1, 1)
    torch.testing.assert_close(jacobian, torch.diag(sign * beta * s * (1 - s)), rtol=1e-9, atol=0)

    # central differences with the point held where it is
    point, step = gain.mean().clamp(min=0), 1e-7
    for i in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[i]
        ends = [kto_loss(prospect(gain - d, point, desirable, beta), "kt").sum() for d in (shift, -shift)]
        assert ((ends[0] - ends[1]) / (2 * step)).item() == pytest.approx(jacobian[i, i].item(), rel=1e-5)


def test_large_gains_and_losses_saturate_where_the_utility_says_so():
    beta = 1000.0
    for utility, z, slope in (("kt", 10.0, 0.0), ("loss_averse", -10.0, 1.0), ("risk_seeking", 10.0, 1.0)):
        error = doubles(-z / beta).requires_grad_()
        kto_loss(prospect(-error, doubles(0.0)[0], torch.tensor([True]), beta), utility).sum().backward()
        assert error.grad is not None
        assert error.grad.item() / beta == pytest.approx(slope, abs=5e-5)


def test_extreme_prospects_stay_finite():
    z = torch.tensor([-1e4, 1e4], requires_grad=True)
    for utility in UTILITIES:
        values = kto_loss(z, utility)
        assert values.isfinite().all()
        assert torch.autograd.grad(values.sum(), z)[0].isfinite().all()


# ---- the reference point


def test_the_point_is_the_mean_gain_and_never_below_zero():
    assert point_of([0.1, 0.3]) == pytest.approx(0.2)
    assert point_of([0.1, -0.3]) == 0
    assert point_of([0.1, -0.3], q_clamp=False) == pytest.approx(-0.1)


def test_a_constant_that_all_gains_share_cancels_while_their_mean_is_positive():
    gain, desirable = doubles(0.001, -0.0005, 0.002), torch.tensor([True, False, True])
    torch.testing.assert_close(losses(kto(), gain + 0.01, desirable), losses(kto(), gain, desirable))


def test_class_means_count_the_same_whatever_their_numbers_and_an_absent_class_says_nothing():
    assert point_of([0.1, 0.1, 0.1, 0.5], [True, True, True, False], q_mode="class_mean") == pytest.approx(0.3)
    assert point_of([0.1, 0.3], [False, False], q_mode="class_mean") == pytest.approx(0.2)
    assert point_of([0.1, 0.3], [True, True], q_mode="class_mean") == pytest.approx(0.2)


def test_the_mode_zero_has_no_point():
    assert point_of([0.1, 0.3], q_mode="zero") == 0


def test_the_running_point_measures_a_sample_by_earlier_ones_and_survives_a_resume():
    method, desirable = kto(q_mode="ema", q_decay=0.9), torch.ones(2, dtype=torch.bool)
    points = [method.reference_point(doubles(0.1, 0.3), desirable, context()).item() for _ in range(3)]
    assert points == pytest.approx([0, 0.02, 0.038])
    resumed = kto(q_mode="ema", q_decay=0.9)
    resumed.load_state_dict(method.state_dict())
    following = [m.reference_point(doubles(0.0), desirable[:1], context()).item() for m in (method, resumed)]
    assert following[0] == following[1] == pytest.approx(0.0542)


@pytest.mark.parametrize("q_mode", ["batch", "class_mean"])
def test_two_processes_share_one_point_and_one_gradient(q_mode):
    """Uneven shares, one of them without a desirable image: a mean of means would be wrong."""
    values = [0.004, -0.001, 0.002, 0.001, 0.003, 0.0005, -0.0015, 0.0025]

    def share(rank):
        rows = slice(0, 5) if rank == 0 else slice(5, 8)
        desirable, gain = (torch.arange(8) < 3)[rows], torch.tensor(values)[rows].requires_grad_()
        together_with_the_other = context(micro_batch_size=8, num_processes=2)
        point = kto(q_mode=q_mode).reference_point(gain, desirable, together_with_the_other)
        kto_loss(prospect(gain, point, desirable, 1000.0), "kt").sum().backward()
        assert gain.grad is not None
        return point.item(), gain.grad.tolist()

    found = together(share)

    gain, desirable = torch.tensor(values, requires_grad=True), torch.arange(8) < 3
    method = kto(q_mode=q_mode)
    losses(method, gain, desirable).sum().backward()
    point = method.reference_point(gain, desirable, context()).item()
    assert gain.grad is not None
    assert [rank[0] for rank in found] == pytest.approx([point, point], rel=1e-6)
    assert [*found[0][1], *found[1][1]] == pytest.approx(gain.grad.tolist(), rel=1e-5)


# ---- through a model


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("utility", UTILITIES)
def test_an_untrained_policy_gained_nothing_but_has_somewhere_to_go(make_model, kit, utility, tuning):
    model = make_model(tuning)
    batch = kit.batch(LabelledBatch, model)
    metrics = kit.backward(kto(utility=utility), model, batch, kit.context())[0]
    assert torch.equal(metrics["error"], metrics["ref_error"])
    assert torch.equal(metrics["reference_point"], torch.zeros(4))
    assert torch.equal(metrics["accuracy"], torch.full((4,), 0.5))
    torch.testing.assert_close(metrics["loss"], torch.full((4,), AT_ZERO[utility]), rtol=0, atol=1e-6)
    assert kit.gradient(model).norm() > 0


def test_descent_brings_the_desirable_image_nearer_and_the_other_away(make_model, kit):
    model = make_model()
    batch, method = kit.batch(LabelledBatch, model, num=2), kto(beta=500.0, q_mode="zero")
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    for _ in range(15):
        kit.backward(method, model, batch, kit.context())
        optimizer.step()
    metrics = kit.backward(method, model, batch, kit.context())[0]
    assert metrics["gain_desirable"][0] > 0 > metrics["gain_undesirable"][1]
    assert metrics["accuracy"].mean() == 1


def test_weights_of_the_classes_scale_their_losses(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(LabelledBatch, model)
    plain = kto(beta=10.0).loss(model, batch, kit.context()).values
    weighted = kto(beta=10.0, lambda_desirable=3.0, lambda_undesirable=0.5).loss(model, batch, kit.context())
    torch.testing.assert_close(weighted.values, plain * torch.where(batch.desirable, 3.0, 0.5))
    assert torch.equal(weighted.weights, torch.ones(4))


def test_under_other_prompts_the_point_is_measured_with_four_calls_and_never_by_an_image_itself(make_model, kit):
    model, method = make_model(), kto(q_mode="mismatched", q_clamp=False)
    kit.perturb(model)
    batch = kit.batch(LabelledBatch, model)
    matched = kit.backward(kto(q_clamp=False), model, batch, kit.context())[0]["reference_point"]
    passes = model.network_passes
    mismatched = kit.backward(method, model, batch, kit.context())[0]["reference_point"]
    assert model.network_passes - passes == 4 * (3 + 1 + 1 + 1)
    assert not torch.equal(matched, mismatched)
    with pytest.raises(UserError, match=r"q_mode=mismatched .* train.micro_batch_size above 1"):
        method.loss(model, batch.rows(0, 1), kit.context())


def test_under_autocast_the_extra_calls_take_no_gradient_away(make_model, kit):
    gradients = []
    for q_mode in ("batch", "mismatched"):
        model = make_model()
        with torch.autocast("cpu", torch.bfloat16):
            loss = kto(q_mode=q_mode).loss(model, kit.batch(LabelledBatch, model), kit.context())
        loss.values.sum().backward()
        gradients.append(kit.gradient(model))
    assert gradients[0].norm() > 0
    assert torch.equal(*gradients)  # at the start every gain is 0, under any prompt


def test_errors_of_a_flow_model_can_be_those_of_the_noise(kit):
    """noise' - noise = (1 - sigma) (velocity' - velocity), so the error is (1 - sigma)^2 times as large."""
    model = kit.ToyModel(kit.Linear(0.3))
    model.reference_network = kit.Linear(0.1)
    batch = kit.batch(LabelledBatch, model)
    plain, weighted = (
        kto(error_weighting=weighting).loss(model, batch, kit.context()).metrics["error"]
        for weighting in ("uniform", "eps_equivalent")
    )
    timesteps = [model.sample_timesteps(1, kit.context().sample_generator(i, "timesteps")) for i in range(10, 14)]
    alpha = 1 - torch.cat(timesteps) / 1000
    torch.testing.assert_close(weighted, (alpha**2).float() * plain)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_reference_stays_frozen_and_the_policy_keeps_its_precision(make_model, kit, tuning):
    model, method = make_model(tuning), kto(beta=100.0)
    batch = kit.batch(LabelledBatch, model)
    dtypes = {name: parameter.dtype for name, parameter in model.denoiser.named_parameters()}
    before = kit.backward(method, model, batch, kit.context())[0]
    optimizer = torch.optim.AdamW([p for p in model.denoiser.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(5):
        kit.backward(method, model, batch, kit.context())
        optimizer.step()
    after = kit.backward(method, model, batch, kit.context())[0]
    assert torch.equal(after["ref_error"], before["ref_error"])
    assert not torch.equal(after["error"], before["error"])
    assert {name: parameter.dtype for name, parameter in model.denoiser.named_parameters()} == dtypes


def test_metrics_agree_with_each_other(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(LabelledBatch, model, num=8)
    metrics = kit.backward(kto(beta=20.0), model, batch, kit.context(micro_batch_size=8))[0]
    gain = metrics["ref_error"] - metrics["error"]
    for names in (("gain_desirable", "gain_undesirable"), ("gain_clean", "gain_middle", "gain_noisy")):
        parts = torch.stack([metrics[name] for name in names])
        assert torch.equal((~parts.isnan()).sum(0), torch.ones(8, dtype=torch.long))
        assert torch.equal(parts.nansum(0), gain)
    assert torch.equal(~metrics["gain_desirable"].isnan(), batch.desirable)
    torch.testing.assert_close(metrics["slope"], metrics["loss"] * (1 - metrics["loss"]), rtol=0, atol=1e-6)
    assert not any(value.requires_grad for value in metrics.values())


# ---- its data


@pytest.mark.parametrize(("share", "expected"), [(None, 12), (0.75, 18), (0.25, 6)])
def test_the_share_of_desirable_images_that_was_asked_for_is_shown(tmp_path, share, expected):
    """24 visits of 12 images, half of which are desirable."""
    data = instantiate(OmegaConf.load(conf_folder() / "data" / "shapes.yaml"), num_pairs=6)
    layout = {"seed": 0, "rank": 0, "num_processes": 1, "start_step": 0, "num_workers": 0}
    method = kto(desirable_share=share)
    stream = Stream(method, data, tiny_adapter("flux"), tmp_path, total_batch_size=8, **layout)
    batches = [batch for _ in range(3) for batch in stream.next()]
    shown = [int(batch.desirable.sum()) for batch in batches if isinstance(batch, LabelledBatch)]
    assert sum(shown) == expected
    assert share is None or shown == [expected / 3] * 3


# ---- refusals


def test_unknown_choices_are_named():
    for options, message in (
        ({"utility": "dpo"}, "method.utility=dpo is unknown; available: kt, loss_averse, risk_seeking"),
        ({"q_mode": "none"}, "method.q_mode=none is unknown; available: batch, class_mean, mismatched, zero, ema"),
        ({"q_decay": 1.0}, "method.q_decay=1.0 must be at least 0 and below 1"),
        ({"desirable_share": 1.0}, "method.desirable_share=1.0 must lie between 0 and 1"),
        ({"error_weighting": "min_snr"}, "method.error_weighting=min_snr is unknown; available: uniform"),
    ):
        with pytest.raises(ValueError, match=message):
            kto(**options)


def test_micro_batches_are_coupled_and_say_so(make_model, kit):
    """Cutting the batch moves the point of each part, as `batch_coupled` declares; without a point nothing moves."""
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(LabelledBatch, model)
    difference = {}
    for q_mode in ("zero", "batch"):
        whole, cut = (kit.context(micro_batch_size=size) for size in (4, 2))
        kit.backward(kto(beta=20.0, q_mode=q_mode, q_clamp=False), model, batch, whole)
        gradient = kit.gradient(model)
        kit.backward(kto(beta=20.0, q_mode=q_mode, q_clamp=False), model, batch, cut)
        difference[q_mode] = float((kit.gradient(model) - gradient).norm() / gradient.norm())
    assert KTO.batch_coupled
    assert difference["zero"] < 1e-4
    assert difference["batch"] > 1e-3
