"""Which noise an image starts from: it follows from a few words, so it need not be kept to be known later."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignbench.settings.sampling import NoiseMode

if TYPE_CHECKING:  # data sources name a noise, and are read without torch
    from torch import Tensor


def initial_noise(
    prompt_id: str, number: int, sampling_seed: int, shape: Sequence[int], mode: NoiseMode = "per_prompt"
) -> "Tensor":
    """Return the noise that one image starts from, [*shape], float32 on the CPU.

    With `per_prompt` the noise depends on the prompt, the image number and the seed. With `constant` it depends on the
    image number and the seed alone: image `number` takes the draw of that number from
    `torch.Generator().manual_seed(sampling_seed)`. The papers do so with seed 0 for each prompt.
    """
    import torch

    from alignbench.context import keyed_generator

    if mode == "constant":
        generator = torch.Generator().manual_seed(sampling_seed)
        return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in range(number + 1)])[-1]
    return torch.randn(tuple(shape), generator=keyed_generator("image", sampling_seed, prompt_id, number))


@dataclass(frozen=True)
class InitialNoise:
    """The noise that an image of this program was made from, by what it was drawn by; see `initial_noise`."""

    prompt_id: str
    number: int
    sampling_seed: int
    mode: NoiseMode

    def draw(self, shape: Sequence[int]) -> "Tensor":
        """Return the noise, [*shape], float32 on the CPU."""
        return initial_noise(self.prompt_id, self.number, self.sampling_seed, shape, self.mode)
