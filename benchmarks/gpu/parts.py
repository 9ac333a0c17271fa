"""The parts of the GPU benchmark in the order of their worth, each with the time it is expected to take."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from alignbench.training import train as loop
from alignbench.training.parallel import Sharded
from benchmarks import scoring
from benchmarks.gpu.runner import Figures, Part, Scale
from benchmarks.memory_and_speed import WarmUp, matmul_rate, measure

ROOT = Path(__file__).resolve().parents[2]

# ---- what a device does at best


def rates(scale: Scale) -> Figures:
    """Return the rates of large matrix products, in TFLOP/s, and of copies on the device, in GB/s."""
    device, side = (torch.device("cuda"), 8192) if scale == "full" else (torch.device("cpu"), 128)
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    found = {str(dtype).removeprefix("torch."): matmul_rate(device, dtype, side) / 1e12 for dtype in dtypes}
    torch.backends.cuda.matmul.allow_tf32 = True
    found["tf32"] = matmul_rate(device, torch.float32, side) / 1e12
    return {"matmul_tflops": found, "copy_gb_per_second": _copy_rate(device, side)}


def _copy_rate(device: torch.device, side: int) -> float:
    """Return the bytes that are read and written a second, the best of ten copies."""
    source = torch.zeros(side, side, 8, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(10):
        began = time.monotonic()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - began)
    return 2 * source.nbytes / min(seconds) / 1e9


# ---- training

TINY = {  # settings that fit samplings and inversions of two steps
    "nft": ("method.levels.num=1", "method.levels.first=0", "method.levels.stop=2"),
    "smpo": ("method.inversion.num_steps=2",),
}


def training(
    name: str,
    seconds: float,
    model: str,
    method: str,
    *overrides: str,
    tuning: str | None = None,
    from_caches: bool = False,
    stated_gib: float | None = None,
    engine: Callable[[], AbstractContextManager[None]] = nullcontext,
    steps: int = 1,
    warm_up: WarmUp = "counted",
    needs_gpu: bool = False,
) -> Part:
    """Return a part that measures updates by `benchmarks.memory_and_speed`.

    Args:
        stated_gib: the peak of memory that docs/gpu_recipes.md states.
        engine: within which the training runs.
        steps: updates that are timed.
        warm_up: as for `benchmarks.memory_and_speed.measure`.
    """

    def figures(scale: Scale) -> Figures:
        words = [*overrides, *(TINY.get(method, ()) if scale == "tiny" else ())]
        with engine():
            found = measure(model, method, scale, tuning, steps, words, from_caches, warm_up)
        return found | {"overrides": words} | ({} if stated_gib is None else {"stated_gib": stated_gib})

    return Part(name, seconds, figures, needs_gpu)


@contextmanager
def one_process() -> Iterator[None]:
    """Be what a launcher starts, alone: on a GPU the network is wrapped by DDP, on a CPU there is just a group."""
    with tempfile.TemporaryDirectory() as folder:
        launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        with patch.dict(os.environ, launched | {"MASTER_PORT": "29511"}):
            if not torch.cuda.is_available():
                torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=0, world_size=1)
            yield


@contextmanager
def sharded() -> Iterator[None]:
    """Let FSDP2 hold the networks in one shard, which the launcher refuses as there is nothing to gain."""
    with one_process(), patch.object(loop, "join", Sharded):
        yield


# ---- scores and tests


def scores(scale: Scale) -> Figures:
    """Return what `benchmarks.scoring` finds: this program against one image a call, as the published code is used."""
    words = ["--evaluators", "pickscore", "aesthetic"]
    if scale == "full":
        words += ["--images", "256", "--others", "32", "--batch-size", "64"]
        words += ["--device", "cuda", "--precision", "bfloat16"]
    else:
        words += ["--images", "3", "--size", "64", "--reduced"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scoring.json")
        with patch.object(sys, "argv", ["scoring", "--weights", folder, "--json", str(file), *words]):
            scoring.main()
        found = json.loads(file.read_text())
    rows = [{key: value for key, value in row.items() if key != "scores"} for row in found["measured"]]
    return {"measured": rows, "moved_by_precision": found["moved_by_precision"]}


def cuda_tests(scale: Scale) -> Figures:
    """Return how the tests went that need a CUDA device; elsewhere all are skipped."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "cuda", "tests/cuda"]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(ended.stdout)
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", ended.stdout.strip().rpartition("\n")[2])
    return {"exit_status": ended.returncode, **{word: int(number) for number, word in counts}}


# ---- in which order

VOTES = "method.labels=votes"  # the pairs have labels, so no scorer works
GROUP = ("method.group_size=2", "method.rollout_batch_size=1")


def total(num: int) -> str:
    """Return the setting of the samples of an update: those of the recipes are too many for a few minutes."""
    return f"train.total_batch_size={num}"


def recipe(name: str, seconds: float, stated_gib: float, model: str, method: str, *overrides: str, **more: Any) -> Part:
    """Return a part for a 24 GB recipe of docs/gpu_recipes.md."""
    return training(f"24gb_{name}", seconds, model, method, *overrides, stated_gib=stated_gib, **more)


PARTS: Sequence[Part] = (
    Part("rates", 10, rates),
    training("flux_srpo_lora", 70, "flux", "srpo", total(2), tuning="lora"),
    training(
        "flux_srpo_full", 80, "flux", "srpo", total(2), "memory=[bf16_stochastic,checkpointing]", tuning="full"
    ),
    training("sdxl_dpo", 35, "sdxl", "dpo", total(16), from_caches=True),
    training("sdxl_smpo", 45, "sdxl", "smpo", total(8), VOTES, from_caches=True),
    training("sd15_dpo", 25, "sd15", "dpo", total(64), from_caches=True),
    training("sd15_smpo", 30, "sd15", "smpo", total(32), VOTES, from_caches=True),
    training("sd3_nft", 50, "sd3", "nft", total(8), "method.group_size=2", "train.micro_batch_size=8"),
    Part("cuda_tests", 60, cuda_tests),
    Part("scoring", 90, scores),
    training("flux_dpo", 35, "flux", "dpo", total(4), from_caches=True),
    training(
        "flux_dpo_cudnn_attention", 35, "flux", "dpo", total(4), "train.attention_backend=_native_cudnn",
        from_caches=True, needs_gpu=True,
    ),
    training(
        "sdxl_dpo_compiled", 150, "sdxl", "dpo", total(16), "train.compile=true", from_caches=True, warm_up="plain",
        needs_gpu=True,
    ),
    recipe("flux_dpo", 60, 20.2, "flux", "dpo", total(1), "memory=base_8bit", from_caches=True),
    recipe("flux_nft", 65, 19.9, "flux", "nft", total(2), *GROUP, "memory=base_8bit", "train.micro_batch_size=1"),
    recipe("sdxl_dpo", 25, 18.3, "sdxl", "dpo", total(2), "memory=bf16_stochastic", from_caches=True),
    recipe("sdxl_nft", 40, 20.3, "sdxl", "nft", total(2), *GROUP, "train.micro_batch_size=1"),
    recipe("sd15_dpo", 20, 20.5, "sd15", "dpo", total(1), "train.micro_batch_size=1", from_caches=True),
    recipe(
        "sd15_srpo", 30, 17.5, "sd15", "srpo", total(1), "memory=[checkpointing,bf16_stochastic]",
        "train.micro_batch_size=1",
    ),
    training("sdxl_dpo_ddp", 35, "sdxl", "dpo", total(16), from_caches=True, engine=one_process),
    training(
        "sdxl_dpo_fsdp2", 45, "sdxl", "dpo", total(16), from_caches=True, engine=sharded, steps=4, warm_up="none"
    ),
    training(
        "flux_dpo_flash_attention", 35, "flux", "dpo", total(4), "train.attention_backend=_native_flash",
        from_caches=True, needs_gpu=True,
    ),
)  # fmt: skip
