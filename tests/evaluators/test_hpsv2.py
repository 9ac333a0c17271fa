"""HPSv2 scores as the official package does."""

import json
from pathlib import Path

import pytest
import torch
from open_clip import CLIP

from alignbench.calibrate.official import random_weights
from alignbench.calibrate.samples import SAMPLES, picture
from evaluators.hpsv2 import HPSv2
from evaluators.networks.preprocess import ClipPixels

GOLDEN = Path(__file__).parent / "data" / "hpsv2_golden.json"


@pytest.fixture(scope="module")
def made():
    """What the official package made of the samples."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden(made, tmp_path_factory):
    """Arguments of the evaluator with the weights that the official package had."""
    folder = tmp_path_factory.mktemp("golden")
    with torch.device("meta"):
        state = CLIP(**made["architecture"]["architecture"]).state_dict()
    weights = random_weights({name: tensor.shape for name, tensor in state.items()}, made["seed"])
    torch.save({"state_dict": weights}, folder / "HPS_v2.1_compressed.pt")
    return {"name": "hpsv2_1", "source": str(folder)} | made["architecture"]


def largest_difference(evaluator, made):
    images = [picture(size, mode, seed=number) for number, (size, mode, _) in enumerate(SAMPLES)]
    scores = evaluator.score(images, [prompt for _, _, prompt in SAMPLES])
    return (scores - torch.tensor([sample["official"] for sample in made["samples"]])).abs().max().item()


def test_scores_equal_those_of_the_official_package(golden, made):
    assert [sample["prompt"] for sample in made["samples"]] == [prompt for _, _, prompt in SAMPLES]
    assert largest_difference(HPSv2(**golden), made) < 1e-6
    scores = [sample["official"] for sample in made["samples"]]
    assert len({round(score, 3) for score in scores}) == len(scores)


def test_the_official_scores_notice_aliasing_the_pixels_of_clip_and_another_activation(golden, made):
    assert largest_difference(HPSv2(**golden, preprocess="legacy_noaa"), made) > 1e-4
    cut = HPSv2(**golden)
    cut.preprocess = ClipPixels(224)
    assert largest_difference(cut, made) > 1e-4
    quick = golden["architecture"] | {"quick_gelu": True}
    assert largest_difference(HPSv2(**(golden | {"architecture": quick})), made) > 1e-4
