"""Measure by the oracle how well the miniature models follow held-out prompts."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alignbench.miniature.captions import parse, prompts
from alignbench.miniature.oracle import agreement, all_right, style
from alignbench.miniature.pretrain.tokenizers import T5_LENGTH
from alignbench.miniature.scenes import IMAGE_SIZE
from alignbench.miniature.weights import FOLDER, LATENT_SIDE, PIPELINES, load_pipeline
from alignbench.models.families.qwen_image import NO_PROMPT

NUM_INFERENCE_STEPS = 16
GUIDANCE_SCALES = {"flux_mini": 3.5, "qwen_mini": 4.0, "sd15_mini": 4.0, "sd3_mini": 4.0, "sdxl_mini": 4.0}
BATCH_SIZE = 32
SHEET_COLUMNS = 12


def evaluate(name: str, num_prompts: int, sheet: Path, folder: Path = FOLDER) -> dict[str, float]:
    """Sample images of held-out prompts and return the oracle's figures; write the first images as one picture.

    Returns:
        `one` and `two`: share of prompts for one and two shapes for which shapes, colours, places and background are
        all right; `agreement`: mean share of met demands; one entry for each style: its share of the images.
    """
    pipeline = load_pipeline(name, folder=folder)
    pipeline.set_progress_bar_config(disable=True)
    asked = prompts("heldout", num_prompts, seed=1)
    starts = range(0, len(asked), BATCH_SIZE)
    images = np.concatenate([_sample(name, pipeline, asked[i : i + BATCH_SIZE], i) for i in starts])
    draw_sheet(images, sheet)
    single = np.array([len(parse(prompt).shapes) == 1 for prompt in asked])
    right = np.array([all_right(image, prompt) for image, prompt in zip(images, asked, strict=True)])
    met = [agreement(image, prompt) for image, prompt in zip(images, asked, strict=True)]
    styles = Counter(style(image) for image in images)
    figures = {"one": right[single].mean(), "two": right[~single].mean(), "agreement": np.mean(met)}
    figures |= {word: count / len(images) for word, count in sorted(styles.items())}
    return {key: float(value) for key, value in figures.items()}


def _sample(name: str, pipeline, asked: list[str], first: int) -> np.ndarray:
    """Return uint8 images, one for each prompt; the noise of an image is seeded by its number."""
    generators = [torch.Generator().manual_seed(first + i) for i in range(len(asked))]
    noise = torch.cat([torch.randn(1, 4, LATENT_SIDE, LATENT_SIDE, generator=generator) for generator in generators])
    arguments = {"guidance_scale": GUIDANCE_SCALES[name], "num_inference_steps": NUM_INFERENCE_STEPS}
    if name == "qwen_mini":
        arguments["true_cfg_scale"] = arguments.pop("guidance_scale")
        arguments["negative_prompt"] = [NO_PROMPT] * len(asked)
    if name in ("flux_mini", "qwen_mini"):
        noise = pipeline._pack_latents(noise, len(asked), 4, LATENT_SIDE, LATENT_SIDE)
    if name in ("flux_mini", "sd3_mini"):
        arguments["max_sequence_length"] = T5_LENGTH
    pixels = pipeline(asked, height=IMAGE_SIZE, width=IMAGE_SIZE, latents=noise, output_type="np", **arguments).images
    return (pixels * 255.0).round().astype(np.uint8)


def draw_sheet(images: np.ndarray, path: Path, num_rows: int = 8) -> None:
    """Write the first images side by side, enlarged to twice their size."""
    shown = images[: SHEET_COLUMNS * num_rows]
    shown = shown[: len(shown) // SHEET_COLUMNS * SHEET_COLUMNS]
    rows = [np.concatenate(list(row), axis=1) for row in shown.reshape(-1, SHEET_COLUMNS, *shown.shape[1:])]
    picture = Image.fromarray(np.concatenate(rows, axis=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)


def evaluate_all(num_prompts: int, work: Path, folder: Path = FOLDER) -> None:
    """Print the figures of every shipped model and write its picture to the work folder."""
    for name in PIPELINES:
        if (folder / name).is_dir():
            figures = evaluate(name, num_prompts, work / f"{name}.png", folder)
            print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
