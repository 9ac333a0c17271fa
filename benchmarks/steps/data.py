"""The training data of the benchmark: pictures of the shapes world in JPEG files, as people's data come."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from alignbench.batch import LabelledBatch, PairBatch, PromptBatch
from alignbench.evaluator import Evaluator
from alignbench.files import append_json_lines
from alignbench.miniature.candidates import candidate
from alignbench.miniature.captions import parse, prompts
from benchmarks.reference_steps.model import Sample

QUALITY = 95  # of the JPEG files
NUM_PROMPTS = 64


def write_pairs(folder: Path, num: int) -> None:
    """Write `num` pairs as data=local reads them, unless they are there: `pairs.jsonl` and two pictures of each."""
    listing = folder / "pairs.jsonl"
    if listing.exists():
        return
    (folder / "pictures").mkdir(parents=True)
    texts, rng, rows = prompts("train", NUM_PROMPTS, seed=0), np.random.default_rng(0), []
    for number in range(num):
        prompt = texts[number % NUM_PROMPTS]
        names = [f"pictures/{number:05d}-{side}.jpg" for side in "wl"]
        for name in names:
            picture = Image.fromarray(candidate(parse(prompt), rng, fault_share=0.5, dirt_share=0.5))
            picture.save(folder / name, quality=QUALITY)
        rows.append({"prompt": prompt, "image_w": names[0], "image_l": names[1]})
    append_json_lines(listing, rows)


def read_samples(folder: Path, batch_type: type[PromptBatch], scorer: Evaluator | None = None) -> list[Sample]:
    """Return the samples of a method: pairs, their images with labels, or their distinct prompts.

    Args:
        batch_type: that of the method.
        scorer: scores the images of pairs; None for methods that read no scores.
    """
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [(row["prompt"], (folder / row["image_w"], folder / row["image_l"])) for row in rows]
    if issubclass(batch_type, LabelledBatch):
        images = [(prompt, file, side == 0) for prompt, files in pairs for side, file in enumerate(files)]
        return [Sample(number, prompt, (file,), won) for number, (prompt, file, won) in enumerate(images)]
    if not issubclass(batch_type, PairBatch):
        return [Sample(number, prompt) for number, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in pairs))]
    scores: list[tuple[float, ...]] = [()] * len(pairs)
    if scorer is not None:
        files = [file for _, both in pairs for file in both]
        found = scorer.score(files, [prompt for prompt, _ in pairs for _ in range(2)]).tolist()
        scores = list(zip(found[::2], found[1::2], strict=True))
    return [Sample(number, *pair, scores=score) for number, (pair, score) in enumerate(zip(pairs, scores, strict=True))]
