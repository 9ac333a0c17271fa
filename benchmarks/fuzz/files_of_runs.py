"""Readers of what runs and studies leave, each with valid files to begin with."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from alignbench.configuration.run_config import read_plain_config, read_run_config
from alignbench.data.storage.tensor_store import TensorStore, key_of
from alignbench.files import append_json_lines, with_check, write_json, write_json_lines, write_text
from alignbench.images import decoded
from alignbench.pairwise.comparer import Verdict
from alignbench.report.columns import LEADERBOARD_COLUMNS, read_table
from alignbench.report.curves.read import read_curves, read_validation
from alignbench.scoring.calibration import RECORD, read_values
from alignbench.scoring.partial_scores import ScoreTable
from alignbench.statistics.image_statistics import image_statistics
from alignbench.store.checkpoint_files import damaged_file
from alignbench.store.image_records import (
    PromptRecord,
    SamplingRecord,
    read_sampling,
    write_prompts,
    write_sampling,
)
from alignbench.store.image_records import (
    read_prompts as read_records,
)
from alignbench.store.image_statistics_table import ImageToMeasure, measured
from alignbench.store.manifest import Budget, Manifest
from alignbench.store.origin.soup_record import Parent, SoupRecord
from alignbench.store.reward_model_folder import RewardModelRecord
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores, digest_of
from alignbench.store.training_data import digests, encoded, read_digests
from alignbench.store.verdicts import Judged, VerdictFile, judged_pairs
from alignbench.votes.ballots import Ballots, Vote
from alignbench.votes.preferences import count
from alignbench.votes.record import Study, StudyFolder
from benchmarks.fuzz.files_of_users import write_images
from benchmarks.fuzz.reader import Reader

# ---- what runs leave


def _manifest(folder: Path) -> RunFolder:
    run = RunFolder(folder / "run")
    run.open(
        Manifest(
            run="run", method="dpo", model="sd15_mini", seed=0, config_hash="ab", recipe_hash="cd", trained_on=["clip"],
            fingerprints={"data": "12"}, start_weights={"unet": "ab"}, budget=Budget(optimizer_steps=5),
            image_costs={"shapes/1a": {"network_passes": 20, "seconds": 0.5}}, selected_step=5,
        )
    )  # fmt: skip
    values = json.loads(run.manifest_file.read_text())
    del values["check"]  # with it, every change is found by it
    write_json(run.manifest_file, values)
    return run


def _statistics(folder: Path) -> dict[tuple[str, int], ImageToMeasure]:
    file = folder / "run" / "statistics" / "set" / "1a.parquet"
    image = folder / "0.png"
    if not image.exists():
        write_images(folder)
    shown = {("p", 0): ImageToMeasure(image, digest_of(image))}
    found = measured(file, shown)
    assert found["p", 0] == image_statistics(np.asarray(decoded(image.read_bytes()))) or True
    return shown


SCORE_INFO = ScoreInfo("clip", "1")


def _scores(folder: Path) -> None:
    Scores.of(SCORE_INFO, ["a", "b"], [0, 0], [0.5, 0.25], ["ab", "cd"]).write(folder / "clip@1.parquet")


def _part(folder: Path) -> None:
    run = _manifest(folder)
    lines = [asdict(SCORE_INFO), {"prompt_id": "a", "image": 0, "score": 0.5, "digest": "ab"}]
    append_json_lines(run.scores("set", "1a") / "parts" / "clip@1" / "0.jsonl", lines)


def _store(folder: Path) -> None:
    store = TensorStore(folder)
    store.add(
        {
            key_of(str(i)): {"a": torch.full((2, 3), float(i)), "b": torch.ones(4, dtype=torch.bfloat16)}
            for i in range(4)
        }
    )
    (file,) = folder.glob("*.safetensors")
    file.rename(folder / "shard.safetensors")


def _read_store(folder: Path) -> None:
    for i, entry in enumerate(TensorStore(folder).read([key_of(str(i)) for i in range(4)])):
        assert entry is None or entry["a"].equal(torch.full((2, 3), float(i)))


def _judge(folder: Path) -> None:
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    record = RewardModelRecord(
        name="taste", judge={"kind": "head"}, start={"evaluator": "x", "version": "1", "weights": "", "node": {}},
        calibrated_on="scenes", judged_by=[], data={"name": "a", "fingerprint": "b"}, figures={"accuracy": 0.5},
        training={"seed": 0}, config={}, package_versions={"torch": "2"}, commit=None,
    )  # fmt: skip
    write_json(folder / "config.json", asdict(record))


def _soup(folder: Path) -> None:
    SoupRecord(
        [Parent("run", "dpo", 0.5, "x", "ab"), Parent("b", "sft", 0.5, "y", "cd")], ["clip"], digests(["a"])
    ).write(folder)


def _leaderboard(folder: Path) -> None:
    cells = dict.fromkeys(LEADERBOARD_COLUMNS, "1") | {"subset": "True", "trained_on": "False", "method": "dpo"}
    write_text(folder / "leaderboard.csv", f"{','.join(cells)}\n{','.join(cells.values())}\n")


EXPORTED = "config.yaml of an exported run"  # takes seconds, as the shipped configuration is composed


def _config(folder: Path) -> None:
    from omegaconf import OmegaConf

    from alignbench.configuration.compose import composed

    cfg = composed(["method=dpo", "model=sd15_mini"])
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def of_runs() -> Iterator[Reader]:
    logged = [{"step": i, "train/loss": 1.0 / (i + 1), "lr": 1e-4, "name": "x"} for i in range(5)]
    looks = "step,evaluator,version,win_rate,ci_low,ci_high,network_passes\n"
    looks += "0,clip,1,0.5,0.4,0.6,10\n20,clip,1,0.6,0.5,0.7,\n"
    sampling = SamplingRecord("shapes", 20, 4.0, "per_prompt", 0, 1, 4, subset=False)
    values = {"clip@1": with_check({"info": asdict(SCORE_INFO), "libraries": {"torch": "2"}, "outcome": "as before",
                                    "largest_difference": 0.0, "values": [0.5, 0.25]})}  # fmt: skip
    yield Reader("manifest.json", "run/manifest.json", _manifest, lambda folder: RunFolder(folder / "run").manifest)
    yield Reader("config.yaml", "config.yaml", _config, lambda folder: read_plain_config(folder / "config.yaml"))
    yield Reader(EXPORTED, "config.yaml", _config, lambda folder: read_run_config(folder / "config.yaml"))
    yield Reader(
        "prompts of images",
        "prompts.jsonl",
        lambda folder: write_prompts(folder, [PromptRecord("a", "text", ("g",), ("a-0.png",))]),
        read_records,
    )
    yield Reader("sampling.json", "sampling.json", lambda folder: write_sampling(folder, sampling), read_sampling)
    yield Reader("scores", "clip@1.parquet", _scores, lambda folder: Scores.read(folder / "clip@1.parquet"))
    yield Reader(
        "part of scores",
        "run/scores/set/1a/parts/clip@1/0.jsonl",
        _part,
        lambda folder: ScoreTable(RunFolder(folder / "run"), "set", "1a", SCORE_INFO).finish([]),
    )
    yield Reader("statistics", "run/statistics/set/1a.parquet", _statistics, _statistics)
    yield Reader(
        "training_data.npy",
        "training_data.npy",
        lambda folder: (folder / "training_data.npy").write_bytes(encoded(digests("abcd"))),
        lambda folder: read_digests(folder / "training_data.npy"),
    )
    yield Reader(
        "train.jsonl",
        "train.jsonl",
        lambda folder: write_json_lines(folder / "train.jsonl", logged),
        lambda folder: read_curves(folder / "train.jsonl"),
    )
    yield Reader(
        "validation.csv",
        "validation.csv",
        lambda folder: write_text(folder / "validation.csv", looks),
        lambda folder: read_validation(folder / "validation.csv"),
    )
    yield Reader(
        "calibration.json",
        RECORD,
        lambda folder: write_json(folder / RECORD, values),
        lambda folder: read_values(folder / RECORD),
    )
    yield Reader("reward model", "config.json", _judge, RewardModelRecord.read)
    yield Reader("soup.json", "soup.json", _soup, SoupRecord.read)
    yield Reader("tensor store", "shard.safetensors", _store, _read_store)
    yield Reader(
        "digests.json", "digests.json", lambda folder: write_json(folder / "digests.json", {"a": "b"}), damaged_file
    )
    yield Reader(
        "leaderboard.csv", "leaderboard.csv", _leaderboard, lambda folder: read_table(folder / "leaderboard.csv")
    )


# ---- studies and comparers


def _study(folder: Path) -> None:
    path = folder / "studies" / "s"
    path.mkdir(parents=True)
    study = Study(
        "s", "smpo", "sd15_mini", "shapes", "1a", ("a", "b"), ("p0", "p1"), "all", None, 2, 0.5, 0, {"a": "x", "b": "y"}
    )
    write_json(path / "study.json", asdict(study))
    ballots = Ballots(path / "study.sqlite")
    rater = ballots.join("somebody")
    question = study.protocol.questions[0].name
    for number, prompt in enumerate(study.prompts):
        ballots.cast(
            Vote(rater.rater, number, question, prompt, "a", "b", None, None, study.protocol.choices[0].answer)
        )
    ballots._connection.execute("PRAGMA journal_mode = DELETE")
    ballots.close()


def _count(folder: Path) -> None:
    for journal in ("study.sqlite-wal", "study.sqlite-shm"):
        (folder / "studies" / "s" / journal).unlink(missing_ok=True)
    count(StudyFolder(folder / "studies" / "s"))


VERDICTS = "comparisons/set/1a/judge@1.jsonl"


def _verdicts(folder: Path) -> None:
    verdict = Verdict.of_log_odds(0.5, tokens=(3, 1), seconds=0.25, raw="A", answered_by="m")
    lines = [Judged("p", "a cat", 0, "a", "b", "12", "34", a_first, "w", verdict) for a_first in (True, False)]
    append_json_lines(folder / VERDICTS, map(asdict, lines))  # without the digests that would find every change


def of_studies() -> Iterator[Reader]:
    yield Reader(
        "study.json", "studies/s/study.json", _study, lambda folder: count(StudyFolder(folder / "studies" / "s"))
    )
    yield Reader("study.sqlite", "studies/s/study.sqlite", _study, _count)
    yield Reader(
        "verdicts",
        VERDICTS,
        _verdicts,
        lambda folder: judged_pairs(VerdictFile(folder / VERDICTS).read_latest()),
    )
