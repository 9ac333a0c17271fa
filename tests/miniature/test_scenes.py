"""Scenes are drawn by a known law, keep their distance, and look different in each style."""

import itertools
from collections import Counter

import numpy as np
import pytest

from alignbench.miniature.captions import place_of, relation_of
from alignbench.miniature.scenes import (
    COLOURS,
    IMAGE_SIZE,
    MARGIN,
    MIN_GAP,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLE_SHARES,
    STYLES,
    Scene,
    Shape,
    render,
    sample_scene,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(3000)]


def test_the_same_seed_gives_the_same_scene_and_picture():
    pictures = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        pictures.append(render(sample_scene(rng, style="noisy"), rng))
    assert np.array_equal(*pictures)
    assert pictures[0].shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert pictures[0].dtype == np.uint8


def test_numbers_and_styles_follow_their_law(scenes):
    assert np.mean([len(scene.shapes) for scene in scenes]) == pytest.approx(1.5, abs=0.03)
    counts = Counter(scene.style for scene in scenes)
    for style, share in STYLE_SHARES.items():
        assert counts[style] / len(scenes) == pytest.approx(share, abs=0.03)


def test_number_and_style_can_be_given():
    rng = np.random.default_rng(1)
    for number, style in itertools.product((1, 2), STYLES):
        scene = sample_scene(rng, num_shapes=number, style=style)
        assert (len(scene.shapes), scene.style) == (number, style)


def test_every_word_of_the_world_occurs(scenes):
    shapes = [shape for scene in scenes for shape in scene.shapes]
    assert {shape.shape for shape in shapes} == set(SHAPES)
    assert {shape.colour for shape in shapes} == set(COLOURS)
    assert {shape.size for shape in shapes} == set(SIZES)
    assert {place_of(scene) for scene in scenes if len(scene.shapes) == 1} == set(PLACES)
    assert {relation_of(scene) for scene in scenes if len(scene.shapes) == 2} == set(RELATIONS)


def test_shapes_stay_inside_and_apart(scenes):
    for scene in scenes:
        for shape in scene.shapes:
            assert shape.radius + MARGIN - 1e-6 <= min(shape.x, shape.y, 1 - shape.x, 1 - shape.y)
        for first, second in itertools.combinations(scene.shapes, 2):
            assert (first.shape, first.colour) != (second.shape, second.colour)
            apart = max(abs(first.x - second.x), abs(first.y - second.y))
            assert apart >= first.radius + second.radius + MIN_GAP - 1e-6


def test_a_relation_is_clear_along_one_axis(scenes):
    for first, second in (scene.shapes for scene in scenes if len(scene.shapes) == 2):
        along, across = sorted((abs(first.x - second.x), abs(first.y - second.y)), reverse=True)
        assert along > across + 0.05


def pictures_by_style(background: str) -> dict[str, np.ndarray]:
    shape = Shape("circle", "red", "large", 0.45, 0.45, 0.2)
    return {s: render(Scene((shape,), background, s), np.random.default_rng(0)).astype(float) for s in STYLES}


def test_flat_fills_shape_and_background_evenly():
    flat = pictures_by_style("gray")["flat"]
    assert tuple(flat[29, 29]) == COLOURS["red"]
    assert tuple(flat[2, 2]) == (140, 140, 140)
    assert len(np.unique(flat[25:33, 25:33].reshape(-1, 3), axis=0)) == 1


def test_shaded_is_lit_from_the_upper_left_and_casts_a_shadow_to_the_lower_right():
    shaded = pictures_by_style("gray")["shaded"].mean(axis=-1)
    assert shaded[22, 22] > shaded[29, 29] > shaded[35, 35]
    assert shaded[40, 41] < 110 < 135 < shaded[17, 17]
    assert shaded[60, 4] == 140


def test_outlined_draws_a_dark_line_and_a_light_one_on_black():
    for background, dark in (("white", True), ("black", False)):
        pictures = pictures_by_style(background)
        edge = pictures["outlined"][29, 15:18].mean(axis=-1)
        assert (edge.min() < 60) if dark else (edge.max() > 190)
        assert tuple(pictures["outlined"][29, 29]) == COLOURS["red"]


def test_noisy_grains_the_whole_picture_and_only_it_uses_the_generator():
    noisy = pictures_by_style("gray")["noisy"]
    assert noisy[40:, :, 0].std() > 15
    shape = Shape("cross", "blue", "small", 0.5, 0.5, 0.1)
    for style in STYLES:
        pair = [render(Scene((shape,), "beige", style), np.random.default_rng(seed)) for seed in (0, 1)]
        assert np.array_equal(*pair) == (style != "noisy")


@pytest.mark.parametrize("style", STYLES)
def test_each_kind_of_shape_covers_another_area(style):
    areas = []
    for kind in SHAPES:
        pixels = render(Scene((Shape(kind, "blue", "large", 0.5, 0.5, 0.2),), "white", style), np.random.default_rng(0))
        areas.append(int((pixels[..., 2].astype(int) - pixels[..., 0] > 60).sum()))
    assert min(abs(a - b) for a, b in itertools.combinations(areas, 2)) > 20
