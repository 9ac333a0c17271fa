"""The training data of the denoisers: latents and token ids of all scenes.

The latents are computed without an autoencoder, because they are defined in advance; see `autoencoder`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from alignbench.miniature.pretrain.autoencoder import code
from alignbench.miniature.pretrain.data import SceneData, tokenise
from alignbench.models.families.qwen_image import NO_PROMPT

PROMPT_DROPOUT = 0.1
STYLE_SHARE = 0.15  # share of captions that name the style, so that prompts can ask for a style


@dataclass(frozen=True)
class LatentData:
    """Latents [N, 4, 16, 16] as a denoiser expects them, float16, and token ids of the captions.

    ids: token ids for each tokenizer, [num captions, length]; captions are numbered as in `SceneData.draw_captions`.
    empty_ids: the same for the empty prompt, [1, length] each.
    """

    latents: torch.Tensor
    ids: list[torch.Tensor]
    empty_ids: list[torch.Tensor]
    scenes: SceneData

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return float32 latents with the token ids of one caption each; `PROMPT_DROPOUT` of these are empty."""
        indices = torch.randint(len(self.latents), (batch_size,), generator=generator)
        rows = self.scenes.draw_captions(indices, generator, STYLE_SHARE)
        without_prompt = torch.rand(batch_size, 1, generator=generator) < PROMPT_DROPOUT
        pairs = zip(self.ids, self.empty_ids, strict=True)
        return self.latents[indices].float(), [
            torch.where(without_prompt, empty, ids[rows].long()) for ids, empty in pairs
        ]


def encode_scenes(data: SceneData, path: Path) -> None:
    """Write the latents of all scenes to `path`, unless it exists."""
    if path.exists():
        return
    batches = torch.arange(len(data.captions)).split(1024)
    partial = path.with_name("partial.npy")
    np.save(partial, torch.cat([code(data.pixels(indices)).half() for indices in batches]).numpy())
    partial.replace(path)


def load_latents(path: Path, data: SceneData, tokenizers: list) -> LatentData:
    """Open the latents and the token ids of all captions; token ids are kept in the same folder."""
    latents = torch.from_numpy(np.load(path))
    ids = [_load_ids(path.with_name(f"{type(tokenizer).__name__}.npy"), data, tokenizer) for tokenizer in tokenizers]
    return LatentData(latents, ids, [tokenise([empty_prompt(tokenizer)], tokenizer) for tokenizer in tokenizers], data)


def empty_prompt(tokenizer) -> str:
    """Return the prompt that stands for none."""
    return NO_PROMPT if isinstance(tokenizer, Qwen2Tokenizer) else ""


def _load_ids(path: Path, data: SceneData, tokenizer) -> torch.Tensor:
    if not path.exists():  # computed once, because it takes a minute
        partial = path.with_suffix(".partial.npy")
        np.save(partial, data.tokens(tokenizer).numpy())
        partial.replace(path)
    return torch.from_numpy(np.load(path))
