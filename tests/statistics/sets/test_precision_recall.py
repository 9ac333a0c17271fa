"""Precision and recall against plain loops over images and their neighbours."""

from itertools import product

import numpy as np
import pytest

from alignbench.statistics.resampling import Resampling
from alignbench.statistics.sets.precision_recall import Precision, Recall, is_inside


def made(num_prompts=8, dimensions=3, seed=0, spread=1.0, num_seeds=1):
    """Two images of each prompt, [S, N, D]."""
    images = [(f"p{i:03d}", k) for i in range(num_prompts) for k in range(2)]
    vectors = spread * np.random.default_rng(seed).normal(size=(num_seeds, len(images), dimensions))
    return vectors, images, [prompt_id for prompt_id, _ in images]


def by_loops(points, centres):
    """Say which points lie in a ball of another prompt's centre, which reaches to its third nearest neighbour."""
    radii = [sorted(np.linalg.norm(centres - centre, axis=1))[3] for centre in centres]  # the first is itself
    reached = [np.linalg.norm(centres - point, axis=1) <= radii for point in points]
    return [any(inside for j, inside in enumerate(of_point) if j != i) for i, of_point in enumerate(reached)]


def test_a_point_is_inside_where_a_ball_of_another_prompt_has_it():
    a, b = np.random.default_rng(0).normal(size=(2, 9, 2))
    assert is_inside(a, b).tolist() == by_loops(a, b)
    assert 0 < is_inside(a, b).sum() < 9


def test_first_images_are_compared_with_base_s_second_ones():
    (base, images, texts), (own, *_) = made(), made(seed=1)
    first, second = (own[0][::2], base[0][::2]), base[0][1::2]
    for kind, shares in (
        (Precision, [np.mean(by_loops(one, second)) for one in first]),
        (Recall, [np.mean(by_loops(second, one)) for one in first]),
    ):
        found = kind([base, own], images, Resampling(texts, 10))
        assert [found.value(1).value, found.value(0).value] == pytest.approx(shares)
        assert found.over_base(1)[0].value == pytest.approx(shares[0] - shares[1])
        assert np.isnan(found.value(1).low)


@pytest.mark.parametrize("kind", [Precision, Recall])
def test_the_p_value_is_the_share_of_exchanges_that_differ_as_much(kind):
    """Of every prompt the images of the method and of base change sides or not: all 64 ways, by plain loops."""
    (base, images, texts), (own, *_) = made(6), made(6, seed=1, spread=0.4)
    second, values = base[0][1::2], []
    for sides in product([False, True], repeat=6):
        swapped = np.array(sides)[:, None]
        both = (np.where(swapped, base[0][::2], own[0][::2]), np.where(swapped, own[0][::2], base[0][::2]))
        inside = [by_loops(one, second) if kind is Precision else by_loops(second, one) for one in both]
        values.append(np.mean(inside[0]) - np.mean(inside[1]))
    found, p_value = kind([base, own], images, Resampling(texts, 10)).over_base(1)
    assert p_value == pytest.approx(np.mean(np.abs(values) >= abs(values[0]) - 1e-9))
    assert found.high - found.value == pytest.approx(2.570582 * np.sqrt(np.square(values).mean()), rel=1e-5)


def test_a_collapsed_set_has_the_difference_of_the_two_shares():
    """All of its images lie at one of base's, nearer to it than any other of base's: more than `NEAREST` of them."""
    base, images, texts = made(100)
    own = base[:, :1] + 0.02 * np.random.default_rng(1).normal(size=base.shape)
    found = Recall([base, own], images, Resampling(texts, 10))
    expected = found.value(1).value - found.value(0).value
    assert expected < -0.7
    assert found.over_base(1)[0].value == pytest.approx(expected)


def test_half_the_spread_has_full_precision_and_no_recall():
    (base, images, texts), (own, *_) = made(60, 64, seed=1), made(60, 64, spread=0.5)
    precision, recall = (kind([base, own], images, Resampling(texts, 10)) for kind in (Precision, Recall))
    assert (precision.value(1).value, recall.value(1).value) == (1, 0)
    assert 0.5 < precision.value(0).value < 0.9
    gain, p_value = recall.over_base(1)
    assert gain.high < 0
    assert p_value < 0.01


def test_a_copy_of_base_is_as_base():
    base, images, texts = made(30)
    for kind in (Precision, Recall):
        found, p_value = kind([base, base], images, Resampling(texts, 10)).over_base(1)
        assert (found.value, found.low, found.high, p_value) == (0, 0, 0, 1)


def test_prompts_with_one_image_have_nothing_to_be_compared_with():
    base, images, texts = made()
    single = slice(0, None, 2)
    assert not Precision([base[:, single]], images[single], Resampling(texts[single], 10)).is_defined
    few = slice(0, 8)  # four prompts: each has three others, so every ball holds all
    assert not Recall([base[:, few]], images[few], Resampling(texts[few], 10)).is_defined
