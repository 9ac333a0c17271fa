"""What the tests of methods share: toy models with known mathematics, tiny random ones, batches, and a toy reward."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignbench.batch import Conditioning, LabelledBatch, PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.samplers import TransitionKernel
from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.evaluator import Evaluator, Preprocess, Reward
from alignbench.models.adapter import ModelAdapter
from alignbench.models.tiny_random import tiny_adapter
from alignbench.online.step_window import StepWindow

PROMPTS = ["a red circle", "two blue squares", "a green star on white", "a small black ring"]


class ToyModel(ModelAdapter):
    """An adapter around any function of noisy latents and timesteps; pixels are the first three channels."""

    def __init__(self, network: nn.Module, prediction_type="velocity", shape=(3, 4, 4)) -> None:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        table = None if prediction_type == "velocity" else (1 - betas).cumprod(0)
        self.schedule = NoiseSchedule(prediction_type, 1000, table)
        self.network = self.policy = network
        self.reference_network = self.no_prompt = None
        self.train_guidance_scale = None
        self.network_passes = 0
        self.shape = shape

    denoiser = property(lambda self: self.network)
    latent_shape = property(lambda self: self.shape)
    device = property(lambda self: torch.device("cpu"))
    pipeline_class = denoiser_name = "toy"
    frozen_parts = ()

    def forward(self, noisy_latents, timesteps, conditioning, guidance) -> Tensor:
        return self.policy(noisy_latents, timesteps)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning(torch.zeros(len(prompts), 1, 1))

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        return Conditioning(torch.zeros(num_prompts, 1, 1))

    def decode_latents(self, latents: Tensor) -> Tensor:
        return latents[:, :3]

    def sample_timesteps(self, batch_size: int, generator: torch.Generator, latent_size=None) -> Tensor:
        uniform = torch.rand(batch_size, generator=generator, dtype=torch.float64)
        return (20 + 960 * uniform).round()

    def noise_levels(self, num_inference_steps: int) -> NoiseLevels:
        tau = torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64).clamp(0.001, 0.999)
        timesteps = self.schedule.timesteps_at(tau)
        level = self.schedule.level(timesteps)
        return NoiseLevels(timesteps[:-1], Level(level.alpha, level.sigma))


class Linear(nn.Module):
    """prediction = a * noisy_latents, with one trainable number a."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        return self.a * noisy_latents


class ToyReward(Reward):
    """A linear reward: image features are flattened pixels, text features are random by prompt.

    `common` is added to the features of every caption: what the reward likes whatever the caption says.
    """

    name, version, network = "toy", "1", None
    has_embeddings = True

    def __init__(self, num_pixels: int, dtype=torch.float32) -> None:
        self.num_pixels, self.dtype = num_pixels, dtype
        self.common = torch.zeros(num_pixels, dtype=dtype)
        self.asked: list[str] = []

    def encode_prompts(self, prompts):
        return self.embed_text(prompts)

    def score_features(self, inputs, encoded):
        return (inputs.flatten(1) * encoded).sum(-1)

    def embed_image(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        self.asked += prompts
        rows = []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(sum(prompt.encode()))
            rows.append(torch.randn(self.num_pixels, generator=generator, dtype=self.dtype) / self.num_pixels)
        return torch.stack(rows) + self.common

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score_inputs(pixels, self.embed_text(prompts))


class ScoreReward(ToyReward):
    """The same reward without features."""

    has_embeddings = False

    def embed_image(self, pixels: Tensor) -> Tensor:
        raise AssertionError("this reward has no features")


class Pixels(Preprocess):
    """Pictures as tensors, 0..1."""

    key = "pixels"

    def __call__(self, images) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(image) for image in images]) / 255)


class Nearness(Evaluator):
    """Minus the squared distance of a picture's mean brightness from 0.6, whatever its prompt says."""

    name, version, preprocess, wanted = "nearness", "1", Pixels(), 0.6

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, features, encoded):
        return -(features.flatten(1).mean(1) - self.wanted).square()


def path_settings(**changes):
    """Return the arguments that all methods on the path of a sampling share."""
    values = {
        "reward": Nearness(),
        "num_rollout_steps": 6,
        "rollout_guidance_scale": None,
        "rollout_batch_size": None,
        "updates_per_round": 1,
        "rollout_shift": None,
        "kernel": TransitionKernel("flow", 0.7),
        "window": StepWindow(first=1, stop=None, size=3, choice="fixed", rounds_per_position=1, num_trained=None),
        "log_prob_reduction": "mean",
        "log_prob_scale": "gaussian",
        "share_initial_noise": False,
        "detach_unconditional": True,
    }
    return values | changes


def make_context(step: int = 0, micro_batch_size: int = 4, seed: int = 0) -> Context:
    return Context(step, seed, micro_batch_size)


def make_batch(kind: type, model: ModelAdapter, num: int = 4, dtype=torch.float32):
    """Return a batch of `kind` with random latents."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(num)]
    rows = torch.randn(2, num, *model.latent_shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    common = (torch.arange(num) + 10, prompts, model.encode_prompts(prompts))
    if kind is PromptBatch:
        return PromptBatch(*common)
    if kind is PairBatch:
        return PairBatch(*common, rows[0], rows[1], torch.ones(num))
    return LabelledBatch(*common, rows[0], torch.arange(num) % 3 == 0)


def perturb(model: ModelAdapter) -> None:
    """Move the policy away from its reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def gradient(model: ModelAdapter) -> Tensor:
    """Return the gradient of all trained parameters as one vector."""
    return torch.cat([p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None])


def backward(method, model: ModelAdapter, batch, context: Context) -> list[dict[str, Tensor]]:
    """Do what the loop does in one update, and return the metrics of each micro-batch."""
    model.denoiser.zero_grad()
    metrics, weight = [], torch.zeros(())
    for micro_batches in method.rollout(model, batch, context):
        for micro_batch in micro_batches:
            loss = method.loss(model, micro_batch, context)
            (loss.values * loss.weights).sum().backward()
            weight = weight + loss.weights.sum()
            metrics.append({"loss": loss.values.detach(), **loss.metrics})
    for parameter in model.denoiser.parameters():
        if parameter.grad is not None:
            parameter.grad /= weight
    return metrics


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """All of the above: test modules cannot import this one."""
    return SimpleNamespace(
        ToyModel=ToyModel,
        Linear=Linear,
        ToyReward=ToyReward,
        ScoreReward=ScoreReward,
        Nearness=Nearness,
        path_settings=path_settings,
        context=make_context,
        batch=make_batch,
        perturb=perturb,
        gradient=gradient,
        backward=backward,
    )


@pytest.fixture(params=["stable_diffusion", "flux"])
def make_model(request: pytest.FixtureRequest) -> Callable[..., ModelAdapter]:
    """A tiny random model of each family, ready to train."""

    def make(tuning: str = "full", reference: bool = True) -> ModelAdapter:
        model = tiny_adapter(request.param)
        torch.manual_seed(0)
        model.prepare_training(tuning, rank=4, alpha=4.0)
        if reference:
            model.make_reference()
        return model

    return make
