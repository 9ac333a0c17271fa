"""A warning says where a reward model scores images that are unlike all that it has seen."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from alignbench.report.display import mean_ranks, sections
from alignbench.report.hacking import changes, far_from_training
from alignbench.report.markdown import markdown
from alignbench.report.tables import build
from alignbench.store.reward_model_folder import RANGE, FeatureRange, pooled
from tests.cases.own_judges import train_anna, write_pairs


def test_the_limit_is_what_99_percent_of_other_images_lie_below():
    generator = torch.Generator().manual_seed(0)
    trained, others = (torch.randn(1000, 8, generator=generator) * 3 + 1 for _ in range(2))
    seen = FeatureRange.of(trained, others)
    assert (seen.distance(others) < 1).float().mean() == pytest.approx(0.99, abs=0.002)
    assert seen.distance(others + 30).min() > 1
    assert seen.distance(torch.ones(1, 8)).item() < 0.2  # the middle of what was seen


def test_tokens_count_by_their_mean():
    assert pooled(torch.ones(2, 5, 3)).shape == (2, 3)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A judge of dark and light pictures of little noise."""
    root = tmp_path_factory.mktemp("judge")
    write_pairs(root, 64)
    train_anna(root, root)
    return root


def test_the_distance_is_an_evaluator_of_its_own(judge):
    from evaluators import load

    distance = load("judge_distance", path=str(judge / "judges" / "anna"))
    assert (distance.name, distance.higher_is_better) == ("anna_distance", False)
    stripes = Image.fromarray(np.tile(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), (32, 64, 1)))
    far, near = distance.score([stripes, judge / "0-w.png"], ["a", "b"]).tolist()
    assert far > 1 > near


def test_a_judge_of_version_0_1_0_has_no_distance(judge, tmp_path):
    import shutil

    from evaluators import load

    folder = shutil.copytree(judge / "judges" / "anna", tmp_path / "old")
    (folder / RANGE).unlink()
    record = json.loads((folder / "config.json").read_text())
    del record["files"], record["check"]
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match="judge anna was trained by a version that noted nothing of its training images"
    ):
        load("judge_distance", path=str(folder))


def test_a_distance_is_no_quality(world):
    """It is in no mean rank, and to be far away is no loss by a held-out evaluator."""
    for evaluator, worse in (("anna_distance", 1.0), ("clip", 0.0)):
        info = {"evaluator": evaluator, "higher_is_better": False}
        world.run("base", [0.5, 0.6, 0.7, 0.8], **info)
        world.run("dpo", [0.5 + worse, 0.6 + worse, 0.7 + worse, 0.8 + worse], **info)
    tables = build(world.root)
    [section] = sections(tables)
    assert mean_ranks(section) == {"base": 1.5, "dpo": 1.5}
    [of_dpo] = changes(tables).values()
    assert [one.evaluator for one in of_dpo] == ["clip"]


def test_the_report_warns_in_words(world):
    world.run("base", [0.5, 0.6, 0.7, 0.8], evaluator="anna_distance", higher_is_better=False)
    world.run("dpo", [1.5, 1.6, 1.7, 1.8], evaluator="anna_distance", higher_is_better=False)
    tables = build(world.root)
    [found] = far_from_training(tables)
    text = str(found)
    assert text.startswith("far from its training images: anna scores images of dpo on sd15_mini, shapes, whose median")
    assert "distance is 1.65" in text
    assert "> far from its training images: anna" in markdown(tables)
