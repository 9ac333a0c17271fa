"""What the denoisers are trained on: latents and token ids of all scenes.

The latents need no trained autoencoder: what it must encode to is known beforehand.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alignbench.miniature.pretrain.autoencoder import code
from alignbench.miniature.pretrain.data import SceneData, tokenise

PROMPT_DROPOUT = 0.1
STYLE_SHARE = 0.15  # share of captions that name the style, so that a model can be asked for one too


@dataclass(frozen=True)
class LatentData:
    """Latents [N, 4, 16, 16] as a denoiser expects them, float16, and what describes them.

    ids: a tensor of token ids for each tokenizer, [num captions, length], captions as `SceneData.draw_captions` counts.
    empty_ids: the same for the empty prompt, [1, length] each.
    """

    latents: torch.Tensor
    ids: list[torch.Tensor]
    empty_ids: list[torch.Tensor]
    scenes: SceneData

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return float32 latents and the ids of one caption each, the empty prompt in `PROMPT_DROPOUT` of them."""
        indices = torch.randint(len(self.latents), (batch_size,), generator=generator)
        rows = self.scenes.draw_captions(indices, generator, STYLE_SHARE)
        dropped = torch.rand(batch_size, 1, generator=generator) < PROMPT_DROPOUT
        pairs = zip(self.ids, self.empty_ids, strict=True)
        return self.latents[indices].float(), [torch.where(dropped, empty, ids[rows].long()) for ids, empty in pairs]


def encode_scenes(data: SceneData, path: Path) -> None:
    """Write the latents of all scenes to `path`, unless it exists."""
    if path.exists():
        return
    batches = torch.arange(len(data.captions)).split(1024)
    partial = path.with_name("partial.npy")
    np.save(partial, torch.cat([code(data.pixels(indices)).half() for indices in batches]).numpy())
    partial.replace(path)


def load_latents(path: Path, data: SceneData, tokenizers: list) -> LatentData:
    """Open the latents, and the token ids of all captions, which are kept beside them."""
    latents = torch.from_numpy(np.load(path))
    ids = [_load_ids(path.with_name(f"{type(tokenizer).__name__}.npy"), data, tokenizer) for tokenizer in tokenizers]
    return LatentData(latents, ids, [tokenise([""], tokenizer) for tokenizer in tokenizers], data)


def _load_ids(path: Path, data: SceneData, tokenizer) -> torch.Tensor:
    if not path.exists():  # a minute's work, and a resumed run should not wait for it
        partial = path.with_suffix(".partial.npy")
        np.save(partial, data.tokens(tokenizer).numpy())
        partial.replace(path)
    return torch.from_numpy(np.load(path))
