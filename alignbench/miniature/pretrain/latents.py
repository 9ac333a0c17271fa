"""What the denoisers are trained on: latents and token ids of all scenes, made once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from alignbench.miniature.pretrain.data import SceneData, tokenise
from alignbench.miniature.pretrain.loop import generator_at

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
        ids = [torch.where(dropped, empty, all_ids[rows].long()) for all_ids, empty in zip(self.ids, self.empty_ids, strict=True)]
        return self.latents[indices].float(), ids


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, data: SceneData, path: Path) -> None:
    """Write one posterior sample of each scene's latents to `path`, unless it exists."""
    if path.exists():
        return
    latents = []
    for start in range(0, len(data.captions), 256):
        indices = torch.arange(start, min(start + 256, len(data.captions)))
        pixels = data.pixels(indices).contiguous(memory_format=torch.channels_last)
        sample = vae.encode(pixels).latent_dist.sample(generator_at(7, start))
        latents.append(((sample - vae.config.shift_factor) * vae.config.scaling_factor).half().contiguous())
        if start % 8192 == 0:
            print(f"latents: {start} of {len(data.captions)}", flush=True)
    partial = path.with_name("partial.npy")
    np.save(partial, torch.cat(latents).numpy())
    partial.replace(path)


def load_latents(path: Path, data: SceneData, tokenizers: list) -> LatentData:
    """Open the latents and tokenise the captions."""
    latents = torch.from_numpy(np.load(path))
    ids = [data.tokens(tokenizer) for tokenizer in tokenizers]
    return LatentData(latents, ids, [tokenise([""], tokenizer) for tokenizer in tokenizers], data)
