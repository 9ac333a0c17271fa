"""CMMD against plain loops over all pairs, and what its estimate and its test promise."""

from itertools import product

import numpy as np
import pytest

from alignbench.statistics.resampling import Resampling
from alignbench.statistics.sets.cmmd import Cmmd, kernel


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def made(num_prompts=6, num_images=1, dimensions=5, seed=0, shift=0.0, spread=1.0, num_seeds=1):
    """Unit vectors around a mean, [S, N, D], the images, and their prompt texts."""
    rng = np.random.default_rng(seed)
    images = [(f"p{i:03d}", k) for i in range(num_prompts) for k in range(num_images)]
    centre = np.ones(dimensions)
    centre[0] += shift
    vectors = centre + spread * rng.normal(size=(num_seeds, len(images), dimensions))
    return unit(vectors), images, [prompt_id for prompt_id, _ in images]


def by_loops(x, y, texts):
    """The unbiased estimate, without pairs of one prompt."""
    total = count = 0
    for i, j in product(range(len(x)), repeat=2):
        if texts[i] != texts[j]:
            parts = ((x[i], x[j], 1), (y[i], y[j], 1), (x[i], y[j], -2))
            total += sum(sign * np.exp(-np.square(a - b).sum() / (2 * 10**2)) for a, b, sign in parts)
            count += 1
    return 1000 * total / count


@pytest.mark.parametrize(("num_images", "num_seeds"), [(1, 1), (3, 1), (2, 2)])
def test_the_distance_is_that_of_all_pairs_of_different_prompts(num_images, num_seeds):
    (base, images, texts), (own, *_) = (
        made(num_images=num_images, seed=1),
        made(num_images=num_images, shift=1, num_seeds=num_seeds),
    )
    texts[-num_images:] = texts[:num_images]  # two prompts of one text
    found = Cmmd([base, own], images, Resampling(texts, 10))
    assert found.value(1).value == pytest.approx(np.mean([by_loops(seed, base[0], texts) for seed in own]))
    assert found.over_base(1)[0] == found.value(1)
    assert found.value(0).value == 0


def test_the_published_estimate_is_larger_by_what_pairs_of_an_image_with_itself_add():
    (x, images, texts), (y, *_) = made(40, shift=1), made(40, seed=1)
    x, y = x[0], y[0]
    published = 1000 * (kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())
    others = ~np.eye(40, dtype=bool)
    bias = sum(1000 * (1 - kernel(one, one)[others].mean()) / 40 for one in (x, y))
    without_itself = 1000 * (kernel(x, x)[others].mean() + kernel(y, y)[others].mean() - 2 * kernel(x, y).mean())
    assert published == pytest.approx(without_itself + bias)
    found = Cmmd([y[None], x[None]], images, Resampling(texts, 10)).value(1).value
    assert found == pytest.approx(without_itself, rel=0.05)  # which has pairs of one prompt across


def test_the_interval_is_that_of_leaving_out_one_prompt_at_a_time():
    (base, images, texts), (own, *_) = made(8, 2, seed=1), made(8, 2, shift=1)
    found = Cmmd([base, own], images, Resampling(texts, 10)).value(1)
    names = np.array(texts)
    left = [
        by_loops(own[0][names != out], base[0][names != out], [text for text in texts if text != out])
        for out in dict.fromkeys(texts)
    ]
    error = np.sqrt(7 / 8 * np.square(np.array(left) - np.mean(left)).sum())
    assert found.high - found.value == pytest.approx(2.364624 * error, rel=1e-5)  # Student, 7 degrees of freedom
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_the_p_value_is_the_share_of_exchanges_with_as_large_a_distance():
    (base, images, texts), (own, *_) = made(5, 2, seed=1), made(5, 2, shift=1.5)
    values = []
    for sides in product([False, True], repeat=5):
        swapped = np.repeat(sides, 2)[:, None]
        values.append(by_loops(np.where(swapped, base[0], own[0]), np.where(swapped, own[0], base[0]), texts))
    expected = np.mean(np.array(values) >= values[0] - 1e-9)
    assert Cmmd([base, own], images, Resampling(texts, 10)).over_base(1)[1] == pytest.approx(expected)


def test_two_copies_have_no_distance_and_a_p_value_of_1():
    base, images, texts = made(30)
    found, p_value = Cmmd([base, base], images, Resampling(texts, 10)).over_base(1)
    assert (found.value, found.low, found.high, p_value) == (0, 0, 0, 1)


def test_a_shift_is_found_and_half_the_spread_is_not():
    base, images, texts = made(60, seed=1)
    shifted, narrow = made(60, seed=2, shift=1)[0], 0.5 * (base - base.mean(axis=1, keepdims=True))
    found = Cmmd([base, shifted, narrow + base.mean(axis=1, keepdims=True)], images, Resampling(texts, 10))
    assert found.over_base(1)[1] < 0.001
    assert abs(found.value(2).value) < 0.02 < 0.2 < found.value(1).value


def test_seeds_that_disagree_are_no_proof():
    base, images, texts = made(40, seed=1)
    near, far = made(40, seed=2)[0], made(40, seed=3, shift=1)[0]
    found = Cmmd([base, np.concatenate([near, far])], images, Resampling(texts, 10)).over_base(1)
    assert found[1] > 0.05
    assert found[0].low < 0 < found[0].high


def test_two_prompts_are_too_few():
    base, images, texts = made(2)
    assert not Cmmd([base, base], images, Resampling(texts, 10)).is_defined
