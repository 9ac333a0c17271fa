"""Which pairs a judge learns from, which choose the update to keep, which it is measured on; how it reads them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from alignbench.data.source import PairSample, PromptSample
from alignbench.errors import UserError
from alignbench.evaluator import Preprocess
from alignbench.files import replacing
from alignbench.reward_model import RewardModel
from alignbench.terminal.signals import leave_signals_to_the_program
from alignbench.text import is_held_out

CHUNK = 64  # images whose features are computed, and kept, together


@dataclass(frozen=True)
class PairSplit:
    """Rows of the pairs by what they are for. No prompt is in two of them.

    Attributes:
        train: what the judge learns from.
        validation: what chooses the update to keep and the scale of the scores.
        heldout: what it is measured on, once.
    """

    train: list[int]
    validation: list[int]
    heldout: list[int]

    @classmethod
    def of(cls, prompts: Sequence[str], heldout_share: float, validation_share: float) -> Self:
        """Split by the hash of the prompt; a held-out prompt here is held out of any data with `data.heldout_share`.

        Args:
            prompts: of each pair.
            heldout_share, validation_share: of all prompts, 0..1.

        Raises:
            UserError: a part is empty.
        """
        rows: dict[str, list[int]] = {"train": [], "validation": [], "heldout": []}
        for row, prompt in enumerate(prompts):
            if is_held_out(prompt, heldout_share):
                rows["heldout"].append(row)
            elif is_held_out(prompt, heldout_share + validation_share):
                rows["validation"].append(row)
            else:
                rows["train"].append(row)
        for part, found in rows.items():
            if not found:
                raise UserError(
                    f"none of the {len(prompts)} pairs falls to {part}, with heldout_share={heldout_share} and "
                    f"validation_share={validation_share} of their {len(set(prompts))} prompts; give more pairs, or "
                    "other shares"
                )
        return cls(**rows)


@dataclass(frozen=True)
class PairInputs:
    """What a judge reads of B pairs.

    Attributes:
        images: first the B winners, then the B losers, [2 * B, ...].
        texts: their prompts, [B, ...].
        probability: that the winner is preferred, as the data say, [B], float32.
    """

    images: Tensor
    texts: Tensor
    probability: Tensor

    def to(self, device: torch.device) -> Self:
        return type(self)(*(part.to(device, non_blocking=True) for part in vars(self).values()))


class Reader(Protocol):
    """Reads pairs as `RewardModel.forward` takes them."""

    def read(self, batches: Iterable[list[int]]) -> Iterator[PairInputs]:
        """Yield the inputs of one batch of rows after the other, on the CPU."""
        ...


class Decoder:
    """Decodes and preprocesses pictures each time they are asked for.

    Args:
        view: the pairs.
        num_workers: processes that do it beside this one.
    """

    def __init__(self, view: Sequence[PromptSample], reward_model: RewardModel, num_workers: int) -> None:
        self.pairs = _DecodedPairs(view, reward_model.preprocess)
        self.reward_model = reward_model
        self.num_workers = num_workers

    def read(self, batches: Iterable[list[int]]) -> Iterator[PairInputs]:
        loader = DataLoader(
            self.pairs,
            batch_sampler=cast(Any, batches),
            collate_fn=list,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_the_program,
        )
        for items in loader:
            images, prompts, probability = zip(*items, strict=True)
            winners, losers = zip(*images, strict=True)
            texts = self.reward_model.encode_prompts(prompts)
            yield PairInputs(torch.stack([*winners, *losers]), texts, torch.tensor(probability))


class _DecodedPairs(Dataset):
    """Both preprocessed images, the prompt and the label of each pair."""

    def __init__(self, view: Sequence[PromptSample], preprocess: Preprocess) -> None:
        self.view = view
        self.preprocess = preprocess

    def __getitem__(self, row: int) -> tuple[Tensor, str, float]:
        pair = cast(PairSample, self.view[row])
        pictures = [Image.fromarray(picture.pixels) for picture in (pair.image_w, pair.image_l)]
        return torch.cat([self.preprocess([one]) for one in pictures]), pair.prompt, pair.probability_w


class Remembered:
    """Features of a network that is not trained: each image and each prompt goes through it once.

    What was computed lies in files until the judge is done, so that a killed command does not compute it again. Images
    are computed in the same company whatever the number of processes, and so are equal to the last bit.

    Args:
        view: the pairs.
        folder: where the files go.
    """

    def __init__(
        self, view: Sequence[PromptSample], reward_model: RewardModel, accelerator: Accelerator, folder: Path
    ) -> None:
        decoded = _DecodedPairs(view, reward_model.preprocess)
        chunks = [range(start, min(start + CHUNK, len(view))) for start in range(0, len(view), CHUNK)]
        mine = list(enumerate(chunks))[accelerator.process_index :: accelerator.num_processes]
        was_training = reward_model.training
        reward_model.eval()
        bar = partial(tqdm, desc="features", unit="chunk", dynamic_ncols=True)
        for number, rows in bar(mine, disable=not accelerator.is_main_process):
            file = folder / f"{number}.safetensors"
            if file.exists():
                continue
            images, prompts, probability = zip(*(decoded[row] for row in rows), strict=True)
            with torch.no_grad():
                seen = reward_model.image_features(torch.cat(images).to(accelerator.device)).cpu()
                read = reward_model.text_features(reward_model.encode_prompts(prompts).to(accelerator.device)).cpu()
            kept = {"images": seen.unflatten(0, (-1, 2)).contiguous(), "texts": read.contiguous()}
            with replacing(file) as unfinished:
                save_file(kept | {"probability": torch.tensor(probability)}, unfinished)
        reward_model.train(was_training)
        accelerator.wait_for_everyone()
        parts = [load_file(folder / f"{number}.safetensors") for number in range(len(chunks))]
        self.images, self.texts, self.probability = (
            torch.cat([part[name] for part in parts]) for name in ("images", "texts", "probability")
        )

    def read(self, batches: Iterable[list[int]]) -> Iterator[PairInputs]:
        for rows in batches:
            images = self.images[rows].transpose(0, 1).flatten(0, 1)
            yield PairInputs(images, self.texts[rows], self.probability[rows])


def make_reader(
    view: Sequence[PromptSample], reward_model: RewardModel, num_workers: int, accelerator: Accelerator, folder: Path
) -> Reader:
    """Return what reads pairs for a judge."""
    if reward_model.frozen_features:
        return Remembered(view, reward_model, accelerator, folder)
    return Decoder(view, reward_model, num_workers)
