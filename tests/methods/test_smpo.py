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
from alignbench.objectives import inverted_pairs
from alignbench.objectives.denoising_error import draw_spread_timesteps, noise_pairs, pair_errors
from alignbench.objectives.inversion import invert
from alignbench.objectives.inversion_path import InversionSettings
from methods.dpo import dpo_loss
from methods.smpo import SmPO, smoothed_probability, smpo_loss

INVERSION: InversionSettings = replace(
    instantiate(OmegaConf.load(conf_folder() / "method" / "smpo.yaml").inversion), num_steps=4
)


@pytest.fixture
def smpo(kit):
    """Builds the method; scores of a range of 0 to 1."""

    def make(**changes) -> SmPO:
        settings = {
            "name": "smpo",
            "beta": 500.0,
            "gamma": 10.0,
            "labels": "reward",
            "scorer": kit.ToyReward(48),
            "vote_weight": 0.5,
            "score_range": [0.0, 1.0],
            "inversion": INVERSION,
            "round_trip_every": None,
            "error_weighting": "uniform",
            "prompt_dropout": 0.0,
            "points_per_inversion": 1,
            "num_draws": None,
        }
        return SmPO(**{**settings, **changes})

    return make


def scored(batch: PairBatch, gaps) -> PairBatch:
    gap = torch.tensor(gaps, dtype=torch.float32)
    return replace(batch, score_w=0.5 + gap / 2, score_l=0.5 - gap / 2)


# ---- the pure functions


def test_the_loss_of_one_pair_is_what_a_hand_calculation_gives():
    """Scores 0.9 and 0.5 of a range 0 to 2: P = sigmoid(0.2), kappa = 10 tanh(0.1); margin 0.5."""
    probability = smoothed_probability(torch.tensor([0.9]), torch.tensor([0.5]), (0.0, 2.0))
    assert probability.item() == pytest.approx(1 / (1 + math.exp(-0.2)), rel=1e-6)
    kappa = 10 * (2 * probability - 1)
    assert kappa.item() == pytest.approx(10 * math.tanh(0.1), rel=1e-6)
    loss = smpo_loss(torch.tensor([0.5]), kappa)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5 * 10 * math.tanh(0.1))), rel=1e-6)


def test_with_kappa_1_it_is_diffusion_dpo_to_the_last_bit():
    margin = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 5
    assert torch.equal(smpo_loss(margin, torch.ones(1000)), dpo_loss(margin, torch.ones(1000), 0.0))


def test_ties_have_no_gradient_and_near_ties_one_that_grows_with_the_gap():
    slopes = []
    for gap in (0.0, 1e-3, 2e-3):
        margin = torch.tensor([0.7], requires_grad=True)
        kappa = 10 * (2 * smoothed_probability(torch.tensor([gap]), torch.zeros(1), (0.0, 1.0)) - 1)
        loss = smpo_loss(margin, kappa)
        loss.backward()
        slopes.append(margin.grad.item())
        assert kappa.item() == pytest.approx(10 / 2 * gap, rel=1e-5)
    assert slopes[0] == 0
    assert slopes[2] == pytest.approx(2 * slopes[1], rel=1e-2)


def test_the_published_constants_give_the_published_strengths():
    """A gap of 0.2007 of the range is Diffusion-DPO's strength, 0.0334 as a cosine; kappa stays below 4.621."""
    constants = (0.11543526500463486, 0.28201571106910706)
    gap = torch.tensor([0.0334, constants[1] - constants[0]], dtype=torch.float64)
    kappa = 10 * (2 * smoothed_probability(gap, torch.zeros(2), constants) - 1)
    assert kappa.tolist() == pytest.approx([1.0, 4.621], abs=2e-3)


# ---- labels


def test_kappa_is_gamma_times_tanh_of_half_the_gap(smpo, kit):
    batch = scored(kit.batch(PairBatch, kit.ToyModel(kit.Linear(0.1))), [0.0, 1e-4, 0.3, 1.0])
    labelled = smpo().assign_labels(batch)
    expected = [10 * math.tanh(gap / 2) for gap in (0.0, 1e-4, 0.3, 1.0)]
    assert labelled.kappa.tolist() == pytest.approx(expected, abs=1e-6)
    assert labelled.metrics["near_tie"].tolist() == [1, 1, 0, 0]
    assert labelled.metrics["probability_w"].min() >= 0.5


def test_the_image_with_the_higher_score_is_the_winner_whatever_the_votes_say(smpo, kit):
    batch = scored(kit.batch(PairBatch, kit.ToyModel(kit.Linear(0.1))), [0.2, -0.2, 0.4, -0.6])
    labelled = smpo().assign_labels(batch)
    assert labelled.metrics["relabelled"].tolist() == [0, 1, 0, 1]
    assert torch.equal(labelled.pairs.latents_w[1], batch.latents_l[1])
    assert torch.equal(labelled.pairs.latents_l[1], batch.latents_w[1])
    assert torch.equal(labelled.pairs.latents_w[0], batch.latents_w[0])
    assert labelled.kappa.tolist() == pytest.approx([10 * math.tanh(gap / 2) for gap in (0.2, 0.2, 0.4, 0.6)], abs=1e-5)


def test_votes_are_soft_and_a_blend_lies_between(smpo, kit):
    batch = scored(kit.batch(PairBatch, kit.ToyModel(kit.Linear(0.1))), [0.4, 0.4, -1.0, -1.0])
    batch = replace(batch, probability_w=torch.tensor([0.5, 0.9, 0.6, 1.0]))
    votes = smpo(labels="votes").assign_labels(batch)
    assert votes.kappa.tolist() == pytest.approx([0, 8, 2, 10], abs=1e-5)
    assert votes.metrics["relabelled"].tolist() == [0, 0, 0, 0]
    blend = smpo(labels="blend", vote_weight=0.25)
    probability = [0.25 * v + 0.75 / (1 + math.exp(-g)) for v, g in ((0.5, 0.4), (0.9, 0.4), (0.6, -1), (1.0, -1))]
    assert blend.probability(batch).tolist() == pytest.approx(probability, abs=1e-6)
    assert blend.assign_labels(batch).metrics["relabelled"].tolist() == [0, 0, 1, 1]


def test_the_range_comes_from_all_training_images_and_rescaling_all_scores_changes_nothing(smpo, kit):
    scores = torch.tensor([0.2, 0.9, 0.4, 0.7, 0.5])
    kappas = []
    for scale, shift in ((1.0, 0.0), (30.0, -7.0)):
        method = smpo(score_range=None)
        method.fit(scale * scores + shift)
        batch = replace(
            kit.batch(PairBatch, kit.ToyModel(kit.Linear(0.1)), num=2),
            score_w=scale * torch.tensor([0.9, 0.4]) + shift,
            score_l=scale * torch.tensor([0.2, 0.5]) + shift,
        )
        kappas.append(method.assign_labels(batch).kappa)
    torch.testing.assert_close(kappas[0], kappas[1], rtol=1e-5, atol=1e-5)
    assert kappas[0][0].item() == pytest.approx(10 * math.tanh(0.5), rel=1e-5)


def test_the_range_is_part_of_the_checkpoint_and_a_given_one_is_kept(smpo):
    fitted, resumed, given = smpo(score_range=None), smpo(score_range=None), smpo(score_range=[-1.0, 3.0])
    for method in (fitted, given):
        method.fit(torch.tensor([0.2, 0.9]))
    resumed.load_state_dict(fitted.state_dict())
    assert resumed.score_range == pytest.approx((0.2, 0.9))
    assert given.score_range == (-1.0, 3.0)
    with pytest.raises(ValueError, match=r"gives all training images the score 0\.5"):
        smpo(score_range=None).fit(torch.full((4,), 0.5))


def test_the_scorer_is_named_and_asked_for_only_where_it_judges(smpo):
    assert smpo().trained_on == smpo(labels="blend").trained_on == ("toy",)
    assert smpo(labels="votes").trained_on == ()
    assert smpo(labels="votes").scorer is None


def test_scores_that_never_came_are_missed(smpo, kit):
    batch = kit.batch(PairBatch, kit.ToyModel(kit.Linear(0.1)))
    for method, pairs in ((smpo(), batch), (smpo(score_range=None), scored(batch, [0.1] * 4))):
        with pytest.raises(RuntimeError, match="needs scores of the training images"):
            method.assign_labels(pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": "score"}, "method.labels=score is unknown; available: reward, votes, blend"),
        ({"scorer": None}, "method.labels=reward needs a scorer; add reward=NAME"),
        ({"vote_weight": 2}, "method.vote_weight=2 must lie between 0 and 1"),
        ({"score_range": [1, 0]}, "must be \\[smallest, largest\\], or null"),
        ({"round_trip_every": 0}, "method.round_trip_every=0 must be at least 1"),
        ({"error_weighting": "min_snr"}, "method.error_weighting=min_snr is unknown"),
    ],
)
def test_impossible_values_are_refused_with_their_name(smpo, change, message):
    with pytest.raises(ValueError, match=message):
        smpo(**change)


# ---- through a model

GAPS = [0.9, 0.5, 0.2, 0.7]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_an_untrained_policy_knows_nothing_but_has_somewhere_to_go(make_model, kit, smpo, tuning):
    model = make_model(tuning)
    metrics = kit.backward(smpo(), model, scored(kit.batch(PairBatch, model), GAPS), kit.context())[0]
    assert torch.equal(metrics["margin"], torch.zeros(4))
    torch.testing.assert_close(metrics["loss"], torch.full((4,), math.log(2)), rtol=0, atol=1e-6)
    assert kit.gradient(model).norm() > 0


def test_equal_rewards_give_log_2_and_no_gradient_whatever_the_policy(make_model, kit, smpo):
    model = make_model()
    kit.perturb(model)
    batch = kit.batch(PairBatch, model)
    metrics = kit.backward(smpo(), model, scored(batch, [0.0] * 4), kit.context())[0]
    assert torch.equal(metrics["loss"], torch.full((4,), math.log(2)))
    assert kit.gradient(model).abs().max() == 0
    kit.backward(smpo(), model, scored(batch, GAPS), kit.context())
    assert kit.gradient(model).norm() > 0


def test_with_forward_noise_and_certain_votes_it_is_diffusion_dpo_to_the_last_bit(make_model, kit, smpo, monkeypatch):
    model = make_model()
    kit.perturb(model)
    batch, context = kit.batch(PairBatch, model), kit.context()
    noised = noise_pairs(model, batch, context, "uniform")

    def forward_noise(*arguments):
        return replace(invert(*arguments), noisy_latents=noised.noisy_latents, target=noised.target)

    monkeypatch.setattr(inverted_pairs, "invert", forward_noise)
    metrics = kit.backward(smpo(labels="votes", gamma=1.0), model, batch, context)[0]
    assert torch.equal(metrics["loss"], dpo_loss(metrics["margin"], torch.ones(4), 0.0))
    plain = pair_errors(model, noised, batch.conditioning_both).margin(500.0)
    assert torch.equal(metrics["margin"], plain.detach())


def test_exchanging_the_images_leaves_the_loss_alone(make_model, kit, smpo):
    model = make_model()
    kit.perturb(model)
    batch = scored(kit.batch(PairBatch, model), GAPS)
    exchanged = replace(
        batch,
        latents_w=batch.latents_l,
        latents_l=batch.latents_w,
        score_w=batch.score_l,
        score_l=batch.score_w,
    )
    losses = [kit.backward(smpo(), model, pairs, kit.context())[0]["loss"] for pairs in (batch, exchanged)]
    assert torch.equal(losses[0], losses[1])
    assert (losses[0] - math.log(2)).abs().max() > 1e-2


def test_identical_images_cancel(make_model, kit, smpo):
    model = make_model()
    kit.perturb(model)
    batch = scored(kit.batch(PairBatch, model), GAPS)
    metrics = kit.backward(smpo(), model, replace(batch, latents_l=batch.latents_w), kit.context())[0]
    assert metrics["margin"].abs().max() < 1e-3
    assert kit.backward(smpo(), model, batch, kit.context())[0]["margin"].abs().max() > 1e-2


def test_eight_pairs_at_once_and_in_uneven_parts_have_one_gradient(make_model, kit, smpo):
    model = make_model()
    kit.perturb(model)
    batch = scored(kit.batch(PairBatch, model, num=8), GAPS * 2)
    gradients = []
    for micro_batch_size in (8, 1, 3):
        kit.backward(smpo(), model, batch, kit.context(micro_batch_size=micro_batch_size))
        gradients.append(kit.gradient(model))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-3 * gradients[0].norm()


class Field(nn.Module):
    """prediction = noisy_latents * a + b: curved where a is not 0, straight where it is."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, noisy_latents, timesteps):
        return self.a * noisy_latents + self.b


def toy(kit, a: float, b: float, prediction_type="epsilon"):
    model = kit.ToyModel(Field(a, b), prediction_type)
    model.reference_network = copy.deepcopy(model.network)
    return model


@pytest.mark.parametrize("prediction_type", ["epsilon", "velocity"])
def test_only_curvature_teaches(kit, smpo, prediction_type):
    gradients = {}
    for a in (0.0, 0.4):
        model = toy(kit, a, 0.7, prediction_type)
        batch = scored(kit.batch(PairBatch, model, dtype=torch.float64), GAPS)
        kit.backward(smpo(), model, batch, kit.context())
        gradients[a] = kit.gradient(model).norm()
    assert gradients[0.0] < 1e-10
    assert gradients[0.4] > 1e-3


def test_one_converged_step_by_the_policy_itself_has_no_gradient_and_by_the_reference_it_has(kit, smpo):
    sizes = []
    for inverter in ("policy", "reference"):
        model = toy(kit, 0.4, 0.1)
        model.network.a.data.add_(0.2)
        one_step = replace(INVERSION, num_steps=1, num_renoise=60, inverter=inverter)
        batch = scored(kit.batch(PairBatch, model, dtype=torch.float64), GAPS)
        metrics = kit.backward(smpo(inversion=one_step), model, batch, kit.context())[0]
        sizes.append(kit.gradient(model).norm().item())
        if inverter == "policy":  # its errors are 0, so their changes are minus the reference's
            torch.testing.assert_close(metrics["error_change_w"], -metrics["ref_error_w"], rtol=1e-6, atol=1e-12)
    assert sizes[0] < 1e-6
    assert sizes[1] > 1e-2


def test_half_precision_leaves_the_policy_its_gradient(make_model, kit, smpo):
    """Weights that autocast rounded during the inversion, without a graph, must not be used by the loss."""
    model = make_model()
    batch = scored(kit.batch(PairBatch, model), GAPS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = smpo().loss(model, batch, kit.context())
    loss.values.sum().backward()
    without = [
        name
        for name, parameter in model.denoiser.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []


def test_an_update_costs_what_the_page_says(make_model, kit, smpo):
    model = make_model()
    batch = scored(kit.batch(PairBatch, model), GAPS)
    metrics = kit.backward(smpo(), model, batch, kit.context())[0]
    steps = metrics["num_steps"].sum().item()
    assert model.network_passes == 2 * steps * 2 + 4 * 8
    before = model.network_passes
    kit.backward(smpo(round_trip_every=2), model, batch, kit.context(step=2))
    assert model.network_passes - before == 2 * steps * 2 + 4 * 8 + 2 * steps


def test_the_round_trip_is_measured_in_its_turn(make_model, kit, smpo):
    model = make_model()
    batch, method = scored(kit.batch(PairBatch, model), GAPS), smpo(round_trip_every=3)
    errors = [kit.backward(method, model, batch, kit.context(step=step))[0]["round_trip_error"] for step in (2, 3)]
    assert errors[0].isnan().all()
    assert (errors[1] > 0).all()
    assert errors[1].isfinite().all()


# ---- several points of one inversion


def test_a_point_costs_12_passes_and_a_path_takes_steps_of_the_length_of_the_grid(kit, smpo):
    """Of a pair at n points: two images times two calls a stop, and 8 passes a point to train. 5 stops: 4 + 8."""
    model = kit.ToyModel(kit.Linear(0.3))
    model.make_reference()
    batch = scored(kit.batch(PairBatch, model), GAPS)
    method = smpo(inversion=replace(INVERSION, num_steps=5), points_per_inversion=5)
    metrics = kit.backward(method, model, batch, kit.context(micro_batch_size=2))
    assert len(metrics) == 5 * 2
    num_stops = torch.cat([one["num_steps"] for one in metrics]).reshape(5, 4).max(0).values
    assert model.network_passes == 4 * num_stops.sum() + 8 * 5 * 4
    assert model.network_passes / (5 * 4) == pytest.approx(12, rel=0.1)  # of 20 with an inversion for each


def test_each_update_has_one_point_of_every_pair_and_all_updates_together_have_all(make_model, kit, smpo):
    model = make_model()
    batch, context = scored(kit.batch(PairBatch, model), GAPS), kit.context(micro_batch_size=3)
    updates = list(smpo(points_per_inversion=3).rollout(model, batch, context))
    assert [[len(part) for part in update] for update in updates] == [[3, 1]] * 3
    joined = [PairBatch.cat(update) for update in updates]
    assert all(torch.equal(update.index, batch.index) for update in joined)
    timesteps = torch.stack([update.known["timesteps"] for update in joined], 1)
    expected = draw_spread_timesteps(model, batch.index, batch.latents_w, 3, context)
    assert torch.equal(timesteps.sort().values, expected)
    assert len({tuple(row) for row in timesteps.argsort().tolist()}) > 1


def test_a_point_is_trained_as_the_end_of_an_inversion_along_the_same_stops(make_model, kit, smpo, monkeypatch):
    """To the last bits, which depend on the rows of a call."""
    model = make_model()
    kit.perturb(model)
    batch, context = scored(kit.batch(PairBatch, model), GAPS), kit.context()
    method = smpo(points_per_inversion=3)
    points = [part for (part,) in method.rollout(model, batch, context)]
    ordered = draw_spread_timesteps(model, batch.index, batch.latents_w, 3, context)
    stops = {paths[-1][-1]: paths for row in ordered.tolist() for paths in [INVERSION.stops_through(row)]}
    alone = {path[-1]: path for paths in stops.values() for path in paths}
    monkeypatch.setattr(InversionSettings, "stops", lambda self, timestep, num: alone[timestep])
    for point in points:
        timesteps = point.known["timesteps"]
        monkeypatch.setattr(inverted_pairs, "draw_timesteps", lambda *_, found=timesteps: found)
        expected = method.loss(model, batch, context)
        found = method.loss(model, point, context)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-3, atol=1e-4)
        for name in ("level", "num_steps"):
            assert torch.equal(found.metrics[name], expected.metrics[name])
        for name in ("ref_error_w", "error_change_l"):
            torch.testing.assert_close(found.metrics[name], expected.metrics[name], rtol=1e-4, atol=1e-6)


def test_settings_under_which_points_are_not_ends_are_refused(smpo):
    for options, message in (
        ({"inversion": replace(INVERSION, mode="upstream_020")}, "that of method.inversion.mode=upstream_020 does not"),
        ({"inversion": replace(INVERSION, renoise_at="last")}, "where method.inversion.renoise_at=last makes no ReNo"),
        ({"round_trip_every": 2}, "method.round_trip_every=2 needs an inversion in each update"),
    ):
        with pytest.raises(ValueError, match=message):
            smpo(points_per_inversion=2, **options)
    smpo(points_per_inversion=2, inversion=replace(INVERSION, renoise_at="last", num_renoise=0))


def test_metrics_have_one_figure_a_pair_and_no_graph(make_model, kit, smpo):
    model = make_model()
    metrics = kit.backward(smpo(), model, scored(kit.batch(PairBatch, model), GAPS), kit.context())[0]
    assert {value.shape for value in metrics.values()} == {(4,)}
    assert not any(value.requires_grad for value in metrics.values())
    assert ((metrics["level"] > 0) & (metrics["level"] <= 1)).all()
    assert torch.equal(metrics["diverged"], (metrics["contraction"] >= 1).float())


def test_one_fixed_batch_is_learnt_by_heart(make_model, kit, smpo):
    """With targets of the reference, which stay; those of the policy move with it."""
    model = make_model()
    batch, context = scored(kit.batch(PairBatch, model, num=2), [0.8, -0.8]), kit.context()
    method = smpo(inversion=replace(INVERSION, num_steps=2, inverter="reference"))
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    for _ in range(60):
        metrics = kit.backward(method, model, batch, context)[0]
        if metrics["loss"].max() < 0.3:
            break
        optimizer.step()
    assert metrics["loss"].max() < 0.3
    assert metrics["accuracy"].mean() == 1
