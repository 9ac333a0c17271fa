"""Capsules of one folder in the tables and the page of another."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from alignbench import load_results
from alignbench.capsule.merge import bring_in, merge
from alignbench.capsule.pack import pack
from alignbench.configuration.find_evaluator import build_evaluator
from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.files import with_check, without_check
from alignbench.generation.generate import Sampling, generated
from alignbench.report.write import write_report
from alignbench.scoring.pairs import planned_calls
from alignbench.scoring.score import score
from alignbench.store.image_records import ImageSet, read_prompts
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.study.begin import open_study
from tests.capsule.conftest import BASE, DPO, SFT
from tests.capsule.hostile import forged, members_of
from tests.program import SMALL_RUN, alignbench, rows
from tests.tiny_runs import files_of

TABLES = ("leaderboard.csv", "win_rates.csv", "ranking.csv", "diagnostics.csv")


def results_of(folder):
    """All files of a results folder but locks."""
    return {name: content for name, content in files_of(folder).items() if ".lock" not in name}


def repacked(run, evaluator, scores, to, **changes):
    """Pack a run with the scores of a further evaluator and with changes to its manifest."""
    info = ScoreInfo(evaluator, "1")
    (known,) = run.path.glob("scores/*/*/clip@1.parquet")
    before = Scores.read(known)
    file = known.with_name(f"{evaluator}@1.parquet")
    replace(before, info=info, score=np.array(scores, np.float32)).write(file)
    run.complete("score", f"shapes/1a2b/{evaluator}@1", [file])
    run.update(**changes)
    pack([run.path], to)
    return to


def test_tables_at_another_path_are_those_of_the_folder_that_was_packed(capsules, groups, tmp_path):
    merge(capsules[:1], tmp_path / "there", 20)
    write_report(groups[0], 20)
    for table in TABLES:
        assert (tmp_path / "there" / table).read_bytes() == (groups[0] / table).read_bytes()
    assert {*load_results(tmp_path / "there").scores["run"]} == {BASE, DPO}


def test_the_page_shows_thumbnails_and_says_where_they_are_from(capsules, tmp_path):
    merge(capsules, tmp_path, 20)
    assert not list(tmp_path.glob("*/images/**/*.png"))
    shown = "".join(file.read_text() for file in tmp_path.glob("report/data/images-*.js"))
    for run in (BASE, DPO, SFT):
        small = sorted(file.name for file in tmp_path.glob(f"{run}/thumbnails/*.jpg"))
        assert len(small) == 4
        assert all(f"{run}/thumbnails/{name}" in shown for name in small)
    told = "from capsules: base, dpo, sft; they were made and scored elsewhere"
    assert told in (tmp_path / "index.html").read_text()
    assert told in (tmp_path / "leaderboard.md").read_text()
    assert "from a capsule" in next(tmp_path.glob(f"report/data/run-{DPO}-*.js")).read_text()


def test_neither_the_order_nor_a_repetition_changes_a_byte(capsules, tmp_path):
    a, b = capsules
    merge([a, b], tmp_path / "one" / "results", 20)
    bring_in([b], tmp_path / "two" / "results")
    merge([a], tmp_path / "two" / "results", 20)
    once = results_of(tmp_path / "one" / "results")
    assert "index.html" in once
    assert results_of(tmp_path / "two" / "results") == once
    bring_in([b, a], tmp_path / "one" / "results")
    assert results_of(tmp_path / "one" / "results") == once


def test_the_base_run_of_two_groups_joins_what_each_scored(groups, tmp_path, capsys):
    one, two = (RunFolder(group / BASE) for group in groups)
    files = [
        repacked(one, "hps", [1, 2, 3, 4], tmp_path / "1.tar", started="2026-02-01 10:00", devices=["gpu"]),
        repacked(two, "pick", [4, 3, 2, 1], tmp_path / "2.tar", started="2026-01-01 10:00", devices=["cpu"]),
    ]
    for name, order in (("x", files), ("y", files[::-1])):
        for file in order:
            bring_in([file], tmp_path / name / "results")
    assert "is there; what it lacked was added" in capsys.readouterr().out
    bring_in(files, tmp_path / "z" / "results")
    x, y, z = (results_of(tmp_path / name / "results") for name in "xyz")
    assert x == y == z
    base = RunFolder(tmp_path / "x" / "results" / BASE)
    assert sorted(file.name for file in base.path.glob("scores/*/*/*.parquet")) == [
        "aesthetic@1.parquet", "clip@1.parquet", "hps@1.parquet", "pick@1.parquet",
    ]  # fmt: skip
    assert base.manifest.devices == ["cpu"]
    bring_in(files, tmp_path / "x" / "results")
    assert results_of(tmp_path / "x" / "results") == x


def test_other_scores_of_the_same_run_are_named_and_nothing_is_brought_in(capsules, groups, tmp_path):
    other = repacked(RunFolder(groups[1] / BASE), "clip", [9, 9, 9, 9], tmp_path / "other.tar")
    bring_in(capsules[:1], tmp_path / "there")
    before = results_of(tmp_path / "there")
    named = rf"{BASE} of .*other.tar differs from that of .* in scores/shapes/1a2b/clip@1.parquet"
    for files in ([capsules[1], other], [other, capsules[1]], [other]):
        with pytest.raises(UserError, match=named if files[0] == other else "clip@1.parquet"):
            bring_in(files, tmp_path / "there")
    assert results_of(tmp_path / "there") == before
    with pytest.raises(UserError, match=named):
        bring_in([other, capsules[0]], tmp_path / "new")
    assert not results_of(tmp_path / "new")


def test_a_run_that_was_made_here_stays_and_other_content_is_named(capsules, groups, tmp_path, capsys):
    before = {name: content for name, content in files_of(groups[0]).items() if name.startswith((BASE, DPO))}
    bring_in(capsules, groups[0])
    after = files_of(groups[0])
    assert {name: after[name] for name in before} == before
    assert f"{DPO}  is there already, made here" in capsys.readouterr().out
    run = RunFolder(groups[0] / DPO)
    replace(run.manifest, weight_distance=0.5).write(run.manifest_file)
    with pytest.raises(UserError, match=rf"{DPO} of .* differs from that of .* in manifest.json \(weight_distance\)"):
        bring_in(capsules, groups[0])


def with_other_weights(run):
    """Let the scores of a run by clip be those of other weights; return their file."""
    (file,) = run.path.glob("scores/*/*/clip@1.parquet")
    scores = Scores.read(file)
    replace(scores, info=replace(scores.info, weights="abc")).write(file)
    run.complete("score", "shapes/1a2b/clip@1", [file])
    return file


def test_one_evaluator_with_two_kinds_of_weights_is_named(capsules, groups, tmp_path):
    run = RunFolder(groups[1] / SFT)
    with_other_weights(run)
    pack([run.path], tmp_path / "other.tar")
    with pytest.raises(UserError, match=rf"clip@1 worked on .* and on {SFT} with another weights, and such scores"):
        bring_in([capsules[0], tmp_path / "other.tar"], tmp_path / "there")


def test_contradictions_of_runs_that_are_there_stop_no_merge_and_the_report_names_them(capsules, groups, capsys):
    file = with_other_weights(RunFolder(groups[0] / DPO))
    merge(capsules[1:], groups[0], 50)
    assert f"{file.relative_to(groups[0])} is left out of this report: clip scored these" in capsys.readouterr().out
    assert (groups[0] / SFT / "manifest.json").exists()


def test_a_second_run_of_one_recipe_and_seed_is_named(capsules, tmp_path):
    run = f"runs/{DPO}"
    members = {
        name.replace(DPO, "dpo-sd15_mini-x1"): one for name, one in members_of(capsules[0]).items() if run in name
    }
    manifest = without_check(json.loads(members["runs/dpo-sd15_mini-x1/manifest.json"]))
    members["runs/dpo-sd15_mini-x1/manifest.json"] = json.dumps(
        with_check({**manifest, "run": "dpo-sd15_mini-x1"})
    ).encode()
    with pytest.raises(UserError, match=f"{DPO} and dpo-sd15_mini-x1 are the same recipe with the same seed"):
        bring_in([capsules[0], forged(tmp_path / "evil.tar", members)], tmp_path / "there")


@pytest.mark.matrix
def test_a_damaged_run_that_is_there_stops_no_merge(capsules, tmp_path):
    bring_in(capsules[1:], tmp_path)
    file = next(tmp_path.glob(f"{SFT}/scores/*/*/clip@1.parquet"))
    file.write_bytes(file.read_bytes()[:-100])
    bring_in(capsules[:1], tmp_path)
    assert (tmp_path / DPO / "manifest.json").exists()


def test_an_interrupted_merge_leaves_nothing_half(capsules, tmp_path, monkeypatch):
    rename, num_done = os.rename, []

    def interrupted(source, target):
        if num_done:
            raise KeyboardInterrupt
        num_done.append(rename(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bring_in(capsules, tmp_path / "there")
    assert [run.name for run in tmp_path.glob("there/*/manifest.json")] == ["manifest.json"]
    shutil.copytree(tmp_path / "there" / BASE, tmp_path / "there" / ".merging" / "killed" / "0" / BASE)
    bring_in(capsules, tmp_path / "there")
    bring_in(capsules, tmp_path / "whole" / "there")
    assert results_of(tmp_path / "there") == results_of(tmp_path / "whole" / "there")


def test_what_needs_images_refuses_in_a_sentence(capsules, tmp_path):
    bring_in(capsules, tmp_path)
    run = RunFolder(tmp_path / DPO)
    with pytest.raises(UserError, match=rf"{BASE} came from a capsule, which holds thumbnails alone, and people vote"):
        open_study([tmp_path / BASE, tmp_path / DPO], "smpo")
    with pytest.raises(UserError, match="its run came from a capsule, which holds thumbnails alone: compare images"):
        planned_calls(run, [RunFolder(tmp_path / BASE)], "shapes", "1a2b")
    known = ImageSet("shapes", "1a2b", read_prompts(run.images("shapes", "1a2b")), (64, 64), generated=True)
    with pytest.raises(UserError, match=f"{DPO} came from a capsule, which holds thumbnails alone: score a run before"):
        score(run, known, [build_evaluator("shapes_oracle_realism", {})], 4)
    prompts = PromptSet("shapes", (Prompt("p9", "a cat"),), 1)
    with pytest.raises(UserError, match=f"{DPO} came from a capsule and has no images of prompts=shapes"):
        generated(run, prompts, Sampling(20, 4.0))


def test_words_that_are_no_files_or_no_results_folder_are_refused(capsules, groups):
    a, b = capsules
    for files, results, message in (
        ([a], b, "is a file; give a results folder as the last word"),
        ([a], groups[0] / DPO, "is one run; give the results folder"),
        ([groups[1]], groups[0], "is no file; give capsules, and the results folder as the last word"),
    ):
        with pytest.raises(UserError, match=message):
            bring_in(files, results)


@pytest.mark.matrix
def test_an_own_run_is_compared_with_the_base_run_of_a_capsule(tmp_path):
    words = ("model=sd15_mini", "tracker=none", *SMALL_RUN)
    alignbench("method=sft", *words, f"results={tmp_path / 'own'}")
    (base,) = (tmp_path / "own").glob("base-*")
    pack([base], tmp_path / "base.tar")
    merge([tmp_path / "base.tar"], tmp_path / "there")
    told = alignbench("method=sft", *words, f"results={tmp_path / 'there'}").stdout
    assert "base run is missing" not in told
    assert not list((tmp_path / "there" / base.name).glob("images/*/*/*.png"))
    own, there = (rows(tmp_path / name / "leaderboard.csv") for name in ("own", "there"))
    assert [(row["method"], row["win_rate_vs_base"], row["median"]) for row in there] == [
        (row["method"], row["win_rate_vs_base"], row["median"]) for row in own
    ]
    told = alignbench("method=base", *words, "prompts.limit=5", f"results={tmp_path / 'there'}", check=False)
    assert told.returncode == 2
    assert "came from a capsule and has no images of prompts=shapes with this sampling" in told.stderr
