import numpy as np
import pytest

from alignbench.miniature.captions import (
    Demand,
    DemandedShape,
    caption,
    content_of,
    demand_of,
    is_scene_prompt,
    parse,
    place_of,
    prompts,
    relation_of,
    split_of,
)
from alignbench.miniature.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Shape

CIRCLE = Shape("circle", "red", "large", x=0.25, y=0.5, radius=0.2)
CROSS = Shape("cross", "yellow", "small", x=0.7, y=0.55, radius=0.1)


def every_caption(scene, style_word):
    """The set of captions that 200 draws give."""
    rng = np.random.default_rng(0)
    return {caption(scene, rng, style_word) for _ in range(200)}


def test_a_caption_names_size_colour_shape_place_and_background():
    scene = Scene((CIRCLE,), "white", "flat")
    assert every_caption(scene, style_word=False) == {
        "a large red circle on the left, white background",
        "a red circle on the left, white background",
    }


def test_a_caption_of_two_shapes_relates_the_first_to_the_second():
    scene = Scene((CROSS, CIRCLE), "gray", "flat")
    assert "a small yellow cross right of a large red circle, gray background" in every_caption(scene, False)
    assert "a yellow cross right of a red circle, gray background" in every_caption(scene, False)


def test_a_style_word_stands_in_front_like_a_control_word_of_srpo():
    scene = Scene((CIRCLE,), "white", "shaded")
    assert "shaded. a large red circle on the left, white background" in every_caption(scene, style_word=True)


def test_size_words_are_left_out_three_times_in_ten():
    rng = np.random.default_rng(0)
    captions = [caption(Scene((CIRCLE,), "white", "flat"), rng, False) for _ in range(2000)]
    assert np.mean(["large" not in text for text in captions]) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [(0.2, 0.4, "left"), (0.8, 0.6, "right"), (0.45, 0.2, "top"), (0.6, 0.9, "bottom"), (0.55, 0.45, "center")],
)
def test_the_place_of_a_shape_follows_from_its_centre(x, y, place):
    assert place_of(Scene((Shape("square", "blue", "small", x, y, 0.1),), "white", "flat")) == place


def test_swapping_two_shapes_mirrors_their_relation():
    assert relation_of(Scene((CIRCLE, CROSS), "white", "flat")) == "left of"
    assert relation_of(Scene((CROSS, CIRCLE), "white", "flat")) == "right of"


def test_parsing_inverts_writing():
    for prompt in prompts("train", 300, seed=0) + prompts("heldout", 300, seed=0):
        assert str(parse(prompt)) == prompt
        assert str(parse(f"shaded. {prompt}")) == f"shaded. {prompt}"


def test_parsing_a_caption_gives_what_the_scene_shows():
    scene = Scene((CIRCLE, CROSS), "beige", "outlined")
    fullest = max(every_caption(scene, style_word=True), key=len)
    assert parse(fullest) == demand_of(scene)
    assert parse("a red circle in the center, black background") == Demand(
        (DemandedShape("circle", "red", None),), place="center", relation=None, background="black", style=None
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a photo of a cat",
        "a red circle",
        "a red circle on the left, pink background",
        "a red circle on the left, white background.",
        "a red circle on the left of a blue square, white background",
        "pretty. a red circle on the left, white background",
        "a red circle on the left, white background\n",
    ],
)
def test_a_prompt_outside_the_grammar_is_refused(prompt):
    assert not is_scene_prompt(prompt)
    with pytest.raises(ValueError, match="not of the shapes world"):
        parse(prompt)


def test_two_wordings_of_one_picture_share_their_content():
    left = parse("shaded. a large red circle left of a blue square, white background")
    right = parse("a blue square right of a small red circle, white background")
    assert content_of(left) == content_of(right) == "a red circle left of a blue square, white background"


def test_nothing_held_out_is_ever_a_training_prompt():
    train, heldout = ({content_of(parse(p)) for p in prompts(split, 3000, seed=3)} for split in ("train", "heldout"))
    assert not train & heldout
    assert all(split_of(parse(f"noisy. {content}")) == "heldout" for content in heldout)


def test_prompts_are_distinct_repeatable_and_half_of_them_ask_for_one_shape():
    drawn = prompts("train", 400, seed=1)
    assert len(set(drawn)) == 400
    assert drawn == prompts("train", 400, seed=1)
    assert drawn != prompts("train", 400, seed=2)
    assert np.mean([parse(p).relation is None for p in drawn]) == pytest.approx(0.5, abs=0.1)


def test_a_fifth_of_the_contents_is_held_out():
    nouns = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    contents = [f"{a} above {b}, {background} background" for a in nouns for b in nouns for background in BACKGROUNDS]
    assert np.mean([split_of(parse(content)) == "heldout" for content in contents]) == pytest.approx(0.2, abs=0.02)


def test_asking_for_more_prompts_than_there_are_is_refused():
    with pytest.raises(ValueError, match="holds"):
        prompts("heldout", 10**6, seed=0)
    with pytest.raises(ValueError, match="available: train, heldout"):
        prompts("test", 1, seed=0)
