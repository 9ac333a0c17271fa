"""What version 0.1.0 left on the disk is read, reported and continued; see tests/fixtures/v0_1_0/README.md."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.export import export
from alignbench.models.adapter import ModelAdapter
from alignbench.reading import read_json_lines
from alignbench.report.write import write_report
from alignbench.stages.job import run
from alignbench.stages.prepare import Preparation
from alignbench.stages.trained_weights import find_source
from alignbench.store.image_records import read_prompts
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores
from alignbench.train_reward.run import train_reward
from evaluators import load

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
SMALL = (
    "model=sd15_mini data.num_pairs=8 data.num_prompts=8 prompts.limit=8 sampling.num_inference_steps=2 tracker=none "
    "train.tuning=lora train.lora_rank=2 train.total_batch_size=4 train.micro_batch_size=2 "
    "~evaluators.shapes_oracle_agreement"
)
SMPO = f"method=smpo train.max_train_steps=2 train.learning_rate=1.0e-3 {SMALL}"
KTO = (
    f"method=kto method.q_mode=ema train.max_train_steps=4 train.checkpointing_steps=2 {SMALL} "
    "validation=shapes validation.prompts.limit=4 validation.every=2 validation.select=[shapes_annotators]"
)
JUDGE = (
    "judge=head judge.hidden=8 data.num_pairs=96 data.num_prompts=64 train.max_train_steps=4 "
    "train.evaluation_steps=2 train.total_batch_size=8 train.micro_batch_size=8"
)
TABLES = ("leaderboard.csv", "win_rates.csv", "ranking.csv", "diagnostics.csv")
P_VALUES = ("p_win", "p_gain", "p")
SMPO_RUN, KTO_RUN = "smpo-sd15_mini-e4ffb7e7a5", "kto-sd15_mini-206538398e"
JUDGE_NAME = "head-shapes-b8d19b53da"


@pytest.fixture
def results(tmp_path):
    """A copy of the results folder, to be written to."""
    return shutil.copytree(FIXTURE / "results", tmp_path / "results")


def command(text, results, program="config", **settings):
    settings = {"results": results, **settings}
    return composed([*text.split(), *(f"{key}={value}" for key, value in settings.items())], program)


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and not file.name.endswith(".lock")}


def test_the_tables_have_the_same_figures(results):
    """All but the p-values, which are over training seeds since, and what only tables of today have.

    Image statistics of version 2 are measured on the way and have rows of their own; those of version 1 are the same.
    """
    for name in TABLES:
        (results / name).unlink()
    before = contents(results)
    write_report(results)
    after = contents(results)
    statistics = {file for file in before if "statistics" in file.parts}
    kept = before.keys() - statistics
    assert {file: after[file] for file in kept} == {file: before[file] for file in kept}  # nothing is scored again
    for name in TABLES:
        then, now = (list(csv.DictReader(path.open())) for path in (FIXTURE / "results" / name, results / name))
        now = [row for row in now if not (row.get("kind") == "image" and row["version"] == "2")]
        for old, new in zip(then, now, strict=True):
            kept = {column: cell for column, cell in old.items() if column not in P_VALUES}
            assert {column: new[column] for column in kept} == kept, name


def test_the_command_of_a_finished_run_finds_everything_done(results, capsys):
    before = contents(results / SMPO_RUN) | contents(results / "base-sd15_mini-ae915fe28c")
    overrides = {"+evaluator@evaluators.judge": "judge", "evaluators.judge.path": results / "judges" / JUDGE_NAME}
    run(command(SMPO, results, stages="[prepare,train,generate,score]", **overrides))
    printed = capsys.readouterr().out
    assert "train: done before" in printed
    assert "generate: done before" in printed
    assert contents(results / SMPO_RUN) | contents(results / "base-sd15_mini-ae915fe28c") == before
    assert {path.name for path in results.iterdir()} == {path.name for path in (FIXTURE / "results").iterdir()}


def test_encoded_training_data_are_found_where_they_would_be_encoded_alike(results, monkeypatch):
    """Each was encoded alone, which the miniatures of today are not."""
    cfg = command(SMPO, results)

    def left_out():
        terms = [(build(cfg.method), build(cfg.data))]
        return Preparation(cfg, terms, results / "cache", torch.device("cpu")).left_out()

    assert left_out() == []
    monkeypatch.setattr(ModelAdapter, "prompts_per_call", 1)
    monkeypatch.setattr(ModelAdapter, "images_per_call", 1)
    assert left_out() == ["text_encoder", "vae"]


def test_a_finished_run_is_exported(results, tmp_path):
    export(find_source(str(results / SMPO_RUN), []), "lora", tmp_path / "exported")
    file = "pytorch_lora_weights.safetensors"
    exported, trained = load_file(tmp_path / "exported" / file), load_file(results / SMPO_RUN / "policy" / file)
    assert exported.keys() == trained.keys()
    assert all(exported[name].equal(trained[name]) for name in trained)


def test_a_killed_run_goes_on_from_its_checkpoint(results, capsys):
    folder = RunFolder(results / KTO_RUN)
    first = folder.train_log.read_text()
    run(command(KTO, results, stages="[train]"))
    assert "train: done before" not in capsys.readouterr().out
    assert folder.train_log.read_text().startswith(first)
    assert folder.completed("train")
    assert not folder.checkpoints.exists()
    found, expected = read_json_lines(folder.train_log), read_json_lines(FIXTURE / "continued" / "train.jsonl")
    for name in ("step", "loss", "error", "ref_error", "grad_norm", "lr"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=1e-3), name
    looks = folder.validation_table.read_text().splitlines()
    first_looks = (FIXTURE / "results" / KTO_RUN / "validation.csv").read_text().splitlines()
    # they were kept in the checkpoint; the columns of network passes and of the mean are new
    assert [look.rsplit(",", 2)[0] for look in looks[: len(first_looks)]] == first_looks
    assert len(looks) == len((FIXTURE / "continued" / "validation.csv").read_text().splitlines())


def test_a_judge_is_found_done(results, capsys):
    record = train_reward(command(JUDGE, results, "train_reward"))
    assert "done before" in capsys.readouterr().out
    assert record.name == JUDGE_NAME


def test_a_judge_scores_as_it_did(results):
    place = ("shapes", "7e41585c22")
    folder = RunFolder(results / SMPO_RUN)
    expected = Scores.read(folder.score_file(*place, JUDGE_NAME, "1"))
    prompts = {record.prompt_id: record for record in read_prompts(folder.images(*place))}
    files = [folder.images(*place) / prompts[name].images[0] for name in expected.prompt_id]
    reward_model = load("judge", path=results / "judges" / JUDGE_NAME)
    scores = reward_model.score(files, [prompts[name].prompt for name in expected.prompt_id])
    assert scores.tolist() == pytest.approx(expected.score.tolist(), abs=1e-4)


def test_a_judge_is_a_reward(results):
    cfg = command("method=srpo reward=judge", results, **{"reward.path": results / "judges" / JUDGE_NAME})
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    build(cfg.reward).reward(pixels, ["a red circle", "a blue cross"]).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
