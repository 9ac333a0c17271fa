"""A reward model that learned from a method's data is no held-out evaluator of this method."""

import json

import pytest

from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.report.display import sections
from alignbench.report.hacking import all_clear, findings
from alignbench.report.tables import build as build_tables
from alignbench.report.write import write_report
from alignbench.store.training_data import (
    data_of_reward_model,
    data_of_run,
    digests,
    encoded,
    share_data,
    write_training_data,
)
from alignbench.training.validation import build_validation
from tests.cases.own_judges import train_anna, write_pairs
from tests.program import alignbench, manifests

NUM = 40
PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(NUM)}
FEW = ["train.max_train_steps=1", "train.total_batch_size=2", "train.micro_batch_size=2"]


def judge(root, name, fingerprint, images=None):
    """Write what the report reads of a reward model; without images, as version 0.1.0 did."""
    folder = root / "judges" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": name, "data": {"fingerprint": fingerprint}}))
    if images is not None:
        (folder / "training_data.npy").write_bytes(encoded(digests([fingerprint, *images])))


def add(world, method, gains, **info):
    """Add a run whose scores are above base's by so much."""
    for evaluator, gain in gains.items():
        wobble = [0.004 * (-1) ** (i // 2) * (method != "base") for i in range(NUM)]
        scores = [0.2 + 0.001 * (i * 7 % NUM) + gain + wobble[i] for i in range(NUM)]
        folder = world.run(method, scores, evaluator=evaluator, prompts=PROMPTS, groups={}, **info)
    return folder


@pytest.fixture
def hacked(world):
    """dpo raises the score of the judge anna while it ruins the images."""
    add(world, "base", {"anna": 0, "aesthetic": 0})
    return add(world, "dpo", {"anna": 0.03, "aesthetic": -0.03})


def test_a_judge_of_version_0_1_0_is_matched_by_the_fingerprint_of_its_data(world, hacked):
    hacked.update(fingerprints={"data": "f00d"})
    judge(world.root, "anna", "f00d")
    tables = write_report(world.root)
    assert hacked.manifest.trained_on == ["anna"]
    [finding] = findings(tables)
    trained_on = "anna 100.0 % (***), which it trained on (reward, labels or shared data)"
    assert f"dpo on sd15_mini, shapes: better on {trained_on}, but worse on aesthetic 0.0 % (***)" in str(finding)


def test_a_judge_with_other_pairs_of_the_same_images_is_matched_by_its_images(world, hacked):
    write_training_data(hacked, digests(["my pairs", "image 1", "image 2"]))
    judge(world.root, "anna", "other pairs", ["image 2", "image 3"])
    write_report(world.root)
    assert hacked.manifest.trained_on == ["anna"]


def test_a_judge_of_other_images_stays_held_out(world, hacked):
    write_training_data(hacked, digests(["my pairs", "image 1"]))
    judge(world.root, "anna", "other pairs", ["image 3"])
    write_report(world.root)
    assert hacked.manifest.trained_on == []


def test_there_is_no_all_clear_where_nothing_was_measured_that_the_method_trained_on(world, hacked):
    tables = build_tables(world.root)
    assert all_clear(tables, "sd15_mini", "shapes") == (
        "No evaluator was measured that dpo trained on, so hacking cannot be seen."
    )


def test_there_is_no_all_clear_without_a_held_out_evaluator(world):
    add(world, "base", {"anna": 0})
    add(world, "dpo", {"anna": 0.03}, trained_on=["anna"])
    text = all_clear(build_tables(world.root), "sd15_mini", "shapes")
    assert text == "No held-out evaluator was measured for dpo, so hacking cannot be seen."


def test_the_all_clear_names_those_for_whom_it_holds(world, hacked):
    add(world, "kto", {"anna": 0.03, "aesthetic": 0.0}, trained_on=["anna"])
    text = all_clear(build_tables(world.root), "sd15_mini", "shapes")
    assert text.startswith("No reward hacking found for kto: no gain on an evaluator that the method trained on")
    assert "that dpo trained on, so hacking cannot be seen" in text
    assert sections(build_tables(world.root))


# ---- the whole way, on a few pictures


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs of a dark and a light picture; the light one is preferred."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = write_pairs(folder, 48)
    (folder / "again").mkdir()
    few = [{**line, "prompt": line["prompt"] + " again"} for line in lines]
    for line in few:
        line |= {key: f"../{line[key]}" for key in ("image_w", "image_l")}
    (folder / "again" / "pairs.jsonl").write_text("\n".join(map(json.dumps, few)))
    return folder


@pytest.fixture(scope="module")
def results(pairs, tmp_path_factory):
    """A results folder with the judge anna, trained on the pairs."""
    root = tmp_path_factory.mktemp("results")
    train_anna(pairs, root)
    return root


def test_a_judge_keeps_digests_of_the_images_that_it_learned_from_and_of_no_held_out_one(results, pairs):
    from evaluators import load

    evaluator = load("judge", path=str(results / "judges" / "anna"))
    num = evaluator.record.data["num_pairs"]
    assert len(evaluator.training_data) == 1 + 2 * (num["train"] + num["validation"])  # and the data set itself


@pytest.mark.slow
def test_a_run_on_the_same_pictures_is_marked_at_training_and_at_scoring(results, pairs):
    """The second data set has other prompts and so another fingerprint, but the same files."""
    for number, folder in enumerate((pairs, pairs / "again")):
        alignbench(
            "method=dpo", "model=sd15_mini", "data=local", f"data.path={folder}", f"results={results}", *FEW,
            f"seed={number}", "stages=[train]",
        )  # fmt: skip
    found = [one["trained_on"] for one in manifests(results).values()]
    assert found == [["anna"], ["anna"]]


def test_a_method_without_images_does_not_share_those_of_its_prompts(pairs):
    data = build(composed(["data=local", f"data.path={pairs}"], "train_reward").data)
    assert data.identities("prompts") == set()
    assert len(data.identities("images")) == 1 + 48
    assert len(data.identities("pairs")) == len(data.identities("labels")) == 1 + 96


def test_shapes_data_of_another_size_share_their_images():
    small, large = (
        build(composed([f"data.num_pairs={num}", "data.num_prompts=8"], "train_reward").data) for num in (8, 16)
    )
    assert small.fingerprint != large.fingerprint
    assert share_data(*(digests(data.identities("pairs")) for data in (small, large)))


def test_a_judge_of_the_same_data_cannot_choose_the_weights(results, pairs, tmp_path):
    command = composed(
        [
            "method=dpo", "model=sd15_mini", "data=local", f"data.path={pairs}", "validation=shapes",
            "+evaluator@evaluators.anna=judge", f"evaluators.anna.path={results}/judges/anna",
            "validation.select=[anna]",
        ]
    )  # fmt: skip
    data = build(command.data)
    seen = digests(data.identities("pairs"))
    with pytest.raises(UserError, match=r"validation\.select=anna learned from data of this training"):
        build_validation(command, [], [data], seen, None, None, None, None)


def test_a_folder_of_version_0_1_0_has_the_digest_of_its_data_alone(hacked, tmp_path):
    hacked.update(fingerprints={"data": "f00d"})
    assert share_data(data_of_run(hacked), data_of_reward_model(tmp_path, "f00d"))
    assert not share_data(data_of_run(hacked), data_of_reward_model(tmp_path, "another"))
