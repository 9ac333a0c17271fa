"""Readers of what sweeps, searches, capsules, judge cards and looks leave, each with valid files to begin with.

Most of these files hold a digest of themselves, by which every accident is found. Somebody with bad intentions writes
the right digest, so readers here get it with each change.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.capsule.archive import ArchiveWriter
from alignbench.capsule.check import unpack
from alignbench.capsule.contents import CONTENTS, Contents, member_name
from alignbench.files import CHECK, with_check, without_check, write_json, write_json_lines, write_text
from alignbench.pairwise.canaries import canaries
from alignbench.pairwise.comparer import Verdict
from alignbench.report.cards.beside import agreement_text
from alignbench.stages.last_command import FILE, recall, remember
from alignbench.store.canary_answers import CanaryAnswers
from alignbench.store.cards import CARDS, read_card
from alignbench.store.image_records import PromptRecord, SamplingRecord, image_name, store_records
from alignbench.store.look_record import Look, LookPlan, LookRecord, look_file, read_looks, store_looks
from alignbench.store.manifest import Manifest
from alignbench.store.origin.capsule_record import RunContents
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.store.search_record import count_tried, write_trials
from alignbench.store.training_lock import Holder, lock_file, training_lock
from alignbench.sweeps.record import Cell, Sweep
from alignbench.sweeps.standing import standing_of
from alignbench.sweeps.state import CellFiles, State
from benchmarks.fuzz.reader import Reader


def _with_right_digest(file: Path) -> None:
    """Give a changed record the digest that its maker would give it, if it is still an object."""
    with suppress(ValueError, RecursionError):
        values = json.loads(file.read_bytes())
        if isinstance(values, dict):
            write_json(file, with_check(without_check(values)))


def _open(folder: Path, name: str, **values: Any) -> RunFolder:
    run = RunFolder(folder / name)
    run.open(
        Manifest(run=name, method="sft", model="sd15_mini", seed=0, config_hash="ab", recipe_hash="cd", **values)
    )  # fmt: skip
    return run


# ---- sweeps


def _sweep(folder: Path) -> Sweep:
    cells = [
        Cell("base", "base-0", ["method=base"], "base-sd15_mini-1", 0, is_base=True),
        Cell("seed=0", "1-seed0", ["method=sft", "seed=0"], "run", 20),
    ]
    sweep = Sweep("seed0_1-ab", ["-m", "method=sft", "seed=0,1"], "joblib", "/tmp", "2026-01-01", cells, "signed")
    sweep.write(folder)
    files = CellFiles(folder, sweep, cells[1])
    files.write(State("running", 1.0, 2.0, 1, 1, 0, "12", None, asdict(Holder.of_this_process())))
    write_json_lines(folder / "run" / "train.jsonl", [{"step": step} for step in range(5)])
    _open(folder, "run")
    return sweep


def _standing(folder: Path, changed: str) -> None:
    _with_right_digest(folder / changed)
    for row in standing_of(folder, Sweep.read(folder / SWEEP)):
        assert row.step is not None
        assert row.device_hours >= 0


SWEEP = "sweeps/seed0_1-ab.json"
OF_A_SWEEP = {"record of a sweep": SWEEP, "state of a cell": "sweeps/seed0_1-ab/1-seed0.json"}


def _lock(folder: Path) -> None:
    file = lock_file(folder / "run")
    file.parent.mkdir(parents=True)
    write_text(file, json.dumps(asdict(Holder.of_this_process()) | {"pid": 1}) + "\n")


def _take_lock(folder: Path) -> None:
    with training_lock(folder / "run"):
        pass


# ---- searches


def _trials(folder: Path) -> None:
    row = {"trial": 1, "state": "complete", "run": "r", "model": "m", "method": "dpo", "recipe": "ab"}
    row |= {"seconds": 1.0, "reason": None}
    write_trials(folder / "searches" / "s", ["win_rate:clip"], [row | {"win_rate:clip": 0.5}])


def _count_trials(folder: Path) -> None:
    from alignbench.errors import UserError

    for sentence in count_tried(folder)[1].values():
        raise UserError(sentence)


def _journal(folder: Path) -> None:
    from optuna.trial import TrialState

    from alignbench.statistics.resampling import Estimate

    found = _study(folder)
    for _ in range(2):
        trial = found.claim()
        assert trial is not None
        found.begin(trial, {"run": "r", "model": "m", "method": "dpo", "recipe": "ab"})
        found.report(trial, 0, 0.5)
        found.complete(trial, [Estimate(0.5, 0.4, 0.6)], 1.0)
    trial = found.claim()
    assert trial is not None
    found.end(trial, TrialState.FAIL, "no memory", 1.0)
    found.claim()


def _study(folder: Path) -> Any:
    from alignbench.search.objectives import Objective
    from alignbench.search.settings import SearchSettings
    from alignbench.search.space import split_words
    from alignbench.search.study import Study

    space = split_words(["train.learning_rate=log(1e-6,1e-2)", "method.beta=choice(250,500)"])[1]
    default = {"train.learning_rate": 1e-6, "method.beta": "250"}
    objectives = [Objective("win_rate", "clip", "1", True, 100.0)]
    return Study(folder / "s", {"recipe": "ab"}, space, objectives, SearchSettings(objective=["clip"]), default)


def _go_on_searching(folder: Path) -> None:
    found = _study(folder)
    found.write_table()
    found.best()
    found.held_elsewhere()
    found.next_values(found.trials())


# ---- judge cards, looks, canaries, last commands

CARD = f"{CARDS}/shapes_clip@1.json"


def _card(folder: Path) -> None:
    (folder / CARDS).mkdir()
    shutil.copy(Path(__file__).parents[2] / "results" / "published" / "mini_cards" / CARD, folder / CARD)


def _read_card(folder: Path) -> None:
    _with_right_digest(folder / CARD)
    card = read_card(folder / CARD)
    if card.lead is not None:
        agreement_text(card)


def _canaries(folder: Path) -> None:
    CanaryAnswers("w", "ab", tuple(Verdict.of_log_odds(0.5) for _ in canaries())).write(folder / "canaries.json")


def _read_canaries(folder: Path) -> None:
    _with_right_digest(folder / "canaries.json")
    CanaryAnswers.read(folder / "canaries.json")


def _looks(folder: Path) -> None:
    run = _open(folder, "run")
    plan = LookPlan("obrien_fleming", False, "clip", "1", "ab", 0, (4, 8, 12))
    store_looks(run, look_file(run, "shapes", "1a"), LookRecord(plan, (Look(0.5, 0.9, False),)))


def _read_looks(folder: Path) -> None:
    run = RunFolder(folder / "run")
    file = look_file(run, "shapes", "1a")
    changed = shutil.copy(file, folder / "changed.json")
    run.store(file, lambda path: os.replace(changed, path))
    record = read_looks(run, "shapes", "1a")
    assert record is not None
    record.plan.look_with(5)
    assert record.plan.boundaries is not None


def _settings(folder: Path) -> DictConfig:
    return OmegaConf.create({"results": str(folder), "seed": 0})


def _last_command(folder: Path) -> None:
    remember(_settings(folder), [_open(folder, "run")], "a table\n")


def _recall(folder: Path) -> None:
    _with_right_digest(folder / "run" / FILE)
    recall(_settings(folder), RunFolder(folder / "run"))


# ---- capsules

RUN = "sft-sd15_mini-ab"
OF_A_CAPSULE = {
    "manifest": "manifest.json",
    "configuration": "config.yaml",
    "training log": "train.jsonl",
    "prompts": "images/shapes/1a/prompts.jsonl",
    "sampling": "images/shapes/1a/sampling.json",
    "scores": "scores/shapes/1a/clip@1.parquet",
}


def _run_to_pack(folder: Path) -> RunFolder:
    run = _open(folder, RUN)
    records = [PromptRecord(f"p{i}", f"a cat {i}", ("g",), (image_name(f"p{i}", 0),)) for i in range(2)]
    images = run.images("shapes", "1a")
    images.mkdir(parents=True)
    sampling = SamplingRecord("shapes", 20, 4.0, "per_prompt", 0, 1, 2, subset=False)
    store_records(run, images, records, sampling)
    scores = Scores.of(ScoreInfo("clip", "1"), ["p0", "p1"], [0, 0], [0.5, 0.25], ["ab" * 16, "cd" * 16])
    run.store(run.scores("shapes", "1a") / "clip@1.parquet", scores.write)
    run.store(run.config_file, lambda file: write_text(file, "train: {learning_rate: 0.001}\n"))
    write_json_lines(run.train_log, [{"step": 1, "train/loss": 0.5}])
    run.complete("train", files=[run.train_log])
    return run


def _packed(path: Path, run: RunFolder) -> None:
    """Write a capsule of whatever a run folder holds, with the right digests of it."""
    with path.open("wb") as file:
        archive = ArchiveWriter(file)
        found = {inside: archive.add_file(member_name(RUN, inside), run.path / inside) for inside in _files(run)}
        archive.add(CONTENTS, Contents(runs={RUN: RunContents(found)}).text())
        archive.close()


def _files(run: RunFolder) -> list[str]:
    found = [file for file in run.path.rglob("*") if file.is_file() and not file.name.startswith(".")]  # no locks
    return sorted(file.relative_to(run.path).as_posix() for file in found)


def _unpack(folder: Path) -> None:
    shutil.rmtree(folder / "unpacked", ignore_errors=True)
    unpack(folder / "a.tar", folder / "unpacked")


def _capsule(folder: Path) -> None:
    run = _run_to_pack(folder)
    _packed(folder / "a.tar", run)
    shutil.rmtree(run.path)


def _forge(file: str) -> Callable[[Path], None]:
    """Return what packs a run with a changed file, of which manifest and capsule have the digest, and reads it."""

    def read(folder: Path) -> None:
        run = RunFolder(folder / RUN)
        if file == "manifest.json":
            _with_right_digest(run.manifest_file)
        else:
            values = _manifest(folder)
            digest = hashlib.sha256((run.path / file).read_bytes()).hexdigest()
            write_json(run.manifest_file, with_check(values | {"files": values["files"] | {file: digest}}))
        _packed(folder / "a.tar", run)
        _unpack(folder)

    return read


@cache
def _manifest(folder: Path) -> dict[str, Any]:
    values = json.loads((folder / RUN / "manifest.json").read_bytes())
    return {key: value for key, value in values.items() if key != CHECK}


def of_commands() -> Iterator[Reader]:
    for name, file in OF_A_SWEEP.items():
        yield Reader(name, file, _sweep, lambda folder, file=file: _standing(folder, file))
    for name in ("train.jsonl", "manifest.json"):
        yield Reader(f"{name} of a cell", f"run/{name}", _sweep, lambda folder: _standing(folder, SWEEP))
    yield Reader("training lock", ".locks/run.json", _lock, _take_lock)
    yield Reader("trials.csv", "searches/s/trials.csv", _trials, _count_trials)
    yield Reader("journal of a search", "s/study.jsonl", _journal, _go_on_searching)
    yield Reader("judge card", CARD, _card, _read_card)
    yield Reader("canary answers", "canaries.json", _canaries, _read_canaries)
    yield Reader("looks", "run/looks/shapes/1a.json", _looks, _read_looks)
    yield Reader("last command", f"run/{FILE}", _last_command, _recall)
    yield Reader("capsule", "a.tar", _capsule, _unpack)
    for name, file in OF_A_CAPSULE.items():
        yield Reader(f"{name} of a capsule", f"{RUN}/{file}", _run_to_pack, _forge(file))
