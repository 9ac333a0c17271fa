"""The oracle's evaluators tell right from wrong, shaded from flat and clean from noisy."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.miniature.captions import demand_of, prompts
from alignbench.miniature.scenes import STYLES, Scene, render, sample_scene
from evaluators.shapes_oracle import Aspect, ShapesOracle

SCENES = [sample_scene(np.random.default_rng(seed)) for seed in range(8)]


def drawn(scene: Scene, style: str) -> Image.Image:
    return Image.fromarray(render(replace(scene, style=style), np.random.default_rng(0)))


def plain_prompt(scene: Scene) -> str:
    return str(replace(demand_of(scene), style=None))


@pytest.mark.parametrize("style", STYLES)
def test_a_rendered_scene_agrees_with_its_own_caption_and_less_with_others(style):
    images, texts = [drawn(scene, style) for scene in SCENES], [plain_prompt(scene) for scene in SCENES]
    oracle = ShapesOracle("agreement")
    assert oracle.score(images, texts).mean() > 0.98
    assert oracle.score(images, texts[1:] + texts[:1]).mean() < 0.7


def test_shaded_scenes_are_more_real_than_flat_ones_and_noisy_scenes_less_clean():
    texts = [plain_prompt(scene) for scene in SCENES]
    score = {
        (aspect, style): ShapesOracle(aspect).score([drawn(scene, style) for scene in SCENES], texts)
        for aspect in ("realism", "cleanliness")
        for style in STYLES
    }
    assert (score["realism", "shaded"] > score["realism", "flat"] + 0.3).all()
    assert (score["cleanliness", "flat"] > score["cleanliness", "noisy"] + 0.3).all()


@pytest.mark.parametrize("aspect", get_args(Aspect))
def test_scores_lie_in_their_range_and_do_not_depend_on_the_batch(aspect):
    oracle = ShapesOracle(aspect)
    images, texts = [drawn(scene, scene.style) for scene in SCENES], prompts("heldout", len(SCENES), seed=0)
    scores = oracle.score(images, texts)
    assert scores.dtype == torch.float32
    assert ((scores >= oracle.range[0]) & (scores <= oracle.range[1])).all()
    alone = torch.cat([oracle.score([image], [text]) for image, text in zip(images, texts, strict=True)])
    assert torch.equal(scores, alone)


def test_a_larger_picture_is_read_at_64_pixels():
    large = [drawn(scene, "flat").resize((512, 512), Image.Resampling.BICUBIC) for scene in SCENES]
    assert ShapesOracle("agreement").score(large, [plain_prompt(scene) for scene in SCENES]).mean() > 0.95


def test_agreement_refuses_prompts_outside_the_grammar_and_the_other_aspects_do_not():
    texts = ["a red circle in the center, black background", "a photo of a cat"]
    refusal = ShapesOracle("agreement").supports(texts)
    assert refusal is not None
    assert "shapes_oracle_agreement" in refusal
    assert "1 of 2 prompts" in refusal
    assert "'a photo of a cat'" in refusal
    assert ShapesOracle("agreement").supports(texts[:1]) is None
    assert ShapesOracle("realism").supports(texts) is None
    assert ShapesOracle("cleanliness").supports(texts) is None


def test_prompts_outside_the_grammar_are_scored_by_what_reads_the_image_alone():
    image, inside, outside = drawn(SCENES[0], "shaded"), plain_prompt(SCENES[0]), "a photo of a cat"
    for aspect in ("realism", "cleanliness"):
        scores = ShapesOracle(aspect).score([image, image], [inside, outside])
        assert scores[0] == scores[1]


def test_an_unknown_aspect_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="aspect=beauty is unknown; available: agreement, realism, cleanliness"):
        ShapesOracle("beauty")  # pyright: ignore[reportArgumentType]
