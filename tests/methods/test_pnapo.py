"""PNAPO: where it is Diffusion-DPO, what an image's own noise changes, and that it is the image's own."""

import hashlib
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from alignbench.batch import GeneratedPairBatch, PairBatch
from alignbench.configuration.compose import check_command_line
from alignbench.data.batches.collate import collate
from alignbench.data.batches.encode import Encoder
from alignbench.data.prompts import Prompt, PromptSet
from alignbench.data.sources.runs import ScoredRuns
from alignbench.errors import UserError
from alignbench.generation.generate import Sampling, generate
from alignbench.models.tiny_random import tiny_adapter
from alignbench.settings.data import PairSettings
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from methods.dpo import DPO
from methods.pnapo import PNAPO

OPTIONS = {
    "beta": 500.0,
    "beta_convention": "half",
    "labels": "hard",
    "label_smoothing": 0.0,
    "safeguard": None,
    "error_weighting": "uniform",
    "prompt_dropout": 0.0,
    "num_draws": None,
}
PNAPO_METHOD, DPO_METHOD = PNAPO("pnapo", **OPTIONS), DPO("dpo", **OPTIONS)


def generated(batch: PairBatch, noise_w, noise_l) -> GeneratedPairBatch:
    return GeneratedPairBatch(**vars(batch), noise_w=noise_w, noise_l=noise_l)


# ---- the states


def test_with_one_noise_for_both_images_it_is_dpo_bit_for_bit(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch, context = kit.batch(PairBatch, model), kit.context()
    expected = kit.backward(DPO_METHOD, model, batch, context)[0]
    gradient = kit.gradient(model)
    noise = context.noise(batch.index, model.latent_shape)
    found = kit.backward(PNAPO_METHOD, model, generated(batch, noise, noise), context)[0]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(kit.gradient(model), gradient)


def test_exchanging_the_noises_of_a_pair_changes_the_margin(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch, context = kit.batch(PairBatch, model), kit.context()
    noises = [context.noise(batch.index, model.latent_shape, purpose) for purpose in ("w", "l")]
    right, wrong = (
        kit.backward(PNAPO_METHOD, model, generated(batch, *order), context)[0]["margin"]
        for order in (noises, noises[::-1])
    )
    assert (right - wrong).abs().min() > 1e-3


def test_the_same_image_from_two_noises_does_not_cancel(make_model, kit):
    model = make_model()
    kit.perturb(model)
    batch, context = kit.batch(PairBatch, model), kit.context()
    same = PairBatch(batch.index, batch.prompts, batch.conditioning, batch.latents_w, batch.latents_w,
                     batch.probability_w)  # fmt: skip
    noises = [context.noise(batch.index, model.latent_shape, purpose) for purpose in ("w", "l")]
    assert kit.backward(PNAPO_METHOD, model, generated(same, *noises), context)[0]["margin"].abs().max() > 1e-2


class OfPoint(nn.Module):
    """The velocity of a flow to one point, which every path reaches straight."""

    def __init__(self, point: float) -> None:
        super().__init__()
        self.point = point

    def forward(self, noisy_latents, timesteps):
        return (noisy_latents - self.point) / (timesteps / 1000)[:, None, None, None]


class OfGaussian(nn.Module):
    """The velocity of the flow to N(mean, 1/4), whose paths lead from noise e to mean + e / 2, slightly curved."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, noisy_latents, timesteps):
        s = (timesteps / 1000)[:, None, None, None]
        slope = (s - (1 - s) / 4) / ((1 - s) ** 2 / 4 + s**2)
        return -self.mean + slope * (noisy_latents - (1 - s) * self.mean)


def reference_errors(kit, network, image_of, s, fresh):
    """Return the errors of a reference at one level, for images made from noise, with that noise or another."""
    model = kit.ToyModel(network, shape=(3, 32, 32))
    model.sample_timesteps = lambda *_: torch.tensor([1000 * s], dtype=torch.float64)
    noise, other = torch.randn(2, 8, *model.latent_shape, generator=torch.Generator().manual_seed(0)).double()
    images = image_of(noise)
    prompts = ["a"] * 8
    batch = PairBatch(torch.arange(8), prompts, model.encode_prompts(prompts), images, images, torch.ones(8))
    mixed = other if fresh else noise
    noised = PNAPO_METHOD.noised(model, generated(batch, mixed, mixed), kit.context())
    return noised.error(model.predict(noised.noisy_latents, noised.timesteps, batch.conditioning_both))


@pytest.mark.parametrize("s", [0.05, 0.5, 1.0])
def test_along_a_straight_path_the_reference_makes_no_error(kit, s):
    error = reference_errors(kit, OfPoint(0.7), lambda noise: torch.full_like(noise, 0.7), s, fresh=False)
    assert error.abs().max() < 1e-12


@pytest.mark.parametrize(("s", "own", "fresh"), [(0.2, 0.250, 1.246), (0.5, 0.160, 0.801), (0.8, 0.290, 0.385)])
def test_along_a_curved_path_it_makes_less_error_than_with_another_noise(kit, s, own, fresh):
    """(1/2 - c (1 + s) / 2)^2 with the slope c of the network; with another noise its variance is added."""
    found = [
        reference_errors(kit, OfGaussian(0.3), lambda noise: 0.3 + noise / 2, s, other).mean().item()
        for other in (False, True)
    ]
    assert found == pytest.approx([own, fresh], rel=0.03)


# ---- the bookkeeping


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images of a tiny flow model and their scores, as a run keeps them; the latents they were decoded from."""
    folder = RunFolder(tmp_path_factory.mktemp("results") / "base-flux_mini-0")
    folder.open(Manifest("base-flux_mini-0", "base", "flux_mini", None, "0", "0"))
    model, latents = tiny_adapter("flux"), {}
    prompts = PromptSet("mine", tuple(Prompt(f"p{n}", f"prompt {n}", ()) for n in range(2)), 2)
    sampling = Sampling(num_inference_steps=3, guidance_scale=3.5, num_images_per_prompt=3, seed=5, batch_size=4)
    decode, asked = model.decode_latents, []
    model.decode_latents = lambda codes, vae=None: (asked.extend(codes), decode(codes, vae=vae))[1]
    generate(model, prompts, sampling, folder, progress=False)
    model.decode_latents = decode
    keys = [(f"p{n}", k) for n in range(2) for k in range(3)]
    latents = dict(zip(keys, asked, strict=True))
    images = folder.images("mine", sampling.hash)
    digests = [hashlib.sha256((images / f"{p}-{k}.png").read_bytes()).hexdigest()[:32] for p, k in keys]
    scores = Scores.of(ScoreInfo("reward", "1"), *zip(*keys, strict=True), [0.3, 0.1, 0.2, 0.1, 0.2, 0.3], digests)
    file = folder.score_file("mine", sampling.hash, "reward", "1")
    file.parent.mkdir(parents=True)
    scores.write(file)
    options = PairSettings.defaults() | {"posterior": "mode"}
    return model, ScoredRuns("runs", str(folder.path), "reward", "best_worst", None, **options), latents


def test_every_image_is_made_again_from_the_noise_beside_it(made, kit):
    model, data, latents = made
    items = list(enumerate(data.view("generated_pairs")))
    batch = collate(items, PNAPO_METHOD, Encoder(model), kit.context())
    assert isinstance(batch, GeneratedPairBatch)
    for noise, images in ((batch.noise_w, (("p0", 0), ("p1", 2))), (batch.noise_l, (("p0", 1), ("p1", 0)))):
        again = model.sample(noise, batch.conditioning, model.noise_levels(3), 3.5).latents
        torch.testing.assert_close(again, torch.stack([latents[image] for image in images]), rtol=0, atol=1e-4)


def test_a_noise_that_was_mixed_up_would_be_noticed(made, kit):
    """The negative control of the test before."""
    model, data, latents = made
    batch = collate(list(enumerate(data.view("generated_pairs"))), PNAPO_METHOD, Encoder(model), kit.context())
    again = model.sample(batch.noise_l, batch.conditioning, model.noise_levels(3), 3.5).latents
    assert (again[0] - latents["p0", 0]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("model", "told"),
    [("flux_mini", None), ("sd3_mini", "were made by model=flux_mini"), ("sd15_mini", "is no flow model, are curved")],
)
def test_images_of_another_model_and_curved_paths_are_refused_before_anything_is_loaded(made, model, told):
    _, data, _ = made
    command = ["method=pnapo", f"model={model}", "data=runs", f"data.path={data.paths[0]}", "data.evaluator=reward"]
    with pytest.raises(UserError, match=told) if told else nullcontext():
        check_command_line(command, False)
