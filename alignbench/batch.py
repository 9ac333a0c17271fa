"""What travels from the data to a method: batches of prompts, images, labelled images and pairs.

Every batch names its samples by their global index: the position in the stream of samples of the whole run, which is
the same on any number of processes. Random draws are keyed by it. Every batch holds conditioning, and every batch of
images holds latents, whether they were just computed or read from a cache. Of a model of videos, images are videos, and
latents and noise have a frame axis: [B, C, F, h, w].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: change(one) for name, one in value.items()}
    return value.map(change) if hasattr(value, "map") else change(value)


def _cat(values: list[Any]) -> Any:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Batch):
        return type(first).cat(values)
    if isinstance(first, dict):
        return {name: torch.cat([value[name] for value in values]) for name in first}
    return torch.cat(values) if isinstance(first, Tensor) else [entry for value in values for entry in value]


def _choose(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return `second` where `rows` [B] is true and `first` elsewhere."""
    return torch.where(rows.reshape(-1, *(1,) * (first.ndim - 1)), second, first)


def _of_other_image(name: str) -> str:
    """Return how the same value of the other image of a pair is called; a value of the whole pair is not renamed."""
    return {"_w": f"{name[:-2]}_l", "_l": f"{name[:-2]}_w"}.get(name[-2:], name)


@dataclass(frozen=True)
class Batch:
    """A frozen dataclass: along its first axis each field has one entry for each sample, or the field is None."""

    def map(self, change: Callable[[Any], Any]) -> Self:
        """Return a copy with `change` applied to every tensor and list."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: _map(value, change) for name, value in values.items() if value is not None})

    def rows(self, start: int, stop: int) -> Self:
        """Return samples `start` to `stop` (exclusive)."""
        return self.map(lambda value: value[start:stop])

    def take(self, rows: Sequence[int]) -> Self:
        """Return samples `rows`, in this order."""
        return self.map(lambda value: [value[row] for row in rows] if isinstance(value, list) else value[list(rows)])

    def split(self, size: int) -> list[Self]:
        """Split into consecutive batches of at most `size` samples."""
        return [self.rows(start, start + size) for start in range(0, len(self), size)]

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor. What lies in page-locked memory is copied to a GPU without waiting for its work."""
        free = torch.device(device).type != "cpu"
        return self.map(lambda value: value.to(device, non_blocking=free) if isinstance(value, Tensor) else value)

    def pinned(self) -> Self:
        """Copy every tensor to page-locked memory."""
        return self.map(lambda value: value.pin_memory() if isinstance(value, Tensor) else value)

    @classmethod
    def cat(cls, batches: Sequence[Self]) -> Self:
        """Concatenate along the first axis; a field is None in all of the batches or in none."""
        names = [field.name for field in fields(cls)]
        return replace(batches[0], **{name: _cat([getattr(one, name) for one in batches]) for name in names})

    def __len__(self) -> int:
        first = next(value for field in fields(self) if (value := getattr(self, field.name)) is not None)
        return len(first)


@dataclass(frozen=True)
class Conditioning(Batch):
    """What the denoiser is given beside noisy latents and timestep, one row for each prompt.

    Attributes:
        prompt_embeds: text features, [B, tokens, width].
        pooled_prompt_embeds: one vector for each prompt, [B, width]; None if the family has none.
        time_ids: original size, crop and target size of each image, [B, 6]; None for families other than SDXL.
        text_mask: which tokens are those of the prompt, [B, tokens], bool; the others are padding after them. None
            where all are.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    time_ids: Tensor | None = None
    text_mask: Tensor | None = None

    @classmethod
    def of_rows(cls, rows: Sequence[Tensor]) -> Self:
        """Return the features of prompts of unlike length, [tokens, width] each, padded with zeros."""
        return cls.cat([cls(row[None]) for row in rows])

    @classmethod
    def cat(cls, batches: Sequence[Self]) -> Self:
        """Concatenate along the first axis; where the prompts are of unlike length, all are padded to the longest."""
        num_tokens = max(one.prompt_embeds.shape[1] for one in batches)
        if any(one.text_mask is not None or one.prompt_embeds.shape[1] < num_tokens for one in batches):
            batches = [one._padded(num_tokens) for one in batches]
        return super().cat(batches)

    @property
    def known_mask(self) -> Tensor:
        """`text_mask`, or true everywhere where that is None."""
        if self.text_mask is not None:
            return self.text_mask
        return torch.ones(self.prompt_embeds.shape[:2], dtype=torch.bool, device=self.prompt_embeds.device)

    @property
    def text_rows(self) -> list[Tensor]:
        """The features of each prompt without padding, [tokens, width] each."""
        if self.text_mask is None:
            return list(self.prompt_embeds)
        return [row[mask] for row, mask in zip(self.prompt_embeds, self.text_mask, strict=True)]

    def _padded(self, num_tokens: int) -> Self:
        missing = num_tokens - self.prompt_embeds.shape[1]
        return replace(
            self,
            prompt_embeds=pad(self.prompt_embeds, (0, 0, 0, missing)),
            text_mask=pad(self.known_mask, (0, missing)),
        )

    def repeat(self, num: int) -> Self:
        """Concatenate `num` copies: rows 0..B-1, then rows 0..B-1 again."""
        return self.map(lambda value: torch.cat([value] * num))


@dataclass(frozen=True)
class PromptBatch(Batch):
    """Prompts alone.

    Attributes:
        index: global sample index, [B], int64, on the CPU. Where a method has `num_draws`, it is the index of a fixed
            draw of the sample.
        prompts: the texts, as written in the data.
        conditioning: features of the prompts; where prompt dropout applies, those of the empty prompt.
        known: what was computed of the samples before the loss, by name, [B, ...] each: what a method returned as
            `reference_values`, or computed in its rollout. None if nothing was. In pairs, the names of what belongs to
            one image end in `_w` or `_l`.
    """

    index: Tensor
    prompts: list[str]
    conditioning: Conditioning
    known: dict[str, Tensor] | None = field(default=None, kw_only=True)

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor but the index, which keys draws on the CPU."""
        return replace(super().to(device), index=self.index)


@dataclass(frozen=True)
class ImageBatch(PromptBatch):
    """Images with their prompts. `latents` [B, C, h, w], scaled as the denoiser expects."""

    latents: Tensor


@dataclass(frozen=True)
class LabelledBatch(ImageBatch):
    """Images labelled as desirable or not. `desirable` [B], bool."""

    desirable: Tensor


@dataclass(frozen=True)
class PairBatch(PromptBatch):
    """Two images of one prompt.

    Attributes:
        latents_w, latents_l: winner and loser, [B, C, h, w], scaled as the denoiser expects.
        probability_w: probability that the winner is preferred, [B], float32, 0.5..1; 1 if only one vote is known.
        score_w, score_l: scores of winner and loser by the method's `scorer`, [B], float32, in its published scale;
            None if the method has no scorer. The winner by vote may have the lower score.
        time_ids_l: size and crop of the loser, [B, 6]; those of the winner are in `conditioning`. None if both are the
            same, or if the family takes none.
    """

    latents_w: Tensor
    latents_l: Tensor
    probability_w: Tensor
    score_w: Tensor | None = None
    score_l: Tensor | None = None
    time_ids_l: Tensor | None = None

    @property
    def conditioning_l(self) -> Conditioning:
        """The conditioning of the losers, B rows: features of the same prompts, with the sizes of the losers."""
        if self.time_ids_l is None:
            return self.conditioning
        return replace(self.conditioning, time_ids=self.time_ids_l)

    @property
    def conditioning_both(self) -> Conditioning:
        """The conditioning of all winners, then of all losers, 2 B rows."""
        return Conditioning.cat([self.conditioning, self.conditioning_l])

    def swapped(self, rows: Tensor) -> Self:
        """Return the pairs with winner and loser exchanged where `rows` [B] is true."""
        choose = partial(_choose, rows)
        pairs: dict[str, Tensor] = {}
        for name in ("latents", "score"):
            first, second = getattr(self, f"{name}_w"), getattr(self, f"{name}_l")
            if first is not None:
                pairs |= {f"{name}_w": choose(first, second), f"{name}_l": choose(second, first)}
        conditioning = self.conditioning
        if conditioning.time_ids is not None and self.time_ids_l is not None:
            pairs["time_ids_l"] = choose(self.time_ids_l, conditioning.time_ids)
            conditioning = replace(conditioning, time_ids=choose(conditioning.time_ids, self.time_ids_l))
        known = self.known
        if known is not None:
            known = {name: choose(value, known[_of_other_image(name)]) for name, value in known.items()}
        probability_w = choose(self.probability_w, 1 - self.probability_w)
        return replace(self, conditioning=conditioning, probability_w=probability_w, known=known, **pairs)


@dataclass(frozen=True)
class GeneratedPairBatch(PairBatch):
    """Two images of one prompt that this program made, each with the noise that it was made from.

    Attributes:
        noise_w, noise_l: initial noise of winner and loser, [B, C, h, w], float32.
    """

    noise_w: Tensor = field(kw_only=True)
    noise_l: Tensor = field(kw_only=True)

    def swapped(self, rows: Tensor) -> Self:
        choose = partial(_choose, rows)
        noise_w, noise_l = choose(self.noise_w, self.noise_l), choose(self.noise_l, self.noise_w)
        return replace(super().swapped(rows), noise_w=noise_w, noise_l=noise_l)
