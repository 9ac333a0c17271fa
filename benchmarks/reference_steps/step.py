"""What all plain steps share: the loop of a training script around their losses."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.reference_steps.model import Draws, PlainModel, Sample


class PlainStep(ABC):
    """One training step of a published script.

    Args:
        model: its networks.
        micro_batch_size: samples that go through a network at once.
        draws: where random numbers come from.
    """

    def __init__(self, model: PlainModel, micro_batch_size: int, draws: Draws) -> None:
        self.model, self.micro_batch_size, self.draws = model, micro_batch_size, draws

    @abstractmethod
    def updates(self, samples: Sequence[Sample]) -> Iterator[Iterator[Tensor]]:
        """Yield for each optimizer update the losses of its micro-batches; the update minimises their sum."""

    def split(self, samples: Sequence[Sample]) -> list[Sequence[Sample]]:
        """Return micro-batches."""
        size = self.micro_batch_size
        return [samples[start : start + size] for start in range(0, len(samples), size)]


class SingleUpdateStep(PlainStep):
    """A step that makes one update of a batch, micro-batch by micro-batch."""

    def updates(self, samples: Sequence[Sample]) -> Iterator[Iterator[Tensor]]:
        yield (self.loss(chunk) * len(chunk) / len(samples) for chunk in self.split(samples))

    @abstractmethod
    def loss(self, samples: Sequence[Sample]) -> Tensor:
        """Return the mean loss of a micro-batch."""


class ImageStep(PlainStep):
    """A step on images that exist; they and their prompts are read and encoded at every visit."""

    def prompts(self, samples: Sequence[Sample], dropout: float) -> list[str]:
        """Return the prompts, each replaced by the empty one with a probability."""
        dropped = self.draws.uniform([sample.index for sample in samples], "prompt_dropout") < dropout
        return ["" if blank else sample.prompt for sample, blank in zip(samples, dropped.tolist(), strict=True)]

    def latents(self, samples: Sequence[Sample], image: int) -> Tensor:
        """Return latents of image number `image` of each sample, mirrored with probability 1/2, [B, C, h, w]."""
        rows = [sample.index for sample in samples]
        mirrored = (self.draws.uniform(rows, f"mirror{image}") < 0.5).tolist()
        noise = self.draws.noise(rows, self.model.adapter.latent_shape, f"posterior{image}")
        return self.model.encode_images([sample.files[image] for sample in samples], mirrored, noise)

    def pair_latents(self, samples: Sequence[Sample]) -> Tensor:
        """Return latents of all winners, then of all losers, [2 B, C, h, w]."""
        return torch.cat([self.latents(samples, 0), self.latents(samples, 1)])


def train(step: PlainStep, samples: Sequence[Sample], optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Make the updates of one batch of samples, and return the sum of their losses, which scripts log."""
    logged = 0.0
    for losses in step.updates(samples):
        for loss in losses:
            loss.backward()
            logged += loss.item()
        torch.nn.utils.clip_grad_norm_(step.model.parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad()
    return logged
