"""The rows of `diagnostics.csv` against figures found by hand."""

import numpy as np
import pytest
from PIL import Image

from alignbench.report.columns import DIAGNOSTIC_COLUMNS
from alignbench.report.diagnostics import diagnose
from alignbench.report.tables import build
from alignbench.report.write import write_report
from alignbench.store.image_records import SamplingRecord, read_prompts, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores, digest_of


def rows(world, **conditions):
    found = diagnose(world.root, build(world.root, 50), 50)
    return [row for row in found if all(row[name] == value for name, value in conditions.items())]


def only(world, **conditions):
    [row] = rows(world, **conditions)
    return row


def paint(folder, colours, prompt_set="shapes", sampling_hash="1a2b", evaluator="clip"):
    """Give a run images of these colours, and note in its scores that these are what was scored."""
    images = folder.images(prompt_set, sampling_hash)
    path = folder.score_file(prompt_set, sampling_hash, evaluator, "1")
    scores = Scores.read(path)
    digests = []
    for prompt_id, number, colour in zip(scores.prompt_id, scores.image, colours, strict=True):
        file = images / f"{prompt_id}-{number}.png"
        Image.new("RGB", (64, 64), colour).save(file)
        digests.append(digest_of(file))
    Scores.of(scores.info, scores.prompt_id, scores.image, scores.score, digests).write(path)
    folder.complete("score", f"{prompt_set}/{sampling_hash}/{evaluator}@1", [path])


def test_an_evaluators_row_has_the_mean_over_that_of_base(world):
    """Means 2.5 and 3.25: better by 0.75; two of four images won, one tied."""
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 2, 2, 7], trained_on=["clip"])
    row = only(world, method="sft")
    assert (row["value"], row["base"], row["difference"]) == (3.25, 2.5, 0.75)
    assert (row["win_rate"], row["n"], row["role"], row["kind"]) == (0.625, 4, "trained", "evaluator")
    base = only(world, method="base")
    assert (base["value"], base["role"]) == (2.5, "")
    assert np.isnan([base["difference"], base["p"]]).all()


def test_a_difference_has_the_evaluators_own_direction(world):
    world.run("base", [1, 2, 3, 4], higher_is_better=False)
    world.run("sft", [2, 3, 4, 5], higher_is_better=False)
    row = only(world, method="sft")
    assert (row["difference"], row["difference_ci_low"], row["win_rate"]) == (1, 1, 0)


def test_saturation_over_base_is_that_of_the_colours(world):
    """Base is grey. Half of the method's images are pure red, half red mixed with as much grey: 1 and 1 / 2."""
    for method, colours in (("base", ["#808080"] * 4), ("sft", ["#ff0000", "#ff0000", "#fe7f7f", "#fe7f7f"])):
        paint(world.run(method, [1, 2, 3, 4]), colours)
    row = only(world, method="sft", measure="saturation")
    assert row["value"] == row["difference"] == pytest.approx(0.75)
    assert (row["base"], row["win_rate"], row["kind"], row["n"]) == (0, 1, "image", 4)
    assert only(world, method="sft", measure="grid_8")["difference"] == 0


def test_diversity_is_between_prompts_and_between_images_of_one(world):
    """Two images a prompt, all black but for one white pair: see below.

    Prompts: black and white images differ by 1. Of the six pairs of prompts under a number three are with the white
    one: root of 3 / 6. Noise: both images of each prompt are equal.
    """
    for method, colours in (("base", ["black"] * 8), ("sft", ["white"] * 2 + ["black"] * 6)):
        paint(world.run(method, list(range(8)), num_images=2), colours)
    row = only(world, method="sft", measure="diversity_prompts")
    assert row["value"] == row["difference"] == pytest.approx(np.sqrt(0.5))
    assert row["base"] == 0
    assert only(world, method="sft", measure="diversity_noise")["value"] == 0


def test_one_image_a_prompt_has_no_diversity_of_noise(world):
    paint(world.run("base", [1, 2, 3, 4]), ["red", "blue", "red", "blue"])
    assert {row["measure"] for row in rows(world, kind="diversity")} == {"diversity_prompts"}


def test_p_values_of_images_are_one_family_for_a_model_and_prompt_set(world):
    prompts = {f"p{i:02d}": f"prompt {i}" for i in range(10)}
    for method, colour in (("base", "#808080"), ("sft", "#ff0000")):
        paint(world.run(method, [float(i) for i in range(10)], prompts=prompts, groups={}), [colour] * 10)
    exact = 2 * 2**-10
    tested = [row for row in rows(world, method="sft") if row["kind"] in ("image", "diversity")]
    assert len(tested) == 12
    assert only(world, method="sft", measure="saturation")["p"] == pytest.approx(12 * exact)
    assert only(world, method="sft", measure="grid_8")["p"] == 1


def test_images_that_are_gone_have_no_rows(world):
    world.run("base", [1, 2, 3, 4])
    assert {row["kind"] for row in rows(world)} == {"evaluator"}


def look(run, step, scores, colours, distance):
    """Add a look at a run."""
    folder = RunFolder(run.path / "validation" / f"step-{step}")
    name = f"step-{step}"
    folder.open(Manifest(name, name, "sd15_mini", 0, "h", "h", weight_distance=distance))
    place = ("held_out", "1a2b")
    images, source = folder.images(*place), run.images("shapes", "1a2b")
    write_prompts(images, read_prompts(source))
    write_sampling(images, SamplingRecord("held_out", 20, 4.0, "per_prompt", 0, 1, len(scores), subset=False))
    folder.complete("generate", "held_out", [images / "prompts.jsonl", images / "sampling.json"])
    path = folder.score_file(*place, "clip", "1")
    Scores.of(ScoreInfo("clip", "1"), [f"p{i}" for i in range(4)], [0] * 4, scores, [""] * 4).write(path)
    folder.complete("score", "held_out", [path])
    paint(folder, colours, "held_out")


def test_looks_at_a_run_have_rows_over_its_start(world):
    world.run("base", [1, 2, 3, 4])
    run = world.run("sft", [1, 2, 3, 4], trained_on=["clip"])
    look(run, 0, [1, 2, 3, 4], ["#808080"] * 4, 0.0)
    look(run, 20, [2, 3, 4, 5], ["#ff0000"] * 4, 0.02)
    look(run, 100, [3, 4, 5, 6], ["#00ff00"] * 4, 0.1)
    run.update(weight_distance=0.1)
    clip = rows(world, measure="clip", prompt_set="held_out")
    assert [(row["step"], row["value"], row["role"]) for row in clip] == [
        (0, 2.5, "trained"), (20, 3.5, "trained"), (100, 4.5, "trained"),
    ]  # fmt: skip
    assert [row["difference"] for row in clip][1:] == [1, 2]
    assert [row["win_rate"] for row in clip][1:] == [1, 1]
    assert [row["value"] for row in rows(world, measure="saturation")] == [0, 1, 1]
    distances = [(row["step"], row["value"]) for row in rows(world, measure="weight_distance")]
    assert distances == [(None, 0.1), (0, 0.0), (20, 0.02), (100, 0.1)]


def test_a_report_writes_the_table_and_again_the_same_bytes_without_measuring(small_table, monkeypatch):
    write_report(small_table.root, 50)
    path = small_table.root / "diagnostics.csv"
    before = path.read_bytes()
    assert before.decode().splitlines()[0] == ",".join(DIAGNOSTIC_COLUMNS)
    assert len(list(small_table.root.glob("*/statistics/shapes/1a2b.parquet"))) == 3
    monkeypatch.setattr("alignbench.store.image_statistics_table._measure", None)
    write_report(small_table.root, 50)
    assert path.read_bytes() == before
