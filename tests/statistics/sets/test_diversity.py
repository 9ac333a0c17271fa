"""Distances of pairs against plain loops over all pairs."""

from itertools import combinations, product

import numpy as np
import pytest

from alignbench.statistics.resampling import Resampling
from alignbench.statistics.sets.diversity import Distance, Diversity


def made(num_prompts=6, num_images=2, dimensions=3, seed=0, repeated=()):
    """Vectors [N, K], the images, and their prompt texts; prompts whose place is in `repeated` share one text."""
    rng = np.random.default_rng(seed)
    images = [(f"p{i}", k) for i in range(num_prompts) for k in range(num_images)]
    texts = ["same" if int(p[1:]) in repeated else p for p, _ in images]
    return rng.normal(size=(len(images), dimensions)), images, texts


def by_loops(vectors, images, texts, pairs):
    found = []
    for (x, (p, i), s), (y, (q, j), t) in combinations(zip(vectors, images, texts, strict=True), 2):
        if (pairs == "prompts" and i == j and s != t) or (pairs == "noise" and p == q):
            found.append(np.square(x - y).mean())
    return np.sqrt(np.mean(found))


@pytest.mark.parametrize("pairs", ["prompts", "noise"])
@pytest.mark.parametrize("repeated", [(), (1, 4)])
def test_the_distance_is_that_of_all_pairs(pairs, repeated):
    vectors, images, texts = made(repeated=repeated)
    found = Diversity([vectors[None]], images, Resampling(texts, 50), pairs).value(0)
    assert found.value == pytest.approx(by_loops(vectors, images, texts, pairs))


@pytest.mark.parametrize("pairs", ["prompts", "noise"])
def test_the_interval_is_that_of_resampled_prompts_without_pairs_of_a_prompt_with_its_copy(pairs):
    vectors, images, texts = made()
    resampling = Resampling(texts, 40)
    plain = []
    for counts in resampling.counts:
        drawn = [i for i in range(len(images)) for _ in range(counts[resampling.cluster[i]])]
        copies = {}
        keys = []
        for i in drawn:  # every copy of a prompt is a prompt of its own to the noise, and the same text to others
            copies[i] = copies.get(i, -1) + 1
            keys.append((f"{images[i][0]}/{copies[i]}", images[i][1]))
        plain.append(by_loops(vectors[drawn], keys, [texts[i] for i in drawn], pairs))
    found = Diversity([vectors[None]], images, resampling, pairs).value(0)
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]))


@pytest.mark.parametrize("pairs", ["prompts", "noise"])
def test_the_p_value_is_the_share_of_exchanges_that_differ_as_much(pairs):
    """Of every prompt the images of the two methods change sides or not: all 64 ways, by plain loops."""
    (a, images, texts), (b, *_) = made(), made(seed=1)
    b = 0.4 * b
    values = []
    for sides in product([False, True], repeat=6):
        swapped = np.repeat(sides, 2)[:, None]
        one, other = np.where(swapped, b, a), np.where(swapped, a, b)
        squared = (by_loops(x, images, texts, pairs) ** 2 for x in (one, other))
        values.append(next(squared) - next(squared))
    expected = np.mean(np.abs(values) >= abs(values[0]) - 1e-9)
    difference, p_value = Diversity([a[None], b[None]], images, Resampling(texts, 50), pairs).compare(0, 1)
    assert p_value == pytest.approx(expected)
    assert difference.value > 0
    assert difference.value == pytest.approx(by_loops(a, images, texts, pairs) - by_loops(b, images, texts, pairs))


def test_equal_images_have_no_diversity():
    vectors, images, texts = made()
    found = Diversity([np.ones_like(vectors)[None]], images, Resampling(texts, 50), "prompts").value(0)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_several_seeds_give_the_mean_of_their_distances():
    (a, images, texts), (b, *_) = made(), made(seed=1)
    found = Diversity([np.stack([a, 3 * b])], images, Resampling(texts, 50), "prompts").value(0)
    expected = (by_loops(a, images, texts, "prompts") + by_loops(3 * b, images, texts, "prompts")) / 2
    assert found.value == pytest.approx(expected)


def test_one_image_a_prompt_has_no_diversity_of_noise():
    vectors, images, texts = made(num_images=1)
    assert not Diversity([vectors[None]], images, Resampling(texts, 50), "noise").is_defined
    assert Diversity([vectors[None]], images, Resampling(texts, 50), "prompts").is_defined


@pytest.mark.parametrize("pairs", ["prompts", "noise"])
def test_the_distance_of_whole_vectors_is_that_of_the_numbers_times_the_root_of_how_many(pairs):
    (a, images, texts), (b, *_) = made(), made(seed=1)
    each, whole = (kind([a[None], b[None]], images, Resampling(texts, 50), pairs) for kind in (Diversity, Distance))
    assert whole.name == f"distance_{pairs}"
    assert whole.value(1).value == pytest.approx(np.sqrt(3) * each.value(1).value)
    assert whole.over_base(1)[1] == each.compare(1, 0)[1]
