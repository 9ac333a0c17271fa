"""The waits around training: a command up to its first update, one that has nothing left to do, scores, and reports."""

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.miniature.candidates import candidate
from alignbench.miniature.captions import parse, prompts
from alignbench.report.write import write_report
from benchmarks.report import write_runs
from benchmarks.scoring_ways import Samples, by_alignbench
from benchmarks.steps.interval import Interval

POLL_SECONDS = 0.01
# few images and steps: what is measured is the wait for a command that has nothing left to do
FINISHED = (
    "method=sft", "model=sd15_mini", "train.max_train_steps=2", "train.total_batch_size=4",
    "train.micro_batch_size=4", "data.num_pairs=12", "data.num_prompts=12", "prompts.limit=4",
    "sampling.num_inference_steps=2", "tracker=none",
)  # fmt: skip


@dataclass(frozen=True)
class Wait:
    """Seconds of each repetition: of CPU time, and on the clock."""

    cpu: list[float]
    wall: list[float]

    def line(self, name: str) -> tuple[str, str, str]:
        """Return the cells of the table."""
        cpu, wall = (f"{Interval.of(seconds).shown('.1f')} s" for seconds in (self.cpu, self.wall))
        return name, cpu, wall


def first_update(model: str, data: Path, root: Path, repetitions: int) -> Wait:
    """Time a command from its start to its first logged update, its data prepared by a command before.

    Args:
        data: folder of pairs.
        root: folder of results.
    """
    training = ("method=dpo", f"model={model}", "data=local", f"data.path={data}", f"results={root}", "tracker=none")
    command = [sys.executable, "-m", "alignbench", *training, "train.max_train_steps=1"]
    subprocess.run([*command, "stages=[prepare,train]"], check=True, capture_output=True)
    found = Wait([], [])
    for seed in range(1, repetitions + 1):  # other runs, which read the same caches
        logs, began = set(root.glob("*/train.jsonl")), time.monotonic()
        with subprocess.Popen(
            [*command, "stages=[train]", f"seed={seed}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            watched = psutil.Process(process.pid)
            while process.poll() is None and not set(root.glob("*/train.jsonl")) - logs:
                time.sleep(POLL_SECONDS)
            times = watched.cpu_times()
            found.cpu.append(times.user + times.system)
            found.wall.append(time.monotonic() - began)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return found


def finished_command(root: Path, repetitions: int) -> Wait:
    """Time a command whose run, images, scores and tables are there already."""
    command = [sys.executable, "-m", "alignbench", *FINISHED, f"results={root}"]
    subprocess.run(command, check=True, capture_output=True)
    found = Wait([], [])
    for _ in range(repetitions):
        cpu, began = _cpu_of_children(), time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        found.cpu.append(_cpu_of_children() - cpu)
        found.wall.append(time.monotonic() - began)
    return found


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scoring_outside(root: Path, num_images: int, repetitions: int) -> list[float]:
    """Return the share of scoring images that is outside networks, 0..1, by the two CLIP networks of the miniatures.

    Prompts are encoded before. Shares are of time on the clock, which other programs lengthen inside and outside alike.
    """
    cfg = composed([])
    evaluators = [build(cfg.evaluators[name]) for name in ("shapes_clip", "shapes_preference")]
    texts, rng = prompts("heldout", num_images, seed=0), np.random.default_rng(0)
    files = [root / f"{number:05d}.png" for number in range(num_images)]
    for file, text in zip(files, texts, strict=True):
        Image.fromarray(candidate(parse(text), rng, fault_share=0.0, dirt_share=0.0)).save(file)
    shares = []
    for number in range(repetitions):
        samples, batch_size = Samples(tuple(files), tuple(texts)), cfg.sampling.batch_size
        measured = by_alignbench(evaluators, samples, batch_size, torch.device("cpu"), root / str(number))
        assert measured.network_seconds is not None
        assert measured.image_seconds is not None
        shares.append(1 - measured.network_seconds / measured.image_seconds)
    return shares


def report_seconds(root: Path, nums: Sequence[int], resamples: int) -> dict[int, float]:
    """Return CPU seconds of the report of base and so many methods, for each number."""
    found = {}
    for num in nums:
        write_runs(root / str(num), num, num_seeds=1)
        began = time.process_time()
        write_report(root / str(num), num_resamples=resamples)
        found[num] = time.process_time() - began
    return found
