"""Measure preparing and reading training data: images a second from the cache, against decoding JPEGs, and memory.

    python benchmarks/data.py [--pairs 2000] [--model sd15_mini] [--skip-network] [--batches 500] [--folder FOLDER]

A corpus in the format of Pick-a-Pic, parquet files with random JPEGs of 64 px in row groups of 1000, is read by
`data=pickapic`, prepared as the stage `prepare` does it, and then iterated as `method=dpo` trains on it. Against that
stands what training has to do for the same batches without a cache, even before its VAE works: decode JPEGs of 512 px
and cut them to the model's size.

Rates are by the time of this process alone, so they do not depend on others at work, nor tell of a slow disk. Memory is
beyond that of the loaded model. `--skip-network` puts shrunken pixels in place of what the VAE returns, which leaves
the time and memory of all else. Nothing is downloaded.
"""

import argparse
import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pyarrow
import torch
from hydra.utils import instantiate
from PIL import Image
from pyarrow import parquet
from torch import Tensor
from torch.nn.functional import interpolate

from alignbench.configuration.compose import composed
from alignbench.crop import CropSpec
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder, fit
from alignbench.data.batches.feature_cache import Caches
from alignbench.data.batches.fill_cache import RequiredFeatures, prepare
from alignbench.data.batches.stream import Stream
from alignbench.data.source import LazyTrainingImage
from alignbench.data.storage.image_store import FileImage
from alignbench.files import replacing_folder
from alignbench.models.adapter import ModelAdapter
from alignbench.stages.prepare import build_adapter
from alignbench.work_share import WorkShare

SIDE = 64
JPEG_SIDE = 512
ROW_GROUP = 1000  # rows, as in Pick-a-Pic v2
FILE_ROWS = 10_000
PAIRS_A_PROMPT = 100
BATCH_SIZE = 16  # pairs
MIB = 2**20
COLUMNS = pyarrow.schema(
    {
        "jpg_0": pyarrow.binary(),
        "jpg_1": pyarrow.binary(),
        "label_0": pyarrow.float64(),
        "label_1": pyarrow.float64(),
        "has_label": pyarrow.bool_(),
        "caption": pyarrow.string(),
        "image_0_uid": pyarrow.string(),
        "image_1_uid": pyarrow.string(),
    }
)


def draw(key: str, side: int) -> np.ndarray:
    """Return a picture, uint8 [side, side, 3], with as much detail as makes a JPEG of an ordinary size."""
    rng = np.random.default_rng(list(key.encode()))
    coarse = torch.from_numpy(rng.random((1, 3, side // 8, side // 8), np.float32))
    pixels = interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0).numpy()
    return (255 * (0.9 * pixels + 0.1 * rng.random((side, side, 3), np.float32))).astype(np.uint8)


def jpeg(key: str, side: int) -> bytes:
    """Return a drawn picture as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(draw(key, side)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_corpus(folder: Path, num_pairs: int) -> None:
    """Write pairs as Pick-a-Pic is published, one row group after the other; no two of their images are equal."""
    for first in range(0, num_pairs, FILE_ROWS):
        stop = min(first + FILE_ROWS, num_pairs)
        with parquet.ParquetWriter(folder / f"train-{first:07}.parquet", COLUMNS) as writer:
            for start in range(first, stop, ROW_GROUP):
                rows = [row(number) for number in range(start, min(start + ROW_GROUP, stop))]
                writer.write_table(pyarrow.Table.from_pylist(rows, COLUMNS))


def row(number: int) -> dict[str, object]:
    """Return one pair; the first and the second image win in turn."""
    uids = [f"{number}-{side}" for side in (0, 1)]
    images = {f"jpg_{side}": jpeg(uid, SIDE) for side, uid in enumerate(uids)}
    labels = {f"label_{side}": float(number % 2 == side) for side in (0, 1)}
    names = {f"image_{side}_uid": uid for side, uid in enumerate(uids)}
    return {**images, **labels, **names, "has_label": True, "caption": f"prompt {number // PAIRS_A_PROMPT}"}


def shrunken(model: ModelAdapter, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels in the shape of the VAE's codes."""
    channels, height, width = model.latent_shape
    codes = interpolate(pixels, (height, width)).repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return codes, codes


def apart(work: Callable[..., None], *arguments: object) -> None:
    """Do something in a process of its own, whose memory goes with it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(work, *arguments).result()


class Memory:
    """The largest resident memory in MiB, beyond what there was when this was made."""

    SECONDS = 0.02  # between looks

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.start = self.process.memory_info().rss

    @contextmanager
    def watched(self) -> Iterator[Self]:
        """Look again and again while something works; `most` is what was found."""
        self.most = 0.0
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(done,))
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()

    def _look(self, done: threading.Event) -> None:
        while True:
            self.most = max(self.most, (self.process.memory_info().rss - self.start) / MIB)
            if done.wait(self.SECONDS):
                return


def rate(count: int, work: Callable[[], object]) -> float:
    """Return how many of `count` things some work does in a second of this process's own time."""
    began = time.process_time()
    work()
    return count / (time.process_time() - began)


def jpeg_rate(folder: Path, resolution: int, count: int) -> float:
    """Return how many JPEGs of 512 px a second become pixels of the model's size."""
    files = [folder / f"{number}.jpg" for number in range(16)]
    square = CropSpec((resolution, resolution))
    for file in files:
        file.write_bytes(jpeg(file.stem, JPEG_SIDE))

    def decode() -> None:
        for number in range(count):
            image = FileImage(str(number), files[number % len(files)])
            fit(LazyTrainingImage(image.key, image.decode), square)

    return rate(count, decode)


def measure(num_pairs: int, model_name: str, skip_network: bool, num_batches: int, folder: Path) -> dict[str, float]:
    """Prepare a corpus in `folder` and iterate it; return the figures.

    Args:
        num_batches: how many are read; 0 for those of an epoch.
    """
    torch.set_num_threads(1)
    corpus, cache = folder / f"pairs-{num_pairs}", folder / "cache"
    if not corpus.exists():
        with replacing_folder(corpus) as unfinished:
            apart(write_corpus, unfinished, num_pairs)
    cfg = composed([f"model={model_name}", "method=dpo", "data=pickapic", f"data.path={corpus}"])
    model, method = build_adapter(cfg.model), instantiate(cfg.method)
    if skip_network:
        vars(model)["encode_posterior"] = partial(shrunken, model)

    memory = Memory()
    with memory.watched():
        data = instantiate(cfg.data)
        caches = Caches.open(cache, model, data.posterior, torch.device("cpu"))
        encoder = Encoder(model, data.posterior, caches=caches, address=data.address)
        required = RequiredFeatures.of(method, data, CropPolicy.square(model.resolution))
        todo = len(required.missing_crops(caches))
        prepared = rate(todo, lambda: prepare(required, encoder, caches, WorkShare()))
    preparing = memory.most

    num_batches = num_batches or num_pairs // BATCH_SIZE
    num_images = 2 * BATCH_SIZE * num_batches
    stream = Stream(
        method,
        data,
        model,
        cache,
        total_batch_size=BATCH_SIZE,
        seed=0,
        rank=0,
        num_processes=1,
        start_step=0,
        num_workers=0,
    )

    def iterate() -> None:
        for _ in range(num_batches):
            stream.next()

    with memory.watched():
        batched = rate(num_images, iterate)
    jpegs = jpeg_rate(folder, model.resolution, 200)
    kept = Caches.open(cache, model, data.posterior, torch.device("cpu")).latents
    figures = {
        "pairs": num_pairs,
        "mib_of_corpus": sum(file.stat().st_size for file in corpus.iterdir()) / MIB,
        "mib_of_cache": kept.num_bytes / MIB,
        "batched_images_per_second": batched,
        "peak_mib_iterating": memory.most,
        "jpegs_512_per_second": jpegs,
        "batched_over_jpegs": batched / jpegs,
    }
    if todo:  # what is prepared already would give no rate
        figures |= {"prepared_images_per_second": prepared, "peak_mib_preparing": preparing}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--model", default="sd15_mini")
    parser.add_argument("--skip-network", action="store_true")
    parser.add_argument("--batches", type=int, default=0, help="how many to read; those of an epoch by default")
    parser.add_argument("--folder", type=Path, help="where to write and prepare; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(given.pairs, given.model, given.skip_network, given.batches, folder)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
