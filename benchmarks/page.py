"""Time the page of a large comparison: 3,200 prompts, base and seven methods, five evaluators, an image each.

    python benchmarks/page.py [--prompts 3200] [--methods 7] [--pixels 64] [--keep FOLDER]

Images and scores are made up; the time is that of the page alone, without the tables: the first time, again with
nothing new, and again after one run was added, as after each job of a sweep.
"""

import argparse
import hashlib
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alignbench.report.page.write import write_page
from alignbench.report.tables import build
from alignbench.store.image_records import PromptRecord, SamplingRecord, image_name, write_prompts, write_sampling
from alignbench.store.manifest import Budget, Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores

METHODS = ("base", "sft", "dpo", "kto", "mapo", "smpo", "srpo", "inpo", "refl", "draft", "grpo")
STYLES = ("anime", "concept-art", "paintings", "photo")
EVALUATORS = (("pickscore", 100.0, 0.21), ("hpsv2_1", 100.0, 0.26), ("image_reward", 1.0, 0.2), ("aesthetic", 1.0, 5.4),
              ("clip_score", 100.0, 0.34))  # fmt: skip
WORDS = ("a portrait of an old sailor", "two cats on a red sofa", "a castle above the clouds", "city at night, rain")
SAMPLING_HASH = "0123456789"


def write_run(
    root: Path, place: int, num_prompts: int, pixels: int, num_pictures: int = 64, evaluators: Sequence = EVALUATORS
) -> None:
    """Write the run folder of one method with an image for each prompt; of the pictures, only a few differ."""
    method = METHODS[place]
    rng = np.random.default_rng(place)
    folder = RunFolder(root / f"{method}-sd15-{place}")
    hours = 0.4 * 1.7**place
    budget = Budget(optimizer_steps=100 * place, train_seconds=3600 * hours, device_hours=hours) if place else Budget()
    seed = 0 if place else None
    folder.open(Manifest(folder.name, method, "sd15", seed, f"config {place}", f"recipe {place}", budget=budget))
    styles = [STYLES[4 * i // num_prompts] for i in range(num_prompts)]
    ids = [f"{style}-{i:05d}" for i, style in enumerate(styles)]
    images = folder.images("hpdv2", SAMPLING_HASH)
    images.mkdir(parents=True)
    pictures = [_picture(rng, pixels) for _ in range(num_pictures)]
    digests = [hashlib.sha256(picture).hexdigest()[:32] for picture in pictures]
    shown = rng.integers(num_pictures, size=num_prompts).tolist()
    for number, prompt_id in zip(shown, ids, strict=True):
        (images / image_name(prompt_id, 0)).write_bytes(pictures[number])
    write_prompts(
        images,
        [
            PromptRecord(prompt_id, f"{WORDS[i % len(WORDS)]}, number {i}", (style,), (image_name(prompt_id, 0),))
            for i, (prompt_id, style) in enumerate(zip(ids, styles, strict=True))
        ],
    )
    write_sampling(images, SamplingRecord("hpdv2", 50, 7.5, "per_prompt", 0, 1, num_prompts, subset=False))
    folder.complete("generate", "hpdv2", [images / "prompts.jsonl", images / "sampling.json"])
    files = []
    for evaluator, scale, centre in evaluators:
        score = centre * (1 + 0.004 * place + 0.05 * rng.normal(size=num_prompts))
        files.append(folder.score_file("hpdv2", SAMPLING_HASH, evaluator, "1"))
        keys = [digests[number] for number in shown]
        info = ScoreInfo(evaluator, "1", display_scale=scale)
        Scores.of(info, ids, [0] * num_prompts, score, keys).write(files[-1])
    folder.complete("score", "hpdv2", files)


def _picture(rng: np.random.Generator, pixels: int) -> bytes:
    """Return a PNG of soft colours, as hard to unpack as a photograph of that size."""
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
        (pixels, pixels), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-12, 13, (pixels, pixels, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=3200)
    parser.add_argument("--methods", type=int, default=7, help=f"besides base, at most {len(METHODS) - 1}")
    parser.add_argument("--pixels", type=int, default=64, help="a side of the images")
    parser.add_argument("--keep", type=Path, help="results root to write to and leave; otherwise a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        for place in range(arguments.methods):
            write_run(root, place, arguments.prompts, arguments.pixels)
        _timed("first", root)
        _timed("again", root)
        write_run(root, arguments.methods, arguments.prompts, arguments.pixels)
        _timed("one run more", root)
        _timed("again", root)
        page = (root / "index.html").stat().st_size
        beside = sum(file.stat().st_size for file in (root / "report").rglob("*") if file.is_file())
        print(f"index.html {page / 2**20:.2f} MiB, report/ {beside / 2**20:.1f} MiB")


def _timed(name: str, root: Path) -> None:
    tables = build(root, num_resamples=200)  # their time is that of benchmarks/report.py
    wall, cpu = time.perf_counter(), time.process_time()
    write_page(root, tables)
    print(f"{name}: wall {time.perf_counter() - wall:.1f} s, CPU {time.process_time() - cpu:.1f} s", flush=True)


if __name__ == "__main__":
    main()
