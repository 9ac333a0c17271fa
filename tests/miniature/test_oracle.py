from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from alignbench.miniature import oracle
from alignbench.miniature.captions import demand_of, parse
from alignbench.miniature.scenes import BACKGROUNDS, COLOURS, SHAPES, STYLES, Scene, Shape, render, sample_scene

NUM_QUICK, NUM_THOROUGH = 80, 2000

CIRCLE = Shape("circle", "red", "large", x=0.26, y=0.5, radius=0.19)
CROSS = Shape("cross", "blue", "small", x=0.74, y=0.5, radius=0.11)
PAIR = Scene((CIRCLE, CROSS), "white", "flat")
PAIR_PROMPT = "a large red circle left of a small blue cross, white background"


def draw(scene):
    return render(scene, np.random.default_rng(0))


def as_image(values):
    return np.clip(np.asarray(values) + 0.5, 0, 255).astype(np.uint8)


def intact(image, rng):
    return image


def blurred(image, rng):
    return as_image(ndimage.gaussian_filter(image.astype(float), (0.7, 0.7, 0)))


def grainy(image, rng):
    return as_image(image + rng.normal(0, 6, image.shape))


@pytest.fixture(scope="module")
def through_autoencoder():
    """The shipped autoencoder as a way to spoil images."""
    import torch
    from diffusers import AutoencoderKL

    from alignbench.miniature.weights import FOLDER

    vae = AutoencoderKL.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32).eval()

    @torch.no_grad()
    def spoil(image, rng):
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0].permute(1, 2, 0)
        return as_image(127.5 * (decoded.numpy() + 1))

    return spoil


def one_other(rng, names, than):
    return str(rng.choice([name for name in names if name != than]))


def with_fault(scene, fault, rng):
    """Plant one fault in a scene; None where the scene cannot have it."""
    index = int(rng.integers(len(scene.shapes)))
    shape, rest = scene.shapes[index], scene.shapes[:index] + scene.shapes[index + 1 :]
    if fault == "wrong colour":
        return replace(scene, shapes=(replace(shape, colour=one_other(rng, COLOURS, shape.colour)), *rest))
    if fault == "wrong shape":
        return replace(scene, shapes=(replace(shape, shape=one_other(rng, SHAPES, shape.shape)), *rest))
    if fault == "wrong background":
        return replace(scene, background=one_other(rng, BACKGROUNDS, scene.background))
    if fault == "missing object":
        return replace(scene, shapes=rest)
    if len(scene.shapes) == 2:
        first, second = scene.shapes
        return replace(scene, shapes=(replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)))
    if demand_of(scene).place == "center":
        return None
    return replace(scene, shapes=(replace(shape, x=1 - shape.x, y=1 - shape.y),))


def share_read_right(num_scenes, spoil, seed):
    """Share of random scenes of which every fact and the style are read right."""
    rng = np.random.default_rng(seed)
    right = []
    for _ in range(num_scenes):
        scene = sample_scene(rng)
        reading = oracle.read(spoil(render(scene, rng), rng))
        right.append(all(oracle.facts(reading, demand_of(scene)).values()) and reading.style == scene.style)
    return np.mean(right)


def share_of_faults_found(num_scenes, fault, spoil, seed):
    """Share of random scenes with one planted fault that are not judged all right for the original demand."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < num_scenes:
        scene = sample_scene(rng)
        faulty = with_fault(scene, fault, rng)
        if faulty is not None:
            image = spoil(render(faulty, rng), rng)
            found.append(not oracle.all_right(image, str(demand_of(scene))))
    return np.mean(found)


CONDITIONS = pytest.mark.parametrize("spoil", [intact, blurred, grainy])
FAULTS = pytest.mark.parametrize(
    "fault", ["wrong colour", "wrong shape", "wrong background", "missing object", "swapped places"]
)


@CONDITIONS
def test_renderings_are_read_right(spoil):
    assert share_read_right(NUM_QUICK, spoil, seed=0) >= 0.97


@FAULTS
def test_a_planted_fault_is_found(fault):
    assert share_of_faults_found(NUM_QUICK // 2, fault, intact, seed=1) >= 0.95


@pytest.mark.matrix
def test_renderings_and_planted_faults_are_read_right_through_the_autoencoder(through_autoencoder):
    assert share_read_right(NUM_QUICK, through_autoencoder, seed=0) >= 0.95
    assert share_of_faults_found(NUM_QUICK // 2, "wrong colour", through_autoencoder, seed=1) >= 0.95


@CONDITIONS
def test_a_flat_image_where_a_shaded_one_was_asked_for_is_found(spoil):
    rng = np.random.default_rng(2)
    for _ in range(NUM_QUICK // 4):
        scene = sample_scene(rng, style="shaded")
        shaded, flat = (oracle.read(spoil(render(replace(scene, style=s), rng), rng)) for s in ("shaded", "flat"))
        assert (shaded.style, flat.style) == ("shaded", "flat")
        assert shaded.realism > flat.realism + 0.4


@CONDITIONS
def test_added_noise_is_found(spoil):
    rng = np.random.default_rng(3)
    for _ in range(NUM_QUICK // 4):
        scene = sample_scene(rng, style=one_other(rng, STYLES, "noisy"))
        image = spoil(render(scene, rng), rng)
        noisier = as_image(image + rng.normal(0, 15, image.shape))
        assert oracle.cleanliness(noisier) < oracle.cleanliness(image) - 0.2


@pytest.mark.matrix
@CONDITIONS
def test_renderings_are_read_right_on_many_scenes(spoil):
    assert share_read_right(NUM_THOROUGH, spoil, seed=2) >= 0.99


@pytest.mark.matrix
@CONDITIONS
@FAULTS
def test_a_planted_fault_is_found_on_many_scenes(fault, spoil):
    assert share_of_faults_found(NUM_THOROUGH // 4, fault, spoil, seed=3) >= 0.98


@pytest.mark.matrix
def test_many_renderings_are_read_right_through_the_autoencoder(through_autoencoder):
    assert share_read_right(NUM_THOROUGH // 4, through_autoencoder, seed=4) >= 0.95


@pytest.mark.matrix
@FAULTS
def test_every_planted_fault_is_found_through_the_autoencoder(fault, through_autoencoder):
    assert share_of_faults_found(NUM_THOROUGH // 8, fault, through_autoencoder, seed=5) >= 0.95


def test_a_scene_as_asked_for_agrees_in_full():
    assert oracle.agreement(draw(PAIR), PAIR_PROMPT) == 1.0
    assert oracle.all_right(draw(PAIR), PAIR_PROMPT)


def test_each_unmet_demand_lowers_agreement_by_its_share():
    prompt = "a green circle left of a blue cross, white background"  # number, background, 2 kinds, 2 colours, relation
    assert oracle.agreement(draw(PAIR), prompt) == pytest.approx(6 / 7)
    assert not oracle.all_right(draw(PAIR), prompt)


def test_facts_name_what_is_wrong():
    demand = parse("a small red circle right of a blue square, gray background")
    wrong = {name for name, right in oracle.facts(oracle.read(draw(PAIR)), demand).items() if not right}
    assert wrong == {"size 1", "shape 2", "arrangement", "background"}


def test_a_wrong_size_lowers_agreement_but_leaves_the_rest_all_right():
    prompt = PAIR_PROMPT.replace("large", "small")
    assert oracle.agreement(draw(PAIR), prompt) < 1.0
    assert oracle.all_right(draw(PAIR), prompt)


def test_mirrored_wordings_agree_alike():
    assert oracle.agreement(draw(PAIR), "a small blue cross right of a large red circle, white background") == 1.0


def test_a_shape_too_many_is_not_all_right():
    assert not oracle.all_right(draw(PAIR), "a red circle on the left, white background")


def test_the_style_word_is_no_demand_on_the_content():
    assert oracle.agreement(draw(PAIR), f"shaded. {PAIR_PROMPT}") == 1.0


def test_an_empty_image_shows_nothing_but_its_background():
    reading = oracle.read(np.full((64, 64, 3), 245, np.uint8))
    assert (reading.background, reading.seen, reading.realism) == ("white", (), 0.0)
    assert oracle.agreement(np.full((64, 64, 3), 245, np.uint8), PAIR_PROMPT) == pytest.approx(1 / 9)


def test_pure_noise_is_judged_without_complaint():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert oracle.agreement(image, PAIR_PROMPT) < 0.5
    assert oracle.realism(image) < 0.05
    assert oracle.cleanliness(image) < 0.05


def test_a_prompt_outside_the_grammar_is_refused():
    with pytest.raises(ValueError, match="not of the shapes world"):
        oracle.agreement(draw(PAIR), "a photo of a cat")


def test_the_judgements_of_a_reading_are_those_of_its_image():
    image = draw(replace(PAIR, style="shaded"))
    reading = oracle.read(image)
    assert oracle.realism(image) == reading.realism
    assert oracle.cleanliness(image) == reading.cleanliness
    assert oracle.style(image) == reading.style
