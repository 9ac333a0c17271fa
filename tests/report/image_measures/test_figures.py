"""Measures of sets stand in `diagnostics.csv` beside base, by the features that were computed of a run's images."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.report.diagnostics import diagnose, features_left_out
from alignbench.report.tables import build
from alignbench.report.write import write_report
from alignbench.scoring.feature_rows import FeatureInfo, FeatureRows
from alignbench.statistics.image_statistics import MEASURES
from alignbench.statistics.resampling import Resampling
from alignbench.statistics.sets.cmmd import Cmmd
from alignbench.statistics.sets.vendi import vendi_score
from alignbench.store.scores import Scores, digest_of

PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(12)}
INFO = FeatureInfo("shades", "3", "mean", "float32", "")


def vectors(seed, num=48):
    rows = np.random.default_rng(seed).normal(size=(num, 4)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def add_run(world, method, rows, info=INFO, **options):
    """Add a run with four images of each prompt, and their features."""
    folder = world.run(method, [0.0] * len(rows), prompts=PROMPTS, groups={}, num_images=4, picture="red", **options)
    digests = Scores.read(folder.score_file("shapes", "1a2b", "clip", "1")).digest.tolist()
    FeatureRows.open(folder, info).add({d: torch.from_numpy(row) for d, row in zip(digests, rows, strict=True)})
    return folder


def sets(world):
    found = diagnose(world.root, build(world.root, 50), 50)
    return {(row["method"], row["measure"]): row for row in found if row["kind"] == "set"}


def test_every_measure_of_sets_has_a_row_over_base(world):
    base, own = vectors(0), vectors(1)
    add_run(world, "base", base)
    add_run(world, "sft", own)
    found = sets(world)
    measures = ("cmmd", "vendi_4", "distance_prompts", "distance_noise", "precision", "recall")
    assert found.keys() == {(method, f"{one}.shades") for method in ("base", "sft") for one in measures}
    images = [(prompt_id, k) for prompt_id in sorted(PROMPTS) for k in range(4)]
    cmmd = Cmmd([base[None], own[None]], images, Resampling([prompt_id for prompt_id, _ in images])).value(1)
    row = found["sft", "cmmd.shades"]
    assert (row["value"], row["difference"], row["ci_low"]) == pytest.approx((cmmd.value, cmmd.value, cmmd.low))
    assert (row["version"], row["n"], row["base"], found["base", "cmmd.shades"]["value"]) == ("1.3", 48, 0, 0)
    row = found["sft", "vendi_4.shades"]
    scores = [np.mean([vendi_score(rows[4 * i : 4 * i + 4]) for i in range(12)]) for rows in (own, base)]
    assert (row["value"], row["base"]) == pytest.approx(scores)
    row = found["sft", "precision.shades"]
    assert row["base"] == found["base", "precision.shades"]["value"]
    assert row["difference"] == pytest.approx(row["value"] - row["base"])


def test_one_image_a_prompt_has_distances_of_prompts_and_drift_alone(world):
    for seed, method in enumerate(("base", "sft")):
        folder = world.run(method, [0.0] * 12, prompts=PROMPTS, groups={}, picture="red")
        digests = Scores.read(folder.score_file("shapes", "1a2b", "clip", "1")).digest.tolist()
        rows = zip(digests, torch.from_numpy(vectors(seed, 12)), strict=True)
        FeatureRows.open(folder, INFO).add(dict(rows))
    assert {measure for _, measure in sets(world)} == {"cmmd.shades", "distance_prompts.shades"}


def test_sets_of_a_run_without_features_have_no_rows_and_without_base_none_that_need_it(world):
    add_run(world, "sft", vectors(0))
    world.run("base", [0.0] * 48, prompts=PROMPTS, groups={}, num_images=4, picture="red")
    found = sets(world)
    assert found.keys() == {("sft", f"{one}.shades") for one in ("vendi_4", "distance_prompts", "distance_noise")}
    assert np.isnan(found["sft", "vendi_4.shades"]["difference"])


def test_sets_are_compared_on_the_images_that_both_have(world):
    base, own = vectors(0), vectors(1)
    add_run(world, "base", base)
    folder = world.run("sft", [0.0] * 48, prompts=PROMPTS, groups={}, num_images=4, picture="red")
    digests = Scores.read(folder.score_file("shapes", "1a2b", "clip", "1")).digest.tolist()
    FeatureRows.open(folder, INFO).add({digests[i]: torch.from_numpy(own[i]) for i in range(40)})  # of ten prompts
    row = sets(world)["sft", "vendi_4.shades"]
    assert row["n"] == 40
    assert row["base"] == pytest.approx(np.mean([vendi_score(base[4 * i : 4 * i + 4]) for i in range(10)]))


def test_features_that_were_made_in_two_ways_are_not_compared_and_stop_nothing_else(world):
    add_run(world, "base", vectors(0))
    other = add_run(world, "sft", vectors(1), FeatureInfo("shades", "3", "mean", "float32", "other"))
    add_run(world, "dpo", vectors(2))
    tables = build(world.root, 50)
    assert {method for method, _ in sets(world)} == {"base", "dpo"}
    assert {row["method"] for row in diagnose(world.root, tables, 50) if row["kind"] == "image"} >= {"sft", "dpo"}
    [(name, told)] = features_left_out(world.root, tables).items()
    assert name == f"{other.name}/features/shades@3"
    assert (world.root / name).is_dir()
    assert re.match(r"its vectors and those of \S*base\S* differ in weights \('other' and ''\); delete the one", told)


def test_without_base_the_features_of_most_runs_are_kept(world):
    infos = [FeatureInfo("shades", "3", "mean", precision, "") for precision in ("float32", "bfloat16", "bfloat16")]
    for number, (method, info) in enumerate(zip(("sft", "dpo", "kto"), infos, strict=True)):
        add_run(world, method, vectors(number), info)
    assert {method for method, _ in sets(world)} == {"dpo", "kto"}
    [name] = features_left_out(world.root, build(world.root, 50))
    assert name.startswith("sft")


@pytest.mark.matrix
def test_the_report_names_what_was_left_out_and_shows_all_else(world):
    add_run(world, "base", vectors(0))
    other = add_run(world, "sft", vectors(1), FeatureInfo("shades", "3", "mean", "bfloat16", ""))
    tables = write_report(world.root, 50)
    assert {row["method"] for row in tables.leaderboard} == {"base", "sft"}
    told = f"{other.name}/features/shades@3 is left out of this report: its vectors and those of"
    assert told in tables.left_out_told[0]
    assert "shades@3 is left out" in (world.root / "leaderboard.md").read_text()


def test_edges_that_were_counted_at_two_resolutions_are_not_compared(world):
    for method, side in (("base", 64), ("sft", 96)):
        folder = world.run(method, [1, 2, 3, 4])
        path = folder.score_file("shapes", "1a2b", "clip", "1")
        scores, digests = Scores.read(path), []
        for prompt_id in scores.prompt_id:
            file = folder.images("shapes", "1a2b") / f"{prompt_id}-0.png"
            Image.linear_gradient("L").resize((side, side)).save(file)
            digests.append(digest_of(file))
        Scores.of(scores.info, scores.prompt_id, scores.image, scores.score, digests).write(path)
        folder.complete("score", "shapes/1a2b/clip@1", [path])
    found = diagnose(world.root, build(world.root, 50), 50)
    assert {row["measure"] for row in found if row["kind"] == "image"} == MEASURES.keys() - {"edge_density"}
