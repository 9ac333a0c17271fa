"""Statistics of pixels against values found by hand."""

import numpy as np
import pytest

from alignbench.statistics.image_statistics import (
    MEASURES,
    clipped,
    grid_energy,
    image_statistics,
    saturation,
    sharpness,
    thumbnails,
    to_luma,
)


def flat(red, green, blue, side=64):
    """A picture of one colour, [1, 3, side, side]."""
    return np.broadcast_to(np.array([red, green, blue], dtype=float)[:, None, None], (1, 3, side, side))


def checkerboard(cell, side=128):
    """Squares of black and white, [1, side, side]."""
    place = np.arange(side) // cell
    return ((place[:, None] + place[None]) % 2.0)[None]


def noise(side=128, seed=0):
    return np.random.default_rng(seed).uniform(size=(1, side, side))


@pytest.mark.parametrize(
    ("colour", "value"),
    [((1, 0, 0), 1.0), ((0.5, 0.25, 0.25), 0.5), ((0.3, 0.3, 0.3), 0.0), ((0, 0, 0), 0.0), ((1.0, 0.75, 0.9), 0.25)],
)
def test_the_saturation_of_one_colour_is_that_of_hsv(colour, value):
    """(max - min) / max: whole for a pure hue, half where grey is mixed to half of it, nothing for grey and black."""
    assert saturation(flat(*colour)) == pytest.approx([value])


def test_the_saturation_of_an_image_is_the_mean_over_its_pixels():
    assert saturation(np.concatenate([flat(1, 0, 0), flat(1, 1, 1)], axis=3)) == pytest.approx([0.5])


def test_sharpness_is_the_variance_of_the_laplacian():
    """Of a checkerboard of single pixels the Laplacian is 4 on black and -4 on white: variance 16, in 255 levels."""
    assert sharpness(checkerboard(1)) == pytest.approx([16 * 255**2])
    assert sharpness(to_luma(flat(0.2, 0.4, 0.6))) == pytest.approx([0.0], abs=1e-6)
    ramp = np.broadcast_to(np.linspace(0, 1, 64), (1, 64, 64))
    assert sharpness(ramp) == pytest.approx([0.0], abs=1e-6)  # a slope has no edge


def test_luma_weighs_the_channels_and_keeps_white():
    assert to_luma(flat(1, 1, 1)) == pytest.approx(1.0)
    assert to_luma(flat(0, 1, 0)) == pytest.approx(0.587)


def test_a_flat_image_has_no_grid():
    assert [float(one[0]) for one in grid_energy(to_luma(flat(0.2, 0.4, 0.6)))] == pytest.approx([0, 0])


@pytest.mark.parametrize(("period", "place"), [(8, 0), (16, 1)])
def test_a_wave_stands_out_at_its_own_frequency_by_its_power_over_that_of_rounding(period, place):
    """A wave of amplitude A along the rows, in a Hann window of N samples w.

    Its power there is (A sum(w) / 2)^2 / sum(w^2) = A^2 N / 6 and nothing two bins further, where rounding alone is
    left. It is one of eight figures: four multiples in two directions.
    """
    amplitude, size = 0.25, 128
    wave = amplitude * np.sin(2 * np.pi * np.arange(size) / period)
    found = grid_energy(np.broadcast_to(0.5 + wave, (1, size, size)))
    expected = 10 * np.log10(1 + (amplitude**2 * size / 6) * 12 * 255**2) / 8
    assert found[place] == pytest.approx([expected])
    assert found[1 - place] == pytest.approx([0.0], abs=1e-4)


def test_squares_of_8_pixels_repeat_every_16_and_those_of_4_every_8():
    eights = [float(one[0]) for one in grid_energy(checkerboard(8))]
    fours = [float(one[0]) for one in grid_energy(checkerboard(4))]
    assert eights[0] == pytest.approx(0, abs=1e-3)
    assert eights[1] > 50
    assert fours[0] > 20
    assert fours[1] == pytest.approx(0, abs=1e-3)


def test_noise_has_no_grid_and_a_faint_one_in_it_is_found():
    """Lines every 8 pixels of a tenth of full contrast, in noise of half of it."""
    plain = np.array([[one[0] for one in grid_energy(0.5 * noise(seed=seed))] for seed in range(20)])
    assert np.abs(plain.mean(axis=0)).max() < 0.2
    assert plain.std(axis=0).max() < 0.4
    faint = np.zeros((1, 128, 128))
    faint[:, ::8] += 0.1
    faint[:, :, ::8] += 0.1
    found = grid_energy(0.5 * noise() + faint)
    assert found[0] > 2
    assert abs(found[1]) < 1


def test_contrast_makes_no_grid():
    low, high = (grid_energy(0.5 + contrast * (noise() - 0.5)) for contrast in (0.25, 1.0))
    assert low[0] == pytest.approx(high[0], abs=0.01)


def test_images_too_small_for_a_grid_have_none():
    eights, sixteens = grid_energy(noise(side=48))
    assert np.isfinite(eights).all()
    assert np.isnan(sixteens).all()


def test_clipped_values_are_those_at_either_end():
    assert clipped(flat(0, 1, 0.5)) == pytest.approx([2 / 3])


def test_a_thumbnail_holds_the_mean_of_each_cell_plane_by_plane():
    pixels = np.zeros((1, 3, 16, 16))
    pixels[0, 1, 2:4, 0:2] = 1  # the first cell of the second row, green
    pixels[0, 2, 15, 15] = 1  # a quarter of the last cell, blue
    found = thumbnails(pixels).reshape(3, 8, 8)
    assert (found[1, 1, 0], found[2, 7, 7], found.sum()) == (1.0, 0.25, 1.25)


def test_sides_that_8_does_not_divide_have_thumbnails_too():
    found = thumbnails(np.broadcast_to(np.linspace(0, 1, 13), (1, 3, 10, 13))).reshape(3, 8, 8)
    assert (np.diff(found, axis=2) > 0).all()


def test_a_picture_of_8_bits_has_the_figures_of_its_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    found = dict(zip(MEASURES, image_statistics(picture).figures, strict=True))
    pixels = picture.transpose(2, 0, 1)[None] / 255
    assert found["saturation"] == pytest.approx(saturation(pixels)[0], rel=1e-5)
    assert found["grid_8"] == pytest.approx(grid_energy(to_luma(pixels))[0][0], abs=1e-3)
    assert image_statistics(picture).thumbnail == pytest.approx(255 * thumbnails(pixels)[0], abs=0.51)
