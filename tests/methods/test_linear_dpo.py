"""Linear-DPO against worked numbers, its limits, and the methods that it turns into."""

import pytest
import torch
from accelerate import Accelerator

from alignbench.batch import PairBatch
from alignbench.method import WeightCopies
from alignbench.models.lagged_weights import LaggedWeights
from alignbench.models.tiny_random import tiny_adapter
from alignbench.objectives.denoising_error import PairErrors, noise_pairs, sample_error
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import train
from alignbench.training.update import rollout
from methods.dpo import DPO, dpo_loss
from methods.linear_dpo import LinearDPO, linear_dpo_loss, pair_weight
from tests.tiny_runs import DiesAt, Interrupted, RandomPairs, files_of, log_of, settings

OPTIONS = {"error_weighting": "uniform", "prompt_dropout": 0.0, "num_draws": None}


def linear_dpo(beta=500.0, eta=1e-3, reference="ema", decay=0.9) -> LinearDPO:
    return LinearDPO("linear_dpo", beta, eta, reference, decay, **OPTIONS)


def dpo(beta: float) -> DPO:
    return DPO("dpo", beta, beta_convention="half", labels="hard", label_smoothing=0.0, safeguard=None, **OPTIONS)


def with_old_policy(model):
    """Give a model the old policy that the loop keeps."""
    model.lagged_weights = LaggedWeights([p for p in model.denoiser.parameters() if p.requires_grad])
    return model


# ---- the pure functions


def test_worked_numbers():
    """Changes: winner 0.300 - 0.305 = -0.005, loser 0.310 - 0.317 = -0.007. Margin -(500 / 2) 0.002 = -0.5, W 0.7."""
    values = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.300, 0.310, 0.305, 0.317)]
    errors = PairErrors(*values)
    margin = errors.margin(500)
    assert margin.item() == pytest.approx(-0.5)
    weight = pair_weight(margin, 1e-3)
    assert weight.item() == pytest.approx(0.7)
    loss = linear_dpo_loss(errors.error_w, errors.error_l, weight)
    assert loss.item() == pytest.approx(-0.007)
    slopes = torch.autograd.grad(loss.sum(), values, allow_unused=True)
    assert [slope and round(slope.item(), 6) for slope in slopes] == [0.7, -0.7, None, None]
    slope = torch.autograd.grad(dpo_loss(errors.margin(500), torch.ones(1), 0.0).sum(), values[0])[0]
    assert slope.item() == pytest.approx(155.61, abs=0.01)  # that of dpo


@pytest.mark.parametrize("eta", [0.0, 1e-3, 0.2, 0.5])
def test_weights_fall_linearly_between_their_limits(eta):
    margin = torch.tensor([-9.0, -1.25, -0.5, 0.0, 0.5, 1.25, 9.0], dtype=torch.float64)
    expected = torch.tensor([1.0, 1.0, 0.7, 0.5, 0.3, 0.0, 0.0], dtype=torch.float64).clamp(eta, 1 - eta)
    torch.testing.assert_close(pair_weight(margin, eta), expected)


def test_a_swapped_pair_has_the_rest_of_the_weight():
    margin = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(pair_weight(margin, 0.1), 1 - pair_weight(-margin, 0.1))


def test_without_a_say_of_the_reference_errors_are_subtracted(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    kit.backward(linear_dpo(eta=0.5, reference="frozen"), model, batch, kit.context())
    found = kit.gradient(model)
    model.denoiser.zero_grad()
    noised = noise_pairs(model, batch, kit.context(), "uniform")
    prediction = model.predict(noised.noisy_latents, noised.timesteps, batch.conditioning_both)
    error_w, error_l = sample_error(prediction, noised.target).chunk(2)
    (0.5 * (error_w - error_l)).mean().backward()
    torch.testing.assert_close(found, kit.gradient(model), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("change", [{"eta": 0.6}, {"reference": "old"}])
def test_impossible_settings_are_refused(change):
    (key, value), *_ = change.items()
    with pytest.raises(ValueError, match=f"method.{key}={value}"):
        linear_dpo(**change)


# ---- through a model


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_an_untrained_policy_goes_where_dpo_would_go(make_model, kit, tuning):
    """All weights are 1/2 and all of dpo's beta / 4, so the gradients differ by a factor alone."""
    model = with_old_policy(make_model(tuning))
    batch = kit.batch(PairBatch, model)
    metrics = kit.backward(linear_dpo(), model, batch, kit.context())[0]
    found = kit.gradient(model)
    assert torch.equal(metrics["pair_weight"], torch.full((4,), 0.5))
    assert torch.equal(metrics["margin"], torch.zeros(4))
    kit.backward(dpo(500), model, batch, kit.context())
    assert found.norm() > 0
    torch.testing.assert_close(
        kit.gradient(model), 250 * found, rtol=1e-3, atol=1e-5 * float(kit.gradient(model).norm())
    )


def test_identical_images_give_no_gradient(make_model, kit):
    model = with_old_policy(make_model())
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    kit.backward(linear_dpo(), model, batch, kit.context())
    scale = kit.gradient(model).norm()
    same = PairBatch(batch.index, batch.prompts, batch.conditioning, batch.latents_w, batch.latents_w,
                     batch.probability_w)  # fmt: skip
    kit.backward(linear_dpo(), model, same, kit.context())
    assert kit.gradient(model).norm() < 1e-4 * scale


def test_shares_at_the_limits_are_told(make_model, kit):
    model = with_old_policy(make_model())
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    found = kit.backward(linear_dpo(beta=1e6, eta=1e-3), model, batch, kit.context())[0]
    torch.testing.assert_close(found["weight_at_min"], (found["margin"] > 1.2475).float())
    torch.testing.assert_close(found["weight_at_max"], (found["margin"] < -1.2475).float())
    assert (found["weight_at_min"] + found["weight_at_max"] == 1).all()  # at such a beta
    assert {round(value, 4) for value in found["pair_weight"].tolist()} <= {0.001, 0.999}


# ---- the reference


@pytest.mark.parametrize(("reference", "frozen", "old"), [("ema", False, True), ("frozen", True, False)])
def test_one_copy_of_the_weights_is_kept_and_its_memory_is_estimated(reference, frozen, old):
    method = linear_dpo(reference=reference)
    assert (method.needs_reference, method.lag is not None) == (frozen, old)
    assert LinearDPO.weight_copies({"reference": reference}) == WeightCopies(reference=frozen, old=old)


def run(path, method, **changes):
    """Train a tiny model and return it."""
    model = tiny_adapter("flux")
    train(settings(**changes), model, method, RandomPairs(), RunFolder(path), Accelerator(cpu=True))
    return model


def test_the_reference_is_asked_before_the_graph_of_the_policy_is_built(make_model, kit):
    """Asked later, the policy would be run backward with the weights of the reference."""
    gradients = []
    for reference in ("ema", "frozen"):
        model = with_old_policy(make_model())
        kit.perturb(model)
        kit.backward(linear_dpo(reference=reference), model, kit.batch(PairBatch, model), kit.context())
        gradients.append(kit.gradient(model))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_an_average_that_keeps_all_is_the_frozen_start_bit_for_bit(tmp_path, tuning):
    for reference in ("ema", "frozen"):
        run(tmp_path / reference, linear_dpo(reference=reference, decay=1.0), tuning=tuning)
    assert files_of(tmp_path / "ema" / "policy") == files_of(tmp_path / "frozen" / "policy")
    assert log_of(tmp_path / "ema") == log_of(tmp_path / "frozen")
    assert log_of(tmp_path / "ema")[-1]["margin"] != 0


def test_an_average_that_keeps_nothing_is_the_policy_itself(tmp_path):
    run(tmp_path, linear_dpo(decay=0.0))
    assert [(line["margin"], line["pair_weight"]) for line in log_of(tmp_path)] == [(0, 0.5)] * 4


def test_a_killed_run_that_is_repeated_ends_like_one_that_was_never_killed(tmp_path):
    changes = {"checkpointing_steps": 2, "tuning": "lora"}
    model = run(tmp_path / "whole", linear_dpo(), **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(linear_dpo(), 3), **changes)
    run(tmp_path / "killed", linear_dpo(), **changes)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")
    adapters = [p for p in model.denoiser.parameters() if p.requires_grad]
    assert [value.shape for value in model.lagged_weights.values] == [p.shape for p in adapters]  # and nothing else


def test_the_average_moves_once_an_update_however_many_parts_its_batch_has(make_model, kit):
    """Parts are images of one size each; a policy at 1 pulls an average at 0 to 0.1 and then to 0.19."""
    model, method = with_old_policy(make_model()), linear_dpo(decay=0.9)
    for value, parameter in zip(model.lagged_weights.values, model.lagged_weights.parameters, strict=True):
        value.zero_()
        torch.nn.init.ones_(parameter)
    parts = kit.batch(PairBatch, model).split(2)
    for step, expected in ((0, 0.1), (1, 0.19)):
        (micro_batches,) = rollout(method, model, parts, kit.context(step))
        assert [len(batch) for batch in micro_batches] == [2, 2]
        for value in model.lagged_weights.values:
            torch.testing.assert_close(value, torch.full_like(value, expected))
