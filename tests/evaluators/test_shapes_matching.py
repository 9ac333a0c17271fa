"""The BLIP of the shapes world scores by the path of ImageReward, and says whether all of a prompt is right."""

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.miniature.captions import demand_of
from alignbench.miniature.scenes import render, sample_scene
from evaluators import load
from evaluators.image_reward import ImageReward

OTHER_PROMPTS = ["a photo of a cat", "", "漢字 🙂"]


@pytest.fixture(scope="module")
def evaluator() -> ImageReward:
    found = load("shapes_matching")
    assert isinstance(found, ImageReward)
    return found


@pytest.fixture(scope="module")
def scenes():
    drawn = [np.random.default_rng(seed) for seed in range(6)]
    return [(scene, Image.fromarray(render(scene, rng))) for rng in drawn for scene in [sample_scene(rng)]]


def test_a_prompt_is_more_probable_of_its_own_scene_than_of_others(evaluator, scenes):
    prompts = [str(demand_of(scene)) for scene, _ in scenes]
    images = [image for _, image in scenes]
    scores = torch.stack([evaluator.score(images, [prompt] * len(images)) for prompt in prompts])
    assert (scores.argmax(dim=1) == torch.arange(len(images))).all()
    assert (scores.diagonal() > 0).all()  # log-odds
    assert evaluator.calibrated_on == "scenes"


def test_scores_do_not_depend_on_the_batch(evaluator, scenes):
    images = [image for _, image in scenes[:3]]
    together = evaluator.score(images, OTHER_PROMPTS)
    alone = torch.cat([evaluator.score([image], [text]) for image, text in zip(images, OTHER_PROMPTS, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert together.dtype == torch.float32


def test_it_computes_in_float32_and_has_a_gradient(evaluator, scenes):
    assert {parameter.dtype for parameter in evaluator.network.parameters()} == {torch.float32}
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for _, image in scenes[:2]])
    pixels.requires_grad_()
    evaluator.reward(pixels, [str(demand_of(scene)) for scene, _ in scenes[:2]]).sum().backward()
    assert (pixels.grad != 0).double().mean() > 0.99
