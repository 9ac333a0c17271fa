"""Plain steps on labelled images: Diffusion-DPO, Diffusion-KTO, MaPO, SFT and SmPO.

Sources: arXiv 2311.12908 (DPO), 2404.04465 (KTO), 2406.06424 (MaPO), 2506.02698 (SmPO), and what their training scripts
do at each visit of a sample.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from alignbench.batch import Conditioning
from benchmarks.reference_steps.model import Draws, PlainModel, Sample
from benchmarks.reference_steps.step import ImageStep, SingleUpdateStep

Grid = Literal["exact", "published"]


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each image, [B]."""
    return (prediction.float() - target.float()).pow(2).mean(dim=[1, 2, 3])


class DPO(SingleUpdateStep, ImageStep):
    """Diffusion-DPO: both images of a pair share noise and timestep; policy and reference see all of them."""

    def __init__(
        self, model: PlainModel, micro_batch_size: int, draws: Draws, beta: float, prompt_dropout: float
    ) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.beta, self.prompt_dropout = beta, prompt_dropout

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        model, rows = self.model, [sample.index for sample in samples]
        latents = self.pair_latents(samples)
        conditioning = model.encode_prompts(self.prompts(samples, self.prompt_dropout)).repeat(2)
        noise = self.draws.noise(rows, latents.shape[1:]).repeat(2, 1, 1, 1)
        timesteps = self.draws.timesteps(model.adapter, rows).repeat(2)
        alpha, sigma = model.coefficients(timesteps)
        noisy, target = alpha * latents + sigma * noise, model.target(latents, noise, timesteps)
        prediction = model.predict(model.policy, noisy, timesteps, conditioning)
        with torch.no_grad():
            expected = model.predict(model.reference, noisy, timesteps, conditioning)
        return pair_loss(prediction, expected, target, self.beta)


def pair_loss(prediction: Tensor, expected: Tensor, target: Tensor, scale: float) -> Tensor:
    """Return -log sigmoid of the pairs' margin; rows are all winners, then all losers."""
    error_w, error_l = squared_error(prediction, target).chunk(2)
    ref_error_w, ref_error_l = squared_error(expected, target).chunk(2)
    inside = -0.5 * scale * ((error_w - error_l) - (ref_error_w - ref_error_l))
    return -F.logsigmoid(inside).mean()


class KTO(SingleUpdateStep, ImageStep):
    """Diffusion-KTO: single images with labels; the gain of the batch is the point of reference."""

    def __init__(
        self, model: PlainModel, micro_batch_size: int, draws: Draws, beta: float, prompt_dropout: float
    ) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.beta, self.prompt_dropout = beta, prompt_dropout

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        model, rows = self.model, [sample.index for sample in samples]
        latents = self.latents(samples, 0)
        conditioning = model.encode_prompts(self.prompts(samples, self.prompt_dropout))
        noise, timesteps = self.draws.noise(rows, latents.shape[1:]), self.draws.timesteps(model.adapter, rows)
        alpha, sigma = model.coefficients(timesteps)
        noisy, target = alpha * latents + sigma * noise, model.target(latents, noise, timesteps)
        error = squared_error(model.predict(model.policy, noisy, timesteps, conditioning), target)
        with torch.no_grad():
            ref_error = squared_error(model.predict(model.reference, noisy, timesteps, conditioning), target)
        gain = ref_error - error
        reference_point = gain.detach().mean().clamp(min=0)
        sign = torch.tensor([1.0 if sample.desirable else -1.0 for sample in samples])
        return (1 - torch.sigmoid(sign * self.beta * (gain - reference_point))).mean()


class MaPO(SingleUpdateStep, ImageStep):
    """MaPO: as Diffusion-DPO without a reference; errors enter by a bounded link."""

    def __init__(
        self, model: PlainModel, micro_batch_size: int, draws: Draws, beta: float, snr_value: float, margin_scale: float
    ) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.beta, self.snr_value, self.margin_scale = beta, snr_value, margin_scale

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        model, rows = self.model, [sample.index for sample in samples]
        latents = self.pair_latents(samples)
        conditioning = model.encode_prompts([sample.prompt for sample in samples]).repeat(2)
        noise = self.draws.noise(rows, latents.shape[1:]).repeat(2, 1, 1, 1)
        timesteps = self.draws.timesteps(model.adapter, rows).repeat(2)
        alpha, sigma = model.coefficients(timesteps)
        prediction = model.predict(model.policy, alpha * latents + sigma * noise, timesteps, conditioning)
        error_w, error_l = squared_error(prediction, model.target(latents, noise, timesteps)).chunk(2)
        margin = self.margin_scale * (self.link(error_w) - self.link(error_l))
        return error_w.mean() - self.beta * F.logsigmoid(margin).mean()

    def link(self, error: Tensor) -> Tensor:
        """Return a / (exp(a) - 1), with the cancellation of the published code."""
        a = self.snr_value * error
        return a / (torch.exp(a) - 1)


class SFT(SingleUpdateStep, ImageStep):
    """Denoising training on winners."""

    def __init__(self, model: PlainModel, micro_batch_size: int, draws: Draws, prompt_dropout: float) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.prompt_dropout = prompt_dropout

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        model, rows = self.model, [sample.index for sample in samples]
        latents = self.latents(samples, 0)
        conditioning = model.encode_prompts(self.prompts(samples, self.prompt_dropout))
        noise, timesteps = self.draws.noise(rows, latents.shape[1:]), self.draws.timesteps(model.adapter, rows)
        alpha, sigma = model.coefficients(timesteps)
        prediction = model.predict(model.policy, alpha * latents + sigma * noise, timesteps, conditioning)
        return F.mse_loss(prediction, model.target(latents, noise, timesteps))


class SmPO(ImageStep):
    """SmPO pair by pair: both images are inverted by the policy to one timestep, with one ReNoise iteration a step.

    Args:
        score_range: smallest and largest score of all training images.
        num_steps: of the inversion's grid over all timesteps.
        grid: `exact` climbs from clean latents to the timestep itself and asks with the timestep it climbs to;
            `published` climbs as the released code does: it takes clean latents for those of timestep 0, asks with the
            timestep it comes from, averages both predictions of a step and ends at the grid level above.
        num_points: timesteps at which each pair of a batch is trained, one in each of as many updates; each is inverted
            to anew.
    """

    def __init__(
        self,
        model: PlainModel,
        draws: Draws,
        beta: float,
        gamma: float,
        score_range: tuple[float, float],
        num_steps: int,
        prompt_dropout: float,
        grid: Grid,
        num_points: int,
    ) -> None:
        super().__init__(model, 1, draws)
        if model.prediction_type == "v_prediction":
            raise ValueError("the plain inversion is written for networks that predict noise or velocities")
        self.beta, self.gamma, self.score_range, self.prompt_dropout = beta, gamma, score_range, prompt_dropout
        self.num_steps, self.grid, self.num_points = num_steps, grid, num_points

    def updates(self, samples: Sequence[Sample]) -> Iterator[Iterator[Tensor]]:
        points = self.draws.points(self.model.adapter, [sample.index for sample in samples], self.num_points)
        for timesteps in points.unbind(1):
            losses = (self.pair_loss_at(*visit) for visit in zip(samples, timesteps.tolist(), strict=True))
            yield (loss / len(samples) for loss in losses)

    def pair_loss_at(self, sample: Sample, timestep: float) -> Tensor:
        """Return the loss of one pair at one timestep."""
        model, samples = self.model, [sample]
        latents = self.pair_latents(samples)
        low, high = self.score_range
        score_w, score_l = ((score - low) / (high - low) for score in sample.scores)
        if score_w < score_l:
            latents, score_w, score_l = latents.flip(0), score_l, score_w
        probability = torch.tensor([score_w, score_l], dtype=torch.float64).softmax(0)[0]
        conditioning = model.encode_prompts(self.prompts(samples, self.prompt_dropout)).repeat(2)
        noisy = self.inverted(latents, conditioning, timestep)
        timesteps = torch.tensor([timestep, timestep], dtype=torch.float64)
        alpha, sigma = model.coefficients(timesteps)
        noise = (noisy - alpha * latents) / sigma
        target = model.target(latents, noise, timesteps)
        prediction = model.predict(model.policy, noisy, timesteps, conditioning)
        with torch.no_grad():
            expected = model.predict(model.reference, noisy, timesteps, conditioning)
        return pair_loss(prediction, expected, target, float(self.gamma * (2 * probability - 1)) * self.beta)

    def path(self, timestep: float) -> list[tuple[float | None, float, float]]:
        """Return the timesteps of each step: of the level before (None: clean), of the next, and the one asked with."""
        stride = 1000 // self.num_steps
        grid = [1.0 + number * stride for number in range(self.num_steps)]
        if self.grid == "exact":
            stops = [*(stop for stop in grid[1:] if stop < timestep), timestep]
            return list(zip([None, *stops[:-1]], stops, stops, strict=True))
        stops = [stop for stop in grid if stop - stride < timestep]
        return list(zip([0.0, *stops[:-1]], stops, [stop - stride for stop in stops], strict=True))

    @torch.no_grad()
    def inverted(self, latents: Tensor, conditioning: Conditioning, timestep: float) -> Tensor:
        """Return noisy latents from which the policy would have sampled the images."""
        model, noisy = self.model, latents
        for before, after, label in self.path(timestep):
            asked = torch.tensor(label, dtype=torch.float64)
            first = model.predict(model.policy, noisy, asked, conditioning)
            estimate = self.climbed(noisy, first, before, after)
            second = model.predict(model.policy, estimate, asked, conditioning)
            used = second if self.grid == "exact" else (first + second) / 2
            noisy = self.climbed(noisy, used, before, after)
        return noisy

    def climbed(self, noisy: Tensor, prediction: Tensor, before: float | None, after: float) -> Tensor:
        """Return latents at the next level, given the prediction of the step."""
        alpha_b, sigma_b = self.model.coefficients(torch.tensor([after]))
        alpha_a, sigma_a = torch.ones_like(alpha_b), torch.zeros_like(sigma_b)
        if before is not None:
            alpha_a, sigma_a = self.model.coefficients(torch.tensor([before]))
        if self.model.is_flow:
            return noisy + (sigma_b - sigma_a) * prediction
        return alpha_b / alpha_a * noisy + (sigma_b - alpha_b / alpha_a * sigma_a) * prediction
