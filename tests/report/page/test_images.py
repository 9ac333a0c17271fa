"""Which image, score and thumbnail the page takes for which prompt."""

import json
from dataclasses import asdict
from urllib.parse import unquote

import pytest

from alignbench.files import write_json
from alignbench.report.display import sections
from alignbench.report.page.images import NUM_EXTREMES, gallery, image_entry, section_images
from alignbench.report.page.store import Store
from alignbench.report.tables import build
from alignbench.store.image_records import PromptRecord, write_prompts
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores


def received(root, address):
    text = (root / unquote(address)).read_text()
    return json.loads(text.removeprefix("document.currentScript.receive(").removesuffix(");\n"))


@pytest.fixture
def entry():
    def read(world):
        tables, jobs = build(world.root, 50), {}
        [section] = sections(tables)
        store = Store(world.root)
        found = image_entry(section, section_images(tables, section, store, jobs), store)
        sets = {one["run"]: received(world.root, one["file"]) for one in found["sets"]}
        return received(world.root, found["prompts"]), sets, jobs

    return read


def test_every_run_lists_the_images_in_the_order_of_base(world, entry):
    few = {"p2": "a green square", "p0": "a red circle"}
    world.run("sft", [7, 8], prompts=few, picture="blue")
    world.run(BASE, [1, 2, 3, 4], picture="red")
    prompts, sets, jobs = entry(world)
    assert prompts["ids"] == ["p0", "p1", "p2", "p3"]
    assert prompts["texts"][1] == "a blue cross"
    assert [[prompts["groups"][i] for i in one] for one in prompts["memberships"]] == [["flat"]] * 2 + [["shaded"]] * 2
    base, sft = sets["base-sd15_mini-rNone"], sets["sft-sd15_mini-r0"]
    assert base["scores"] == [[1, 2, 3, 4]]
    assert sft["scores"] == [[8, None, 7, None]]  # scores are given in the order of the prompts: p2, p0
    assert sft["files"] == ["p0-0.png", None, "p2-0.png", None]
    assert (world.root / sft["folder"] / sft["files"][0]).exists()
    assert len(jobs) == 2


def test_evidence_lies_in_a_file_for_the_images_of_each_sprite(world):
    """33 images of a prompt each, of which a sprite holds 32; sft has none."""
    prompts = {f"p{i:02d}": f"prompt {i}" for i in range(33)}
    told = [{"reasons": [f"no cat {i}"], "margin": 0.1} for i in range(33)]
    world.run(BASE, range(33), prompts=prompts, evidence=told)
    world.run("sft", range(33), prompts=prompts)
    world.run(BASE, range(33), prompts=prompts, evaluator="aesthetic")
    tables = build(world.root, 50)
    [section] = sections(tables)
    store = Store(world.root)
    found = image_entry(section, section_images(tables, section, store, {}), store)
    files = {one["method"]: one["evidence"] for one in found["sets"]}
    assert files["sft"] == []
    first, second = (received(world.root, file) for file in files[BASE])
    number = str(section.evaluators.index(("clip", "1")))
    assert first == {number: {str(i): [told[i]] for i in range(32)}}
    assert second == {number: {"32": [told[32]]}}


def test_several_images_of_a_prompt_follow_each_other(world, entry):
    world.run(BASE, [1, 2, 3, 4, 5, 6, 7, 8], num_images=2, picture="red")
    prompts, sets, _ = entry(world)
    assert prompts["counts"] == [2, 2, 2, 2]
    [base] = sets.values()
    assert base["files"][:3] == ["p0-0.png", "p0-1.png", "p1-0.png"]
    assert base["scores"] == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_images_that_are_gone_take_nothing_but_their_picture(world, entry):
    world.run(BASE, [1, 2, 3, 4])
    _, sets, jobs = entry(world)
    [base] = sets.values()
    assert base["files"] == [None] * 4
    assert base["sprites"] == [None]
    assert base["scores"] == [[1, 2, 3, 4]]
    assert jobs == {}


def test_images_whose_judge_noted_no_digest_do_not_share_a_thumbnail(world, entry):
    for method, colour in ((BASE, "red"), ("sft", "blue")):
        folder = world.run(method, [1, 2, 3, 4], picture=colour)
        file = folder.score_file("shapes", "1a2b", "people", "1")
        ids = ["p0", "p1", "p2", "p3"]
        Scores.of(ScoreInfo("people", "1"), ids, [0] * 4, [1, 0, 1, 0], [""] * 4).write(file)
        folder.complete("score", "people", [file])
    _, sets, jobs = entry(world)
    scored = sets["base-sd15_mini-rNone"]["sprites"]
    assert len({*scored, *sets["sft-sd15_mini-r0"]["sprites"]}) == len(jobs) == 2
    for folder in world.root.glob("*-sd15_mini-*"):
        folder.joinpath("scores/shapes/1a2b/clip@1.parquet").unlink()
        manifest = RunFolder(folder).manifest
        manifest.files.pop("scores/shapes/1a2b/clip@1.parquet")
        write_json(folder / "manifest.json", asdict(manifest))
    _, sets, jobs = entry(world)
    assert len({*sets["base-sd15_mini-rNone"]["sprites"], *sets["sft-sd15_mini-r0"]["sprites"]}) == len(jobs) == 2


def test_scores_keep_the_whole_precision_of_the_disk(world, entry):
    close = [0.1, 0.10000001, 0.3, 0.1]  # the first two differ by one float32 step, which decides who wins
    world.run(BASE, close)
    _, sets, _ = entry(world)
    [base] = sets.values()
    assert base["scores"] == [[0.1, 0.10000001, 0.3, 0.1]]


def test_images_from_elsewhere_are_addressed_from_the_page(world, entry, tmp_path):
    folder = world.run(BASE, [1], prompts={"x": "a cat"}, picture="red")
    images = folder.images("shapes", "1a2b")
    outside = tmp_path / "my images #1" / "cat.png"
    outside.parent.mkdir()
    (images / "x-0.png").rename(outside)
    write_prompts(images, [PromptRecord("x", "a cat", (), (str(outside),))])
    folder.complete("generate", files=[images / "prompts.jsonl"])
    _, sets, _ = entry(world)
    [base] = sets.values()
    assert base["folder"] == ""
    assert base["files"] == ["../my%20images%20%231/cat.png"]


# ---- the images with the largest gains and losses

TEN = {f"p{i}": f"prompt {i}" for i in range(10)}


def shown(world):
    """Return the gallery of each method."""
    tables = build(world.root, 50)
    [section] = sections(tables)
    found = gallery(section, section_images(tables, section, Store(world.root), {}))
    return {one["method"]: {**one, "by": found["by"]} for one in found["methods"]}


def test_the_gallery_has_the_largest_gains_first_and_then_the_largest_losses(world):
    options = {"prompts": TEN, "groups": {}}
    base = [float(i) for i in range(10)]
    changes = [0.0, 4.0, -1.0, 2.0, -5.0, 3.0, 1.0, -2.0, -3.0, 0.5]
    world.run(BASE, base, picture="red", **options)
    world.run("sft", [a + b for a, b in zip(base, changes, strict=True)], picture="blue", **options)
    images = shown(world)["sft"]["images"]
    assert [one["key"] for one in images] == ["p1-0", "p5-0", "p3-0", "p4-0", "p8-0", "p7-0"]
    assert len(images) == 2 * NUM_EXTREMES
    assert images[0]["gain"] / images[-1]["gain"] == pytest.approx(4.0 / -2.0, rel=1e-5)
    assert images[0]["place"] == 1
    assert len({sprite for one in images for sprite in one["sprites"]}) == 2, "base's image beside the method's"


def test_only_evaluators_that_may_rank_choose_for_the_gallery(world):
    """By clip, which dpo trained on, p0 gains most; by aesthetic, where lower is better, p1."""
    options = {"prompts": TEN, "groups": {}}
    base = [float(i) for i in range(10)]
    for method, trained_on in ((BASE, ()), ("dpo", ("clip",))):
        gained = [(100.0 if i == 0 else 0.0) * (method == "dpo") for i in range(10)]
        world.run(method, [a + b for a, b in zip(base, gained, strict=True)], picture="red", **options)
        lost = [(-3.0 if i == 1 else 0.0) * (method == "dpo") for i in range(10)]
        scores = [a + b for a, b in zip(base, lost, strict=True)]
        more = {"evaluator": "aesthetic", "higher_is_better": False, "trained_on": trained_on}
        world.run(method, scores, picture="red", **options, **more)
    for folder in world.root.glob("dpo*"):
        RunFolder(folder).update(trained_on=["clip"])
    found = shown(world)["dpo"]
    assert [one["key"] for one in found["images"]] == ["p1-0"]
    assert found["by"] == "aesthetic"


def test_images_that_are_gone_are_in_no_gallery(world):
    world.run(BASE, [1, 2, 3, 4], picture="red")
    folder = world.run("sft", [2, 4, 3, 4], picture="blue")
    next(folder.path.glob("images/*/*/p1-0.png")).unlink()
    assert [one["key"] for one in shown(world)["sft"]["images"]] == ["p0-0"]


def test_a_prompt_of_several_images_is_shown_once(world):
    world.run(BASE, [0, 1, 2, 3, 4, 5, 6, 7], num_images=2, picture="red")
    world.run("sft", [9, 8, 3, 3, 4, 5, 6, 7], num_images=2, picture="blue")
    assert [one["key"] for one in shown(world)["sft"]["images"]] == ["p0-0", "p1-0"]
