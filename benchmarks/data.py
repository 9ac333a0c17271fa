"""Measure preparing and reading training data: images a second from the cache, against decoding JPEGs, and memory.

    python benchmarks/data.py [--pairs 2000] [--model sd15_mini] [--skip-network] [--batches 500] [--folder FOLDER]

A corpus of pairs of random 64 px pictures is prepared as the stage `prepare` does it and then iterated as training
does. Rates are by the time of this process alone, so they do not depend on others at work, nor tell of a slow disk.
`--skip-network` puts shrunken pixels in place of what the VAE returns, which leaves the time and memory of all else.
Nothing is downloaded.
"""

import argparse
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from alignbench.batch import PairBatch
from alignbench.command_line import composed
from alignbench.context import Context
from alignbench.data.caches import Caches
from alignbench.data.cuts import Cuts
from alignbench.data.loader import Encoder, Indexed, StepSampler, collate
from alignbench.data.prepare import Demand, prepare
from alignbench.data.source import LazyPicture, Pair, PairSource, Picture
from alignbench.models.adapter import ModelAdapter
from alignbench.place import Place
from alignbench.preparation import build_adapter

SIDE = 64
JPEG_SIDE = 512
BATCH_SIZE = 16
MIB = 2**20


class Corpus(PairSource):
    """Pairs of random pictures, drawn when they are asked for; one prompt for each hundred pairs."""

    name = "corpus"
    mixed = "dropped"
    posterior = "sample"
    fingerprint = "random"

    def __init__(self, num_pairs: int) -> None:
        self.num_pairs = num_pairs
        self.dropped: Counter[str] = Counter()

    @cached_property
    def pairs(self) -> Sequence[Pair]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [Pair(f"prompt {n // 100}", f"{n}-w", f"{n}-l", 1.0) for n in range(self.num_pairs)]

    @cached_property
    def prompts(self) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return list(dict.fromkeys(pair.prompt for pair in self.pairs))

    def picture(self, key: str) -> Picture:
        return LazyPicture(key, partial(draw, key, SIDE))


class OnPairs:
    """What data ask of a method."""

    batch_type = PairBatch
    prompt_dropout = 0.1


def draw(key: str, side: int) -> np.ndarray:
    """Return a picture, uint8 [side, side, 3], with as much detail as makes a JPEG of an ordinary size."""
    rng = np.random.default_rng(list(key.encode()))
    coarse = torch.from_numpy(rng.random((1, 3, side // 8, side // 8), np.float32))
    pixels = interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0).numpy()
    return (255 * (0.9 * pixels + 0.1 * rng.random((side, side, 3), np.float32))).astype(np.uint8)


def shrunken(model: ModelAdapter, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels in the shape of the VAE's codes."""
    channels, height, width = model.latent_shape
    codes = interpolate(pixels, (height, width)).repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return codes, codes


class Memory:
    """The largest resident memory since the start, in MiB, beyond what was there then."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.start = self.process.memory_info().rss
        self.most = 0.0

    def look(self) -> None:
        self.most = max(self.most, (self.process.memory_info().rss - self.start) / MIB)


def rate(count: int, work: Callable[[], object]) -> float:
    """Return how many of `count` things some work does in a second of this process's own time."""
    began = time.process_time()
    work()
    return count / (time.process_time() - began)


def jpeg_rate(count: int) -> float:
    """Return how many JPEGs of 512 px a second are decoded to pixels."""
    files = []
    for number in range(16):
        file = io.BytesIO()
        Image.fromarray(draw(str(number), JPEG_SIDE)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())

    def decode() -> None:
        for number in range(count):
            with Image.open(io.BytesIO(files[number % len(files)])) as image:
                np.array(image.convert("RGB"))

    return rate(count, decode)


def measure(num_pairs: int, model_name: str, skip_network: bool, num_batches: int, folder: Path) -> dict[str, float]:
    """Prepare a corpus in `folder` and iterate it; return the figures."""
    torch.set_num_threads(1)
    model = build_adapter(composed([f"model={model_name}"]).model)
    if skip_network:
        vars(model)["encode_posterior"] = partial(shrunken, model)
    data, memory = Corpus(num_pairs), Memory()
    caches = Caches.open(folder, model, data.posterior, torch.device("cpu"))
    encoder = Encoder(model, data.posterior, caches=caches, address=data.address)
    demand = Demand.of(OnPairs, data, Cuts.square(model.resolution))  # pyright: ignore[reportArgumentType]
    memory.look()
    add = caches.latents.add

    def watched(entries: dict) -> None:
        add(entries)
        memory.look()

    vars(caches.latents)["add"] = watched
    prepared = rate(2 * num_pairs, lambda: prepare(demand, encoder, caches, Place()))
    preparing = memory.most

    caches = Caches.open(folder, model, data.posterior, torch.device("cpu"))
    encoder = Encoder(model, data.posterior, caches=caches, address=data.address)
    sampler = StepSampler(num_pairs, BATCH_SIZE, 1, 0, 0, 1)
    samples = iter(DataLoader(Indexed(data.view("pairs")), batch_sampler=sampler, collate_fn=list))
    context = Context(0, 0, BATCH_SIZE)

    def iterate() -> None:
        for _ in range(num_batches):
            collate(next(samples), OnPairs, encoder, context)  # pyright: ignore[reportArgumentType]
            memory.look()

    def read() -> None:
        for spot in demand.pictures[: 2 * BATCH_SIZE * num_batches]:
            assert caches.latents.get(spot.key) is not None

    memory.most = 0.0
    batched = rate(2 * BATCH_SIZE * num_batches, iterate)
    num_read = min(len(demand.pictures), 2 * BATCH_SIZE * num_batches)
    entries, jpegs = rate(num_read, read), jpeg_rate(200)
    return {
        "pairs": num_pairs,
        "mib_on_disk": caches.latents.num_bytes / MIB,
        "prepared_images_per_second": prepared,
        "peak_mib_preparing": preparing,
        "batched_images_per_second": batched,
        "entries_per_second": entries,
        "peak_mib_iterating": memory.most,
        "jpegs_512_per_second": jpegs,
        "batched_over_jpegs": batched / jpegs,
        "entries_over_jpegs": entries / jpegs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--model", default="sd15_mini")
    parser.add_argument("--skip-network", action="store_true")
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="where to prepare; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        figures = measure(given.pairs, given.model, given.skip_network, given.batches, folder)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
