import copy
import math
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from alignbench.batch import PairBatch
from alignbench.configuration.build import conf_folder
from alignbench.objectives.inversion import invert
from alignbench.objectives.inversion_path import InversionSettings
from methods.inpo import InPO
from methods.smpo import SmPO

INVERSION: InversionSettings = replace(
    instantiate(OmegaConf.load(conf_folder() / "method" / "smpo.yaml").inversion), num_steps=4, num_renoise=0
)


def inpo(beta: float = 500.0, weighting="uniform", **inversion) -> InPO:
    return InPO("inpo", beta, replace(INVERSION, **inversion), None, weighting, 0.0, 1, None)


class Field(nn.Module):
    """prediction = noisy_latents * a + b: curved where a is not 0, straight where it is."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, noisy_latents, timesteps):
        return self.a * noisy_latents + self.b


def toy(kit, a: float, b: float = 0.3, prediction_type="epsilon"):
    model = kit.ToyModel(Field(a, b), prediction_type)
    model.reference_network = copy.deepcopy(model.network)
    return model


def test_it_is_smpo_with_kappa_1_and_without_renoise_to_the_last_bit(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    smpo = SmPO("smpo", 500.0, 1.0, "votes", None, 0.5, None, INVERSION, None, "uniform", 0.0, 1, None)
    losses = [kit.backward(method, model, batch, kit.context())[0]["loss"] for method in (inpo(), smpo)]
    assert torch.equal(losses[0], losses[1])
    assert (losses[0] - math.log(2)).abs().max() > 1e-2


def test_soft_votes_are_taken_for_certain(kit):
    model = toy(kit, 0.4)
    batch = replace(kit.batch(PairBatch, model, dtype=torch.float64), probability_w=torch.tensor([0.5, 0.6, 0.9, 1.0]))
    assert inpo().assign_labels(batch).kappa.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("prediction_type", ["epsilon", "velocity"])
def test_an_untrained_policy_has_somewhere_to_go_only_where_paths_are_curved(kit, prediction_type):
    sizes = []
    for a in (0.0, 0.4):
        model = toy(kit, a, prediction_type=prediction_type)
        batch = kit.batch(PairBatch, model, dtype=torch.float64)
        metrics = kit.backward(inpo(), model, batch, kit.context())[0]
        torch.testing.assert_close(metrics["loss"], torch.full((4,), math.log(2), dtype=torch.float64))
        assert torch.equal(metrics["margin"], torch.zeros(4, dtype=torch.float64))
        sizes.append(kit.gradient(model).norm().item())
    assert sizes[0] < 1e-10
    assert sizes[1] > 1e-3


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "velocity"])
def test_the_error_of_the_latents_is_that_of_the_one_step_generator(kit, prediction_type):
    """|latents - its one-step estimate|^2 = S^2 |target - prediction|^2, S being sigma / alpha for epsilon."""
    model = toy(kit, 0.4, prediction_type=prediction_type)
    batch = kit.batch(PairBatch, model, dtype=torch.float64)
    latents, timesteps = batch.latents_w, torch.tensor([5.0, 200.0, 600.0, 950.0])
    inverted = invert(model, latents, batch.conditioning, timesteps, INVERSION, kit.context())
    level = model.schedule.level(timesteps)
    prediction = model.predict(inverted.noisy_latents, timesteps, batch.conditioning).detach()
    one_step = model.schedule.decompose(inverted.noisy_latents, prediction, level).latents
    scale = level.rho if prediction_type == "epsilon" else level.sigma
    torch.testing.assert_close(
        (latents - one_step).square().flatten(1).mean(1),
        scale**2 * (inverted.target - prediction).square().flatten(1).mean(1),
        rtol=1e-5,
        atol=0,
    )


def test_without_fresh_noise_it_repeats_itself_and_identical_images_cancel(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    same = replace(batch, latents_l=batch.latents_w)
    losses = [kit.backward(inpo(), model, batch, kit.context())[0]["loss"] for _ in range(2)]
    assert torch.equal(losses[0], losses[1])
    assert kit.backward(inpo(), model, same, kit.context())[0]["margin"].abs().max() < 1e-3
    with_noise = kit.backward(inpo(eta=0.1), model, same, kit.context())[0]["margin"]
    assert with_noise.abs().max() > 1e-2
    again = kit.backward(inpo(eta=0.1), model, same, kit.context(micro_batch_size=1))
    torch.testing.assert_close(torch.cat([part["margin"] for part in again]), with_noise, rtol=1e-2, atol=1e-3)


def test_exchanging_the_images_negates_the_margin(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    exchanged = replace(batch, latents_w=batch.latents_l, latents_l=batch.latents_w)
    margins = [kit.backward(inpo(), model, pairs, kit.context())[0]["margin"] for pairs in (batch, exchanged)]
    torch.testing.assert_close(margins[1], -margins[0], rtol=1e-4, atol=1e-4)
    assert margins[0].abs().max() > 1e-2


def test_one_small_step_raises_the_margin_at_fixed_latents(kit):
    """The target is a constant of the loss: along the gradient the winner is explained better, the loser worse."""
    model = toy(kit, 0.4)
    batch = kit.batch(PairBatch, model, dtype=torch.float64)
    method = inpo(beta=10.0, inverter="reference")  # the latents do not move with the policy
    before = kit.backward(method, model, batch, kit.context())[0]
    assert kit.gradient(model).norm() > 0
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter -= 1e-3 * parameter.grad
    after = kit.backward(method, model, batch, kit.context())[0]
    assert after["loss"].mean() < before["loss"].mean()
    assert after["margin"].mean() > 0


def test_both_networks_invert_alike_at_the_start_and_differently_after_an_update(make_model, kit):
    model = make_model()
    batch = kit.batch(PairBatch, model)

    def ref_errors():
        return [
            kit.backward(inpo(inverter=inverter), model, batch, kit.context())[0]["ref_error_w"]
            for inverter in ("policy", "reference")
        ]

    policy, reference = ref_errors()
    assert torch.equal(policy, reference)
    kit.perturb(model)
    policy_later, reference_later = ref_errors()
    assert torch.equal(reference_later, reference)
    assert not torch.allclose(policy_later, policy, rtol=1e-3)


def test_an_update_costs_what_the_page_says(make_model, kit):
    model = make_model()
    metrics = kit.backward(inpo(), model, kit.batch(PairBatch, model), kit.context())[0]
    assert model.network_passes == 2 * metrics["num_steps"].sum().item() + 4 * 8


def test_inversion_policy_and_reference_are_told_the_same_prompt(make_model, kit):
    """A pair whose prompt was dropped is inverted, explained and compared with the empty prompt."""
    model = make_model()
    batch = kit.batch(PairBatch, model)
    empty = replace(batch, conditioning=model.encode_prompts([""] * 4))
    seen = []
    forward = model.forward
    model.forward = lambda x, t, conditioning, guidance: (
        seen.append(conditioning.prompt_embeds) or forward(x, t, conditioning, guidance)
    )
    kit.backward(inpo(), model, empty, kit.context())
    assert all(torch.equal(rows, empty.conditioning.prompt_embeds[:1].expand_as(rows)) for rows in seen)
    assert len(seen) > 3


def test_the_published_noise_is_an_option_in_every_mode(make_model, kit):
    model = make_model()
    batch = kit.batch(PairBatch, model)
    losses = [kit.backward(inpo(mode="upstream_020", eta=eta), model, batch, kit.context())[0] for eta in (0.0, 0.1)]
    assert all(loss["loss"].isfinite().all() for loss in losses)
    assert not torch.equal(losses[0]["ref_error_w"], losses[1]["ref_error_w"])
    assert losses[0]["contraction"].isnan().all()
