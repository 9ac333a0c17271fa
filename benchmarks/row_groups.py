"""Measure training in random order straight from parquet: samples a second, and memory.

    python benchmarks/row_groups.py [--groups 6] [--rows 1000] [--kib 166] [--window-mib 384] [--steps 0]

Row groups in the format of Pick-a-Pic, and of its size by default, are read in the order in which training asks for
their pairs. The images are random bytes, which no compression makes smaller; nothing is decoded. `--window-mib 0`
shuffles all rows, which costs a row group for every image: give it few steps.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
from hydra.utils import instantiate
from pyarrow import parquet

from alignbench.configuration.compose import composed
from alignbench.data.batches.sampler import StepSampler
from alignbench.data.source import View
from alignbench.data.sources.table_source import TableSource
from alignbench.files import replacing_folder
from benchmarks.data import COLUMNS, MIB, Memory, apart

BATCH_SIZE = 16  # pairs


def write_noise(folder: Path, num_groups: int, num_rows: int, num_bytes: int) -> None:
    """Write row groups whose images are noise of one size."""
    rng = np.random.default_rng(0)
    with parquet.ParquetWriter(folder / "train-0.parquet", COLUMNS) as writer:
        for group in range(num_groups):
            rows = [
                {
                    **{f"jpg_{side}": rng.bytes(num_bytes) for side in (0, 1)},
                    **{f"image_{side}_uid": f"{group}-{row}-{side}" for side in (0, 1)},
                    "label_0": 1.0,
                    "label_1": 0.0,
                    "has_label": True,
                    "caption": str(group),
                }
                for row in range(num_rows)
            ]
            writer.write_table(pyarrow.Table.from_pylist(rows, COLUMNS))


def measure(corpus: Path, window_mib: int | None, num_steps: int) -> dict[str, float]:
    """Read the pairs of the first steps, or of an epoch if `num_steps` is 0."""
    cfg = composed(["method=dpo", "model=sd15_mini", "data=pickapic", f"data.path={corpus}"])
    memory = Memory()
    data: TableSource = instantiate(cfg.data, window_mib=window_mib)
    view = data.view("pairs")
    assert isinstance(view, View)
    sampler = StepSampler(len(view), BATCH_SIZE, 1, 0, 0, 1, blocks=view.blocks)
    num_steps = num_steps or len(view) // BATCH_SIZE
    began, spent, num_bytes = time.perf_counter(), time.process_time(), 0
    with memory.watched():
        for step in range(num_steps):
            for _, position in sampler.samples(step):
                for number in data.kept.images[position]:
                    file = data.contents.store.image(int(number)).open()
                    assert file is not None
                    num_bytes += len(file.read())
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    return {
        "pairs": num_steps * BATCH_SIZE,
        "pairs_per_second": num_steps * BATCH_SIZE / seconds,
        "pairs_per_second_of_this_process": num_steps * BATCH_SIZE / spent,
        "mib_per_second": num_bytes / MIB / seconds,
        "peak_mib": memory.most,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--rows", type=int, default=1000, help="of a row group")
    parser.add_argument("--kib", type=int, default=166, help="of an image")
    parser.add_argument("--window-mib", type=int, default=384)
    parser.add_argument("--steps", type=int, default=0, help="how many to read; those of an epoch by default")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = (given.folder or Path(temporary)) / f"{given.groups}x{given.rows}x{given.kib}"
        if not corpus.exists():
            with replacing_folder(corpus) as unfinished:
                apart(write_noise, unfinished, given.groups, given.rows, given.kib * 1024)
        figures = measure(corpus, given.window_mib or None, given.steps)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
