"""The comparer of the shapes world prefers what its people prefer, and the first image by a known amount."""

import numpy as np
import pytest
from PIL import Image

from alignbench.miniature.captions import caption
from alignbench.miniature.scenes import render, sample_scene
from evaluators.comparers.shapes import ShapesComparer
from evaluators.shapes_annotators import ShapesAnnotators


@pytest.fixture(scope="module")
def scenes():
    """Eight scenes with their prompts."""
    rng = np.random.default_rng(0)
    made = [sample_scene(rng, num_shapes=1, style=style) for style in ("flat", "shaded") * 4]
    images = [Image.fromarray(render(scene, np.random.default_rng(n))) for n, scene in enumerate(made)]
    return images, [caption(scene, np.random.default_rng(n), False) for n, scene in enumerate(made)]


def test_log_odds_are_the_difference_of_utilities_and_the_bias(scenes):
    images, prompts = scenes
    comparer, scorer = ShapesComparer(position_bias=0.5), ShapesAnnotators()
    inputs = comparer.preprocess(images)
    found = comparer.compare(inputs[:4], inputs[4:], prompts[:4])
    utility = [scorer.score(part, prompts[:4]) for part in (images[:4], images[4:])]
    assert [one.log_odds for one in found] == pytest.approx((utility[0] - utility[1] + 0.5).tolist(), abs=1e-5)
    assert np.std([one.log_odds for one in found]) > 0.1
    back = comparer.compare(inputs[4:], inputs[:4], prompts[:4])
    assert [a.log_odds + b.log_odds for a, b in zip(found, back, strict=True)] == pytest.approx([1.0] * 4)


def test_another_bias_is_another_comparer():
    assert ShapesComparer(1.0).identity != ShapesComparer(2.0).identity


def test_other_prompts_are_refused():
    assert "shapes_comparer judges by prompts of the shapes world alone" in ShapesComparer().supports(["a photo"])
    assert ShapesComparer().supports([]) is None
