"""One byte changed at a random place of a file that a later stage reads: found and named, or without any effect.

A small results folder is made first, in some minutes: two trained runs with validation, their base, a reward model,
caches, a study and checkpoints.
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from alignbench.configuration.compose import composed
from alignbench.data.storage.tensor_store import TensorStore
from alignbench.errors import UserError
from alignbench.files import cache_folder, file_digest
from alignbench.report.diagnostics import diagnose
from alignbench.report.readable import readable
from alignbench.report.tables import build
from alignbench.scoring.calibration import RECORD, read_entry, read_values
from alignbench.stages.job import run
from alignbench.store.checkpoint_files import checkpoint_steps, damaged_file
from alignbench.store.reward_model_folder import RewardModelRecord, read_range, read_tensors
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.store.training_data import read_reward_model_data
from alignbench.train_reward.run import train_reward
from alignbench.training.checkpoint import Checkpoints, Counters
from benchmarks.fuzz.worker import FAILED, MAX_KEPT, Count, outcome

SMALL = (
    "model=sd15_mini data.num_pairs=8 data.num_prompts=8 prompts.limit=8 sampling.num_inference_steps=2 tracker=none "
    "train.tuning=lora train.lora_rank=2 train.total_batch_size=4 train.micro_batch_size=2 train.max_train_steps=2"
)
RUNS = (
    f"method=dpo {SMALL} validation=shapes validation.prompts.limit=4 validation.every=1",
    f"method=sft {SMALL} stages=[prepare,train,generate,score,report]",
)
JUDGE = (
    "judge=head judge.hidden=8 data.num_pairs=96 data.num_prompts=64 train.max_train_steps=4 "
    "train.evaluation_steps=2 train.total_batch_size=8 train.micro_batch_size=8"
)
NUM_RESAMPLES = 20


@dataclass(frozen=True)
class Kind:
    """Files of one kind, and what is read of them.

    Attributes:
        observe: returns what later stages learn from the files, given the one that may be changed.
    """

    name: str
    files: list[Path]
    observe: Callable[[Path], Any]


def changed_bytes(
    place: Path, num_changes: int, seed: int, until: float, told: Callable[[Count, bool], None]
) -> list[Count]:
    """Change bytes, the same number for each kind of file; return what came of it."""
    root = place / "results"
    made(root)
    kinds = [one for one in all_kinds(root) if one.files]
    counts = []
    for number, kind in enumerate(kinds):
        count, begin = Count(f"a byte of {kind.name}"), time.monotonic()
        truths: dict[Path, Any] = {}
        for change in range(-(-num_changes // len(kinds))):
            if time.monotonic() > until:
                break
            draw = random.Random(f"{seed}/{kind.name}/{change}")
            _try(kind, draw, truths, count, change)
        count.seconds = time.monotonic() - begin
        counts.append(count)
        told(count, number == 0)
    return counts


def made(root: Path) -> None:
    """Make the results folder."""
    for words in RUNS:
        run(composed([*words.split(), f"results={root}"]))
    train_reward(composed([*JUDGE.split(), f"results={root}"], "train_reward"))
    network = torch.nn.Linear(8, 8)
    progress = Counters()
    checkpoints = Checkpoints(root / "checkpoints", Accelerator(cpu=True), progress, {"policy": network}, {})
    for step in (1, 2):
        progress.step = step
        checkpoints.save()
    for one in run_folders(root):
        one.check_policy()  # so that the digests of its files are noted


def _try(kind: Kind, draw: random.Random, truths: dict[Path, Any], count: Count, number: int) -> None:
    file = draw.choice(kind.files)
    content = file.read_bytes()
    if not content:
        return
    if file not in truths:
        truths[file] = kind.observe(file)
    place = draw.randrange(len(content))
    changed = bytes([content[place] ^ draw.randrange(1, 256)])
    file.write_bytes(content[:place] + changed + content[place + 1 :])
    seen: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result, text = outcome(lambda: seen.append(kind.observe(file)))
    if seen and not _same(seen[0], truths[file]):
        result, text = FAILED, "another result, and not a word"
    count.tried += 1
    count.read += bool(seen) and result != FAILED
    count.refused += not seen and result != FAILED
    count.tracebacks += result == FAILED
    if result == FAILED and len(count.failures) < MAX_KEPT:
        count.failures[number] = f"byte {place} of {file}: {text}"
    file.write_bytes(content)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.equal(other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other or (one != one and other != other))  # NaN


# ---- kinds of files


def all_kinds(root: Path) -> Iterator[Kind]:
    """Yield every kind of file that a later stage reads."""
    runs = [one.path for one in run_folders(root)]

    def of_runs(pattern: str) -> list[Path]:
        return sorted(file for one in runs for file in one.glob(pattern) if file.is_file())

    for name, pattern in (
        ("manifest.json", "manifest.json"), ("config.yaml", "config.yaml"), ("train.jsonl", "train.jsonl"),
        ("validation.csv", "validation.csv"), ("training_data.npy", "training_data.npy"),
        ("images", "images/*/*/*.png"), ("prompts.jsonl", "images/*/*/prompts.jsonl"),
        ("sampling.json", "images/*/*/sampling.json"), ("scores", "scores/*/*/*.parquet"),
        ("statistics", "statistics/*/*.parquet"), ("what validation keeps", "validation/**/*.p*"),
    ):  # fmt: skip
        yield Kind(name, of_runs(pattern), lambda file: _report(root, file))
    yield Kind("policies", of_runs("policy/**/*"), _policy)
    yield Kind("checkpoints", _files(root / "checkpoints"), lambda _: _checkpoint(root / "checkpoints"))
    caches = [
        file for kind in ("prompts", "latents") for file in _files(root / "cache" / kind) if file.suffix != ".json"
    ]
    yield Kind("caches of prompts and latents", caches, _entries)
    yield Kind("calibration.json", [root / RECORD], _calibration)
    yield Kind("reward model", _files(root / "judges"), lambda _: _reward_model(root))
    notes = sorted((cache_folder() / "digests").glob("*.json"))
    yield Kind("notes of digests", notes, lambda _: [file_digest(file) for file in of_runs("policy/**/*")])


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def _report(root: Path, file: Path) -> Any:
    """Return all figures of the report, with a refusal where a run is left out; other runs have to be there."""
    found = readable(root, with_images=True)
    own = file.relative_to(root).parts[0]
    for name, reason in found.left_out.items():
        if name != own or file.name not in reason:
            raise AssertionError(f"{name} is left out: {reason}")
        raise UserError(reason)
    tables = build(root, NUM_RESAMPLES, found.runs, found.studies)
    tables = replace(tables, diagnostics=diagnose(root, tables, NUM_RESAMPLES))
    curves = [Path(one.train_log).read_bytes() for one in found.runs if one.train_log.exists()]
    return [tables.leaderboard, tables.win_rates, tables.ranking, tables.diagnostics, tables.labels, curves]


def _policy(file: Path) -> str:
    folder = next(parent for parent in file.parents if (parent / "manifest.json").exists())
    RunFolder(folder).check_policy()
    return "as written"


def _checkpoint(folder: Path) -> Any:
    for step in reversed(checkpoint_steps(folder)):
        if (file := damaged_file(folder / f"step-{step}")) is not None:
            raise UserError(f"{file} is damaged")
    return "as written"


def _entries(file: Path) -> Any:
    """Return the entries of a cache; a damaged file is deleted, and its entries are made again."""
    store = TensorStore(file.parent)
    found = store.read([key.tobytes() for key in store._keys])
    if not file.exists():
        raise UserError(f"{file} is damaged")
    return {key.tobytes(): entry for key, entry in zip(store._keys, found, strict=True)}


def _calibration(file: Path) -> Any:
    return {key: read_entry(file, key) for key in read_values(file)}


def _reward_model(root: Path) -> Any:
    (folder,) = (root / "judges").glob("[!.]*")  # beside the locks
    record = RewardModelRecord.read(folder)
    where = read_range(folder)
    learned = read_reward_model_data(folder)
    return [vars(record), dict(read_tensors(folder)), where and where.tensors(), learned.name, learned.training_data]
