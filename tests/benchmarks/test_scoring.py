"""The benchmark of scoring runs on small architectures, and what it calls by hand scores as the program does."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import scoring, scoring_ways
from benchmarks.scorer_weights import SCORERS, image_reward_weights, make_evaluator, weights_file, write_weights
from benchmarks.scoring_ways import Clock, Measured, by_package
from evaluators.image_reward import UNUSED

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder of small weights of all scorers."""
    folder = tmp_path_factory.mktemp("weights")
    assert all(write_weights(folder, name, reduced=True) for name in SCORERS)
    return folder


@pytest.fixture
def run(weights, tmp_path, monkeypatch):
    """Run the program on small architectures and return what it writes."""

    def call(*arguments):
        out = tmp_path / "out.json"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the program has a cache of its own
        monkeypatch.setattr(
            sys, "argv", ["scoring", "--weights", str(weights), "--reduced", "--images", "3", "--size", "64", "--json",
                          str(out), *arguments],
        )  # fmt: skip
        scoring.main()
        return json.loads(out.read_text(encoding="utf-8"))

    return call


@pytest.mark.matrix
def test_every_scorer_is_timed_alone_and_in_one_pass_and_scores_the_same_singly(run, capsys):
    rows = {(row["evaluator"], row["way"]): row for row in run()["measured"]}
    assert set(rows) == {(name, way) for name in [*SCORERS, "all"] for way in ("alignbench", "singly")}
    for (name, way), row in rows.items():
        assert 0 < row["network_seconds"] < row["image_seconds"] < row["call_seconds"] + 1e-9
        assert 0 < row["network_share"] < 1
        assert row["loading_seconds"] > 0
        assert (row["rereading_seconds"] > 0) == (way == "singly" and name in ("hpsv2_1", "all"))
        assert (row["text_seconds"] > 0) == (name != "aesthetic" or way == "alignbench")
        if way == "singly":
            assert row["ratios"]["images"] > 0
            assert row["ratios"]["reread"] >= row["ratios"]["calls"]
            if name != "all":
                assert len(set(row["scores"])) == 3
                assert row["ratios"]["largest_difference"] < 1e-5
    printed = capsys.readouterr().out
    assert "weights of no evaluator made" in printed  # they are there already
    assert "load_average" in printed


def test_ways_are_compared_image_by_image():
    ours = Measured("alignbench", "a", 4, 4.0, 3.0, 1.0, 5.0, 9.0, scores=(1.0, 2.0, 3.0, 4.0))
    other = Measured("singly", "a", 2, 10.0, 8.0, 5.0, 15.0, 9.0, 20.0, scores=(1.0, 2.5))
    assert scoring.ratios(other, ours) == {"images": 5.0, "calls": 6.0, "reread": 14.0, "largest_difference": 0.5}
    assert scoring.ratios(ours, ours) == {}


def test_a_faster_precision_is_told_with_what_it_costs(run):
    found = run("--evaluators", "clip_score", "--precision", "bfloat16", "--others", "2")
    assert 0 < found["moved_by_precision"]["clip_score"] < 2
    assert {row["way"]: row["num_images"] for row in found["measured"]} == {"alignbench": 3, "singly": 2}


def test_weights_of_image_reward_have_all_names_of_the_published_file(weights):
    state = torch.load(weights_file(weights, "image_reward", reduced=True))
    assert state.keys() >= UNUSED
    assert "blip.visual_encoder.blocks.0.attn.qkv.weight" in state
    assert state.keys() == image_reward_weights(0, **SCORERS["image_reward"].reduced).keys()


def test_a_scorer_of_the_published_size_is_that_of_the_configuration(tmp_path):
    for name in SCORERS:
        file = weights_file(tmp_path, name, reduced=False)
        file.parent.mkdir(parents=True)
        if file.suffix == ".safetensors":
            save_file({"weight": torch.zeros(1)}, file)
        else:
            torch.save({}, file)
    (weights_file(tmp_path, "pickscore", reduced=False).parent / "tokenizer.json").write_text("{}")
    for name in SCORERS:
        assert make_evaluator(tmp_path, name, reduced=False).name == name


def test_time_is_counted_to_the_innermost_part(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(scoring_ways.time, "perf_counter", lambda: now.seconds)
    clock = Clock(CPU)
    with clock.timing("rest"):
        now.seconds += 1
        with clock.timing("network"):
            now.seconds += 10
            with clock.timing("network"):
                now.seconds += 20
        now.seconds += 2
    now.seconds += 1000
    with clock.timing("rest"):
        now.seconds += 4
    assert clock.seconds == {"rest": 7.0, "network": 30.0}


def test_the_first_call_of_a_package_is_not_counted(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(scoring_ways, "environment", lambda folder, requirements: Path("python"))

    def theirs(python, job, folder):
        jobs.append(job)
        times = {"loading": 5.0, "calls": [9.0, 1.0, 2.0], "rereading": [90.0, 10.0, 20.0]}
        return {"scores": [7.0, 7.0, 8.0], "seconds": times}

    monkeypatch.setattr(scoring_ways, "run_official", theirs)
    samples = scoring.make_samples(tmp_path / "images", 2, 32)
    found = by_package("hpsv2_1", samples, Path("weights.pt"), True, CPU, tmp_path, tmp_path)
    assert found == Measured("package", "hpsv2_1", 2, None, None, None, 3.0, 5.0, 30.0, (7.0, 8.0))
    assert jobs[0]["images"] == [str(samples.files[number]) for number in (0, 0, 1)]
    assert (jobs[0]["device"], jobs[0]["threads"]) == ("cpu", torch.get_num_threads())
