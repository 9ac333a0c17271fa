"""Vendi scores against their definition and known limits."""

import numpy as np
import pytest
from scipy.linalg import logm

from alignbench.statistics.resampling import Resampling
from alignbench.statistics.sets.vendi import Vendi, vendi_score


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def with_cosine(num, cosine):
    """Vectors of which each two have this cosine."""
    return np.linalg.cholesky(np.full((num, num), cosine) + (1 - cosine) * np.eye(num))


def test_equal_images_are_worth_one_and_orthogonal_ones_their_number():
    assert vendi_score(np.tile([[0.6, 0.8]], (5, 1))) == pytest.approx(1)
    assert vendi_score(np.eye(7)[:5]) == pytest.approx(5)


def test_it_is_the_exponential_of_the_entropy_of_the_matrix_of_cosines():
    rows = unit(np.random.default_rng(0).normal(size=(6, 9)))
    matrix = rows @ rows.T / 6
    assert vendi_score(rows) == pytest.approx(np.exp(-np.trace(matrix @ logm(matrix))))
    dual = np.linalg.eigvalsh(rows.T @ rows / 6)
    dual = dual[dual > 1e-12]
    assert vendi_score(rows) == pytest.approx(np.exp(-(dual * np.log(dual)).sum()))


@pytest.mark.parametrize(("num", "value"), [(2, 1.39), (4, 1.80), (8, 2.24), (16, 2.69)])
def test_it_grows_with_the_number_of_images_although_they_are_as_alike(num, value):
    """The eigenvalues are 0.8 + 0.2 / n, and n - 1 times 0.2 / n."""
    first, rest = 0.8 + 0.2 / num, 0.2 / num
    exact = np.exp(-first * np.log(first) - (num - 1) * rest * np.log(rest))
    assert vendi_score(with_cosine(num, 0.8)) == pytest.approx(exact)
    assert exact == pytest.approx(value, abs=0.01)


def made(num_prompts, num_images, cosine, seed=0):
    """Images of one prompt with about this cosine, [1, N, D]."""
    rng = np.random.default_rng(seed)
    rows = [with_cosine(num_images, cosine + 0.05 * rng.uniform()) for _ in range(num_prompts)]
    images = [(f"p{i}", k) for i in range(num_prompts) for k in range(num_images)]
    return np.concatenate(rows)[None], images, [prompt_id for prompt_id, _ in images]


def test_the_figure_is_the_mean_over_prompts_and_says_of_how_many_images():
    (base, images, texts), (own, *_) = made(10, 5, 0.8), made(10, 5, 0.5, seed=1)
    found = Vendi([base, own], images, Resampling(texts, 100))
    assert found.name == "vendi_5"
    scores = [vendi_score(own[0, 5 * i : 5 * i + 5]) for i in range(10)]
    assert found.value(1).value == pytest.approx(np.mean(scores))
    gain, p_value = found.over_base(1)
    assert gain.value == pytest.approx(found.value(1).value - found.value(0).value)
    assert gain.low > 0
    assert p_value == 2 * 2**-10  # the only way as clear, and its mirror


def test_prompts_are_compared_by_the_number_of_images_that_all_have():
    rows, images, texts = made(4, 6, 0.7)
    kept = [i for i, (prompt_id, number) in enumerate(images) if not (prompt_id == "p2" and number > 3)]
    found = Vendi([rows[:, kept]], [images[i] for i in kept], Resampling([texts[i] for i in kept], 10))
    assert found.name == "vendi_4"
    scores = [vendi_score(rows[0, 6 * i : 6 * i + 4]) for i in range(4)]
    assert found.value(0).value == pytest.approx(np.mean(scores))


@pytest.mark.parametrize(("num", "is_defined"), [(3, False), (4, True)])
def test_fewer_than_four_images_of_a_prompt_say_no_more_than_their_cosines(num, is_defined):
    rows, images, texts = made(3, num, 0.7)
    assert Vendi([rows], images, Resampling(texts, 10)).is_defined == is_defined
