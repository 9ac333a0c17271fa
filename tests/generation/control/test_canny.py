"""Canny's edges are those of OpenCV."""

import hashlib

import numpy as np
import pytest

from alignbench.generation.control.canny import canny


def picture(height, width):
    """A disc on stripes and facets: edges of all directions and strengths, and ties between neighbours."""
    y, x = np.mgrid[:height, :width]
    red = 40 + 180 * ((x - 20) ** 2 + (y - 18) ** 2 < 150) + x % 7
    green = (3 * x + 5 * y) % 200
    blue = 255 - (x * y) // 9 % 256
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "thresholds", "num_edges", "digest"),
    [
        ((40, 48), (100, 200), 128, "12649f3880479e16"),
        ((33, 31), (50, 60), 85, "e35bd751e9d3fe3b"),
        ((40, 48), (0, 0), 166, "8a71f085cebe962f"),
        ((64, 64), (300, 700), 225, "bfc647d387f2f282"),
    ],
)
def test_edges_are_those_that_opencv_finds(size, thresholds, num_edges, digest):
    """Digests of what cv2.Canny of OpenCV 5.0.0 returned for these pictures."""
    edges = canny(picture(*size), *thresholds)
    assert set(np.unique(edges)) <= {0, 255}
    assert (edges > 0).sum() == num_edges
    assert hashlib.sha256(np.packbits(edges > 0).tobytes()).hexdigest()[:16] == digest


def test_a_grey_picture_has_the_edges_of_its_one_channel():
    grey = picture(40, 48)[..., 0]
    edges = canny(grey, 100, 200)
    assert hashlib.sha256(np.packbits(edges > 0).tobytes()).hexdigest()[:16] == "89d47584ebb8e967"
    assert np.array_equal(edges, canny(np.stack([grey] * 3, axis=2), 100, 200))


def test_weak_edges_stay_only_where_they_lead_to_strong_ones():
    step = np.zeros((20, 20), np.uint8)
    step[:, 10:] = 30  # strength 120
    assert not canny(step, 100, 200).any()
    step[0, 10:] = 60  # one strong pixel at the end of the weak line
    edges = canny(step, 100, 200)
    assert (edges[2:, 9:11] > 0).any(axis=1).all()
