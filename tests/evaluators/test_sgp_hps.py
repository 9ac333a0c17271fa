"""SGP-HPS is HPSv2.1 of one reading of the prompt against another."""

import pytest
import torch

from alignbench.errors import UserError
from evaluators.hpsv2 import HPSv2
from evaluators.sgp_hps import SgpHps


@pytest.fixture(scope="module")
def hpsv2(weights, architecture):
    return HPSv2("hpsv2_1", source=weights["hpsv2_1"], architecture=architecture)


def test_both_readings_compare_the_wanted_word_with_the_unwanted_one(hpsv2, photos):
    images, prompts = photos(3, 64), ["a fox", "a horse", "a fox"]
    wanted = hpsv2.score(images, [f"Realistic photo. {prompt}" for prompt in prompts])
    unwanted = hpsv2.score(images, [f"CG Render. {prompt}" for prompt in prompts])
    difference, softmax = (SgpHps(reading, hpsv2).score(images, prompts) for reading in ("difference", "softmax"))
    torch.testing.assert_close(difference, wanted - unwanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(softmax, torch.stack([100 * wanted, 100 * unwanted]).softmax(dim=0)[0])
    assert difference.abs().min() > 1e-4


def test_the_readings_are_evaluators_of_their_own(hpsv2):
    difference, softmax = SgpHps("difference", hpsv2), SgpHps("softmax", hpsv2)
    assert (difference.name, softmax.name) == ("sgp_hps_difference", "sgp_hps_softmax")
    assert difference.preprocess == softmax.preprocess == hpsv2.preprocess
    assert (difference.display_scale, softmax.display_scale) == (100.0, 1.0)
    assert softmax.range == (0.0, 1.0)
    with pytest.raises(UserError, match="reading=ratio is unknown; available: difference, softmax"):
        SgpHps("ratio", hpsv2)
