"""Images at another strength: the start at 0, the policy at 1, and what lies on the line through both."""

import inspect
import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alignbench.configuration.compose import check_command_line
from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.errors import UserError
from alignbench.generation.generate import Sampling
from alignbench.generation.pipeline_sampler import Sampler, extrapolated
from alignbench.models.policy import Policy
from alignbench.models.tiny_random import tiny_adapter
from tests.families import EVERY
from tests.program import alignbench, manifests, rows

PROMPTS = ["a red circle", "a blue square left of a green cross"]
KEYS = [("p0", 0), ("p1", 0)]
SCALE = 3.0  # of guidance; two calls a step but for FLUX


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Return a function that writes a policy with a change that images show, and gives its folder."""
    made = {}

    def make(family, tuning):
        if (family, tuning) not in made:
            model = tiny_adapter(family)
            model.prepare_training(tuning, rank=2, alpha=6)
            generator = torch.Generator().manual_seed(0)
            for parameter in (p for p in model.denoiser.parameters() if p.requires_grad):
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
            made[family, tuning] = tmp_path_factory.mktemp(f"{family}-{tuning}")
            model.save_policy(made[family, tuning])
        return made[family, tuning]

    return make


def images(model, strength=1.0, **settings):
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(model, 2, SCALE, strength=strength, **settings)
    return np.stack([np.asarray(picture) for picture in sampler(KEYS, PROMPTS, noise)])


# ---- the line through start and policy


# SDXL is sampled as Stable Diffusion 1.5 is
EACH_FAMILY = [
    pytest.param(name, marks=pytest.mark.matrix) if name == "stable_diffusion_xl" else name for name in EVERY
]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_strength_0_gives_the_images_of_the_start_and_1_those_of_the_policy_bit_for_bit(family, tuning, policy):
    folder, model = policy(family, tuning), tiny_adapter(family)
    start = images(model)
    model.load_policy(folder, keep_start=True)
    trained = images(model)
    assert not np.array_equal(start, trained)
    assert np.array_equal(images(model, 0.0), start)
    assert np.array_equal(images(model, 1.0), trained)
    model.scale_policy(1.0)
    assert np.array_equal(images(model), trained)
    model = tiny_adapter(family)
    model.load_policy(folder, keep_start=True)
    model.scale_policy(0.0)
    assert np.array_equal(images(model), start)


def guided_predictions(model, strength):
    """Return what the scheduler is given in the first step: the prediction after guidance."""
    given, step = [], type(model.pipeline.scheduler).step
    scheduler = model.pipeline.scheduler
    scheduler.step = lambda prediction, *args, **kwargs: (
        given.append(prediction),
        step(scheduler, prediction, *args, **kwargs),
    )[1]
    images(model, strength)
    del scheduler.step
    return given[0]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", ["stable_diffusion", "flux"])
def test_policy_and_start_are_each_guided_and_their_difference_is_scaled(family, tuning, policy):
    """Linear in the strength at the same noisy latents; extrapolating the calls with the prompt alone is not."""
    model = tiny_adapter(family)
    start = guided_predictions(model, 1.0)
    model.load_policy(policy(family, tuning), keep_start=True)
    trained = guided_predictions(model, 1.0)
    for strength in (0.5, 1.7, 3.0):
        expected = start + strength * (trained - start)
        torch.testing.assert_close(guided_predictions(model, strength), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize(("family", "calls"), [("stable_diffusion", 2), ("stable_diffusion_3", 2), ("flux", 1)])
def test_passes_are_counted_and_twice_as_many_where_predictions_are_scaled(family, calls, tuning, policy, monkeypatch):
    model = tiny_adapter(family)
    model.load_policy(policy(family, tuning), keep_start=True)
    network, counted = type(model.denoiser), []
    forward = network.forward

    def counting(self, *args, **kwargs):
        given = inspect.signature(forward).bind(self, *args, **kwargs).arguments
        counted.append(len(given["hidden_states"] if "hidden_states" in given else given["sample"]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(network, "forward", counting)
    noise = torch.randn(2, *model.latent_shape)
    for strength, networks in ((1.0, 1), (1.5, 2)):
        counted.clear()
        sampler = Sampler(model, 3, SCALE, strength=strength)
        sampler(KEYS, PROMPTS, noise)
        assert sampler.passes_per_image == sum(counted) / 2 == 3 * calls * networks


def test_the_hook_is_gone_after_the_images(policy):
    model = tiny_adapter("flux")
    model.load_policy(policy("flux", "lora"), keep_start=True)
    before = images(model)
    assert not np.array_equal(images(model, 2.0), before)
    assert np.array_equal(images(model), before)


# ---- the mathematics


def test_the_score_of_two_gaussians_of_one_variance_is_that_of_a_gaussian_further_out():
    """Start N(0, 1), policy N(1, 1): at alpha 0.6 and sigma 0.4 the states have variance 0.6^2 + 0.4^2 = 0.52.

    At x = 0.4 the scores are -0.4 / 0.52 and (0.6 - 0.4) / 0.52. At strength 1.7: 1.192308, the score of N(1.7, 1).
    """
    x = torch.tensor(0.4, dtype=torch.float64)
    start, policy = -x / 0.52, (0.6 - x) / 0.52
    found = extrapolated(start, policy, 1.7)
    torch.testing.assert_close(found, (1.7 * 0.6 - x) / 0.52)
    assert found.item() == pytest.approx(1.192308, abs=1e-6)


def test_networks_that_predict_noise_v_or_latents_end_in_the_same_latents():
    """At fixed noisy latents the three are affine in each other, with the same coefficients for policy and start."""
    alphas = torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
    levels = [Level(alpha, (1 - alpha**2).sqrt()) for alpha in alphas]
    schedule = NoiseSchedule("epsilon", alphas_cumprod=torch.linspace(0.99, 0.01, 1000).double())

    def clean(x, shift):  # what a network takes the clean latents to be
        return torch.tanh(x + shift)

    def noise_of(x, latents, level):
        return (x - level.alpha * latents) / level.sigma

    def walk(prediction_of, noise_from):
        x = torch.randn(1, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for level, after in itertools.pairwise(levels):
            both = [prediction_of(x, clean(x, shift), level) for shift in (0.0, 0.3)]
            x = schedule.step(x, noise_from(x, extrapolated(*both, 1.7), level), level, after)
        return x

    epsilon = walk(noise_of, lambda x, prediction, level: prediction)
    v = walk(
        lambda x, latents, level: level.alpha * noise_of(x, latents, level) - level.sigma * latents,
        lambda x, prediction, level: level.alpha * prediction + level.sigma * x,
    )
    latents = walk(lambda x, latents, level: latents, noise_of)
    torch.testing.assert_close(v, epsilon, rtol=0, atol=1e-10)
    torch.testing.assert_close(latents, epsilon, rtol=0, atol=1e-10)


def test_half_precision_predictions_are_extrapolated_in_float32():
    """1 + 3 * (1.0078125 - 1) is 1.0234375, which bfloat16 has; so is what strength 0 leaves of a large difference."""
    start, policy = torch.tensor([1.0, 0.1]).bfloat16(), torch.tensor([1.0078125, 1000.0]).bfloat16()
    found = extrapolated(start, policy, 3.0)
    assert found.dtype == torch.bfloat16
    assert found[0].item() == 1.0234375
    assert torch.equal(extrapolated(start, policy, 0.0), start)


class Toy(Policy):
    """A network that is its own pipeline's denoiser."""

    def __init__(self, network):
        self.pipeline, self.policy, self.reference_network = SimpleNamespace(unet=network), network, None

    @property
    def denoiser(self):
        return self.pipeline.unet


def toy(network, change) -> tuple[Toy, Any]:
    """Return a policy in float64, each of its weights moved by a share of its norm, and its start."""
    model = Toy(network.double())
    model.make_reference()
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        move = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.data += change * move * weight.data.norm() / move.norm()
    return model, model.reference_network


def difference(network, change, strength):
    """Return how far scaled weights and scaled predictions are apart, as a share of the change of the prediction."""
    torch.manual_seed(0)
    model, start = toy(network(), change)
    x = torch.randn(256, 8, dtype=torch.float64)
    with torch.no_grad():
        policy, reference = model.denoiser(x), start(x)
        model.scale_policy(strength)
        found = model.denoiser(x)
    assert model.reference_network is None
    return float((found - extrapolated(reference, policy, strength)).norm() / (policy - reference).norm())


def test_scaled_weights_of_a_linear_network_are_scaled_predictions():
    assert difference(lambda: nn.Linear(8, 4), 0.5, 2.5) < 1e-12


def test_scaled_weights_differ_from_scaled_predictions_by_strength_times_strength_minus_1():
    """To second order in the change: zero at 0 and 1, and of the same constant elsewhere."""

    def network():
        return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))

    shares = {w: difference(network, 0.01, w) for w in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)}
    assert shares[0.0] < 1e-12
    assert shares[1.0] < 1e-12
    constants = [share / abs(w * (w - 1)) for w, share in shares.items() if w not in (0.0, 1.0)]
    assert max(constants) / min(constants) < 1.1
    assert min(constants) > 1e-4


def test_a_scaled_adapter_is_the_start_and_that_share_of_its_change(policy):
    models = [tiny_adapter("flux") for _ in range(3)]
    for model in models[1:]:
        model.load_policy(policy("flux", "lora"), keep_start=True)
    models[2].scale_policy(1.7)
    for model in models[1:]:
        model.fold_adapters()
    start, trained, scaled = (model.denoiser.state_dict() for model in models)
    changed = [key for key, tensor in trained.items() if not torch.equal(tensor, start[key])]
    assert changed
    for key in trained:
        expected = start[key] + 1.7 * (trained[key] - start[key])
        torch.testing.assert_close(scaled[key], expected, rtol=0, atol=1e-5, msg=key)


def test_weights_without_their_start_cannot_be_scaled(policy):
    model = tiny_adapter("flux")
    model.load_policy(policy("flux", "full"))
    with pytest.raises(RuntimeError, match="keeps no start"):
        model.scale_policy(0.5)


# ---- names, rows and refusals


def test_strength_1_leaves_hashes_as_they_were_and_every_other_strength_has_its_own():
    plain = Sampling(16, 3.5)
    assert replace(plain, strength=1.0, strength_kind="weights").hash == plain.hash == "90e16e8d3d"
    others = [replace(plain, strength=w, strength_kind=k).hash for w in (0.0, 2.0) for k in ("prediction", "weights")]
    assert len({plain.hash, *others}) == 5
    assert replace(plain, strength=2.0).at_full_strength.hash == plain.hash


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["method=base", "model=sd15_mini"], "has no effect on method=base without a model.policy"),
        (["model=images", "model.folders=[A,B]"], "model=images has its images already; leave it out"),
        (["method=dpo", "model=sd15_mini", "sampling.strength=-1"], "must be a number of at least 0"),
        (["method=dpo", "model=sd15_mini", "sampling.strength=.inf"], "must be a number of at least 0"),
        (["method=dpo", "model=sd15_mini", "sampling.strength_kind=both"], "available: prediction, weights"),
    ],
)
def test_a_strength_without_effect_or_meaning_is_refused(given, sentence):
    strength = [] if any("strength" in word for word in given) else ["sampling.strength=1.5"]
    with pytest.raises(UserError, match=sentence):
        check_command_line([*given, *strength], False)


EVALUATOR = "shapes_oracle_realism"
SMALL = [
    "method=dpo", "model=sd15_mini", "train.max_train_steps=2", "train.total_batch_size=4", "data.num_pairs=8",
    "train.micro_batch_size=4", "data.num_prompts=8", "train.learning_rate=0.01", "prompts.limit=4",
    "sampling.num_inference_steps=2", "evaluators=none", f"+evaluator@evaluators.{EVALUATOR}={EVALUATOR}",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.matrix
def test_a_sweep_over_strengths_trains_once_and_has_a_row_for_each_over_the_same_base(tmp_path, monkeypatch):
    from alignbench.training import train

    trained = []
    original = train.train
    monkeypatch.setattr(train, "train", lambda *args: trained.append(args) or original(*args))
    first = "stages=[train,generate,score]"  # tables of all are made once
    alignbench("-m", *SMALL, "sampling.strength=0,1,2", first, f"results={tmp_path}")
    alignbench(*SMALL, "sampling.strength=0.5", "sampling.strength_kind=weights", f"results={tmp_path}")
    assert len(trained) == 1
    found = manifests(tmp_path)
    assert sorted(run["method"] for run in found.values()) == ["base", "dpo"]
    names = {run["method"]: name for name, run in found.items()}
    assert len(list((tmp_path / names["base"]).glob("images/*/*"))) == 1
    assert len(list((tmp_path / names["dpo"]).glob("images/*/*"))) == 4

    table = {row["method"]: row for row in rows(tmp_path / "leaderboard.csv") if row["group"] == "all"}
    assert sorted(table) == [
        "base", "dpo", "dpo strength=0", "dpo strength=0.5 strength_kind=weights", "dpo strength=2",
    ]  # fmt: skip
    assert {row["prompt_set"] for row in table.values()} == {"shapes"}
    assert float(table["dpo strength=0"]["win_rate_vs_base"]) == 0.5  # the same files: all tie
    assert table["dpo strength=0"]["median"] == table["base"]["median"]
    assert table["dpo"]["median"] != table["dpo strength=2"]["median"]

    costs = {key.split("/")[1]: cost for key, cost in found[names["dpo"]]["image_costs"].items()}
    passes = sorted(cost["network_passes"] for cost in costs.values())
    assert passes == [4, 4, 8, 8]  # 2 steps of 2 calls; twice that where predictions are scaled
    assert all(cost["seconds"] > 0 for cost in costs.values())
