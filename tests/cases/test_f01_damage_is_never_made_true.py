"""F1: a file that a run has noted is checked before its content goes anywhere, so no damage gets a fresh digest."""

import json
import os
import shutil
from pathlib import Path

import pytest

from alignbench.files import CHECK, write_json_lines, write_text
from alignbench.generation.generate import Sampling
from alignbench.reading import read_json_lines
from alignbench.scoring.partial_scores import Entry, ScoreTable
from alignbench.store.image_records import read_prompts, read_sampling
from alignbench.store.manifest import Manifest, ResultsError
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.work_share import WorkShare
from tests.program import alignbench

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "results"
PLACE = ("shapes", "7e41585c22")
SMPO = "smpo-sd15_mini-e4ffb7e7a5"
COMMAND = (
    "method=smpo train.max_train_steps=2 train.learning_rate=1.0e-3 model=sd15_mini data.num_pairs=8 "
    "data.num_prompts=8 sampling.num_inference_steps=2 tracker=none train.tuning=lora train.lora_rank=2 "
    "train.total_batch_size=4 train.micro_batch_size=2 ~evaluators.shapes_oracle_agreement"
)


@pytest.fixture
def results(tmp_path):
    return shutil.copytree(FIXTURE, tmp_path / "results")


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "results" / "run")
    folder.open(Manifest("run", "dpo", "sd15_mini", 0, "hash", "recipe"))
    return folder


def flip_a_bit(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def command(text, results, *words):
    return alignbench(*text.split(), f"results={results}", *words, check=False)


def test_a_damaged_score_does_not_go_into_the_table_of_more_prompts(results):
    file = RunFolder(results / SMPO).score_file(*PLACE, "shapes_preference", "1")
    flip_a_bit(file, file.read_bytes().index(b"\x01", 60))
    before = (results / SMPO / "manifest.json").read_bytes()
    done = command(COMMAND, results, "prompts.limit=12", "stages=[score]")
    assert done.returncode == 2
    assert f"{file} has changed since it was written" in done.stderr
    assert f"delete {file} and repeat the command" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(before)["files"] == RunFolder(results / SMPO).manifest.files


def test_a_damaged_list_of_prompts_does_not_go_into_a_longer_one(results):
    file = RunFolder(results / SMPO).images(*PLACE) / "prompts.jsonl"
    records = read_json_lines(file)
    records[0]["groups"] = ["another"]  # would move the scores of the prompt to another group
    write_json_lines(file, records)
    done = command(COMMAND, results, "prompts.limit=12", "stages=[generate]")
    assert done.returncode == 2
    assert f"{file} has changed since it was written" in done.stderr


@pytest.mark.parametrize("read", [read_prompts, read_sampling])
def test_every_reader_of_an_image_folder_checks_it(results, read):
    images = RunFolder(results / SMPO).images(*PLACE)
    read(images)
    for name in ("prompts.jsonl", "sampling.json"):
        (images / name).write_text((images / name).read_text().replace("0", "1", 1))
    with pytest.raises(ResultsError, match="has changed since it was written"):
        read(images)
    copy = shutil.copytree(images, results.parent / "elsewhere")  # of which no run knows anything
    read(copy)


def test_every_reader_of_scores_checks_them(results):
    file = RunFolder(results / SMPO).score_file(*PLACE, "shapes_clip", "1")
    Scores.read(file)
    flip_a_bit(file, 200)
    with pytest.raises(ResultsError, match="has changed since it was written"):
        Scores.read(file)


@pytest.mark.parametrize("moment", ["before the ledger", "before the rename"])
def test_a_kill_between_a_file_and_its_digest_leaves_the_old_or_the_new_one(run, monkeypatch, moment):
    file = run.path / "scores" / "table"
    run.store(file, lambda path: write_text(path, "old"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        name = "alignbench.store.run_folder." + ("locked" if moment == "before the ledger" else "os.replace")
        if moment == "before the ledger":
            patch.setattr(name, killed)
        else:
            replace = os.replace
            patch.setattr(name, lambda a, b: killed() if Path(b) == file else replace(a, b))
        with pytest.raises(KeyboardInterrupt):
            run.store(file, lambda path: write_text(path, "new"))
    assert run.verified(file).read_text() == ("old" if moment == "before the ledger" else "new")
    run.store(file, lambda path: write_text(path, "newest"))
    assert run.verified(file).read_text() == "newest"


def table(run):
    return ScoreTable(run, *PLACE, ScoreInfo("mine", "1"))


@pytest.mark.parametrize(("old", "new"), [('"score": 0.5', '"score": 0.7'), ('"image": 0', '"image": 1'), ("{", "[")])
def test_a_damaged_score_of_a_killed_command_is_not_joined(run, old, new):
    part = run.scores(*PLACE) / "parts" / "mine@1" / f"{WorkShare().name}.jsonl"
    table(run).add(WorkShare(), [("a", 0), ("b", 0)], [Entry(0.5, "x"), Entry(0.25, "y")])
    assert table(run).known == {("a", 0): (0.5, "x"), ("b", 0): (0.25, "y")}
    part.write_text(part.read_text().replace(old, new))
    with pytest.raises(ResultsError, match=r"\.jsonl has changed since it was written; delete it to score its images"):
        _ = table(run).known


def test_scores_of_version_0_1_0_that_came_in_before_a_kill_are_read(run):
    table(run).add(WorkShare(), [("a", 0)], [Entry(0.5, "x")])
    part = run.scores(*PLACE) / "parts" / "mine@1" / f"{WorkShare().name}.jsonl"
    write_json_lines(part, [{k: v for k, v in line.items() if k != "check"} for line in read_json_lines(part)])
    assert table(run).known == {("a", 0): (0.5, "x")}


def test_a_table_that_was_never_noted_is_not_believed(run):
    scores = Scores.of(ScoreInfo("mine", "1"), ["a"], [0], [0.5], ["x"])
    scores.write(run.score_file(*PLACE, "mine", "1"))
    assert table(run).known == {}


def test_a_damaged_calibration_is_not_compared_with(tmp_path):
    from alignbench.configuration.find_evaluator import build_evaluator
    from alignbench.errors import UserError
    from alignbench.scoring.calibration import calibrate
    from alignbench.scoring.network_pool import NetworkPool

    def again():
        import torch

        evaluator = build_evaluator("shapes_oracle_realism", {})
        return calibrate([evaluator], tmp_path, NetworkPool(torch.device("cpu")))

    again()
    assert all(found.known for found in again().values())
    record = tmp_path / "calibration.json"
    values = json.loads(record.read_text())
    (entry,) = (one for key, one in values.items() if key != CHECK)
    entry["values"][0] += 1e-3
    record.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"calibration.json has changed since"):
        again()


def test_damaged_statistics_are_measured_again(results):
    from alignbench.report.write import write_report

    file = RunFolder(results / SMPO).statistics_file(*PLACE)
    file.unlink()
    write_report(results)
    right, diagnostics = file.read_bytes(), (results / "diagnostics.csv").read_bytes()
    for place in (100, len(right) // 2, len(right) // 3):
        flip_a_bit(file, place)
    write_report(results)
    assert file.read_bytes() == right
    assert (results / "diagnostics.csv").read_bytes() == diagnostics


def test_a_damaged_feature_of_a_prompt_is_computed_again(tmp_path):
    import torch

    from alignbench.configuration.find_evaluator import build_evaluator
    from alignbench.scoring.prompt_cache import TextCache

    cache = TextCache(build_evaluator("shapes_clip", {}), tmp_path)
    cache.add(["a red circle", "a blue cross"], torch.randn(2, 64))
    (file,) = tmp_path.rglob("*.safetensors")
    flip_a_bit(file, -5)
    assert len(cache.read(["a red circle", "a blue cross"])) < 2


def test_a_sampling_is_checked_before_more_images_are_made(results):
    assert Sampling(2, 4.0).hash == PLACE[1]
    file = RunFolder(results / SMPO).images(*PLACE) / "sampling.json"
    file.unlink()
    with pytest.raises(ResultsError, match="is missing"):
        read_sampling(file.parent)
