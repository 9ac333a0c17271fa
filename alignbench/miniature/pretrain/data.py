"""The pretraining data: rendered scenes of the train split, stored on disk."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from alignbench.miniature.captions import caption, demand_of, split_of
from alignbench.miniature.pretrain.tokenizers import CHAT_HEAD_LENGTH, CHAT_LENGTH, CHAT_TEMPLATE
from alignbench.miniature.scenes import IMAGE_SIZE, Scene, render, sample_scene

SEED = 20_26
NUM_SCENES = 65_536
CAPTIONS_PER_SCENE = 3  # without a style word; they differ in which size words they leave out


@dataclass(frozen=True)
class SceneData:
    """Rendered scenes with their captions.

    images: uint8 memory map, [N, 64, 64, 3].
    captions: N lists; the first `CAPTIONS_PER_SCENE` captions do not name the style, the last one begins with it.
    """

    images: np.ndarray
    captions: list[list[str]]

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """Return images as float pixels in -1..1, [B, 3, 64, 64]."""
        chosen = torch.from_numpy(self.images[indices.numpy()])
        return chosen.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)

    def draw_captions(self, indices: torch.Tensor, generator: torch.Generator, style_share: float) -> torch.Tensor:
        """Return the number of one caption for each scene; a share of them has the style word.

        Captions are numbered over all scenes, in the order of `tokens`.
        """
        plain = torch.randint(CAPTIONS_PER_SCENE, (len(indices),), generator=generator)
        styled = torch.rand(len(indices), generator=generator) < style_share
        return indices * (CAPTIONS_PER_SCENE + 1) + torch.where(styled, CAPTIONS_PER_SCENE, plain)

    def tokens(self, tokenizer, num_scenes: int | None = None) -> torch.Tensor:
        """Return the ids of all captions of the first scenes, [num, length], int16."""
        texts = [text for scene in self.captions[:num_scenes] for text in scene]
        return torch.cat([tokenise(texts[i : i + 4096], tokenizer).short() for i in range(0, len(texts), 4096)])


def tokenise(texts: list[str], tokenizer) -> torch.Tensor:
    """Return token ids, padded or truncated to one length, [B, length].

    That is the length of the tokenizer, as in diffusers' pipelines. Prompts for Qwen are put into the chat template, of
    which the tokens before the prompt are left out: [B, CHAT_LENGTH].
    """
    left_out, length = 0, tokenizer.model_max_length
    if isinstance(tokenizer, Qwen2Tokenizer):
        texts = [CHAT_TEMPLATE.format(text) for text in texts]
        left_out, length = CHAT_HEAD_LENGTH, CHAT_HEAD_LENGTH + CHAT_LENGTH
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return ids[:, left_out:]


def scene_at(index: int) -> tuple[Scene, np.random.Generator]:
    """Return scene number `index` of the data set, and the generator that renders and captions it next.

    Scenes with the content of a held-out prompt are drawn again, so that no network sees what evaluation asks for.
    """
    rng = np.random.default_rng([SEED, index])
    while True:
        scene = sample_scene(rng)
        if split_of(demand_of(scene)) == "train":
            return scene, rng


def render_data(folder: Path, num_scenes: int = NUM_SCENES) -> None:
    """Render the data set into `folder` unless it is there already."""
    if (folder / "captions.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shape = (num_scenes, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    captions, start = [], time.monotonic()
    for index in range(num_scenes):
        scene, rng = scene_at(index)
        images[index] = render(scene, rng)
        plain = [caption(scene, rng, style_word=False) for _ in range(CAPTIONS_PER_SCENE)]
        captions.append([*plain, caption(scene, rng, style_word=True)])
        if (index + 1) % 8192 == 0:
            rate = (index + 1) / (time.monotonic() - start)
            print(f"data: {index + 1} of {num_scenes} scenes, {rate:.0f} per s", flush=True)
    images.flush()
    partial = folder / "captions.json.partial"  # written last: if it exists, the images are complete
    partial.write_text(json.dumps(captions))
    partial.replace(folder / "captions.json")


def load_data(folder: Path) -> SceneData:
    """Open a rendered data set.

    Raises:
        FileNotFoundError: the stage `data` has not finished in this folder.
    """
    if not (folder / "captions.json").exists():
        raise FileNotFoundError(f"{folder} holds no finished data set; run the stage `data` first")
    return SceneData(np.load(folder / "images.npy", mmap_mode="r"), json.loads((folder / "captions.json").read_text()))
