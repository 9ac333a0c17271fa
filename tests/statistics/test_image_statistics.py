"""Statistics of pixels against values found by hand."""

import numpy as np
import pytest

from alignbench.statistics.image_statistics import (
    MEASURES,
    clipped,
    colour_entropy,
    colourfulness,
    edge_density,
    grid_energy,
    image_statistics,
    jpeg_bits,
    reduced,
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


def measured(picture):
    return dict(zip(MEASURES, image_statistics(picture).figures, strict=True))


def test_light_colours_and_edges_of_a_flat_picture_noise_and_a_gradient():
    """Of noise a channel has the standard deviation 1 / sqrt(12), luma 0.668 of it; the 8 x 8 x 8 cells fill evenly.

    The gradient is red from left to right, green from top to bottom, and blue from right to left: 64 cells of colour.
    """
    noise_picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    ramp = np.rint(np.linspace(0, 255, 256)).astype(np.uint8)
    gradient = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], ramp[None, ::-1]), axis=-1)
    expected = {  # brightness, contrast, edge density, colour entropy, colourfulness
        "flat": (np.full_like(gradient, 128), (128 / 255, 0, 0, 0, 0)),
        "noise": (noise_picture, (0.499, 0.193, 0.783, 8.994, 138)),
        "gradient": (gradient, (0.5, 0.178, 0, 6.0, 157)),
    }
    names = ("brightness", "contrast", "edge_density", "colour_entropy", "colourfulness")
    for name, (picture, values) in expected.items():
        found = measured(picture)
        assert [found[measure] for measure in names] == pytest.approx(values, rel=6e-3, abs=1e-6), name


def test_an_edge_is_a_step_of_more_than_a_tenth_a_pixel():
    """A step of 0.3 between two columns is a change of 0.15 a pixel on either side of it; one of 0.19 of less."""
    step = np.zeros((1, 10, 12))
    step[:, :, 6:] = 0.3
    assert edge_density(step) == pytest.approx([2 / 10])  # of the 10 columns inside
    assert edge_density(step.swapaxes(1, 2)) == pytest.approx([2 / 10])
    assert edge_density(step * 0.19 / 0.3) == [0]


def test_a_picture_is_reduced_by_area_also_where_parts_cut_through_pixels():
    luma = np.random.default_rng(0).uniform(size=(2, 6, 15))
    found = reduced(luma, 4)  # 6 x 15 to 4 x 10: parts of 1.5 pixels a side
    fine = luma.repeat(2, axis=1).repeat(2, axis=2)
    assert found == pytest.approx(fine.reshape(2, 4, 3, 10, 3).mean(axis=(2, 4)))
    assert reduced(luma, 6) is luma


def test_edges_of_a_large_picture_are_those_of_the_same_picture_at_512():
    luma = noise(512)
    assert edge_density(reduced(luma.repeat(2, axis=1).repeat(2, axis=2), 512)) == pytest.approx(edge_density(luma))
    picture = np.zeros((600, 520, 3), dtype=np.uint8)
    assert image_statistics(picture).edge_side == 512
    assert image_statistics(picture[:64, :80]).edge_side == 64


def test_the_entropy_of_colours_counts_cells_of_32_levels():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:2, :, 0] = 31  # the same cell as 0
    assert colour_entropy(picture) == 0
    picture[:2, :, 0] = 32
    assert colour_entropy(picture) == 1
    picture[::2, :, 2] = 255
    assert colour_entropy(picture) == 2


def test_colourfulness_of_two_opposite_colours_is_their_spread():
    """Red and green: R - G is 1 and -1, (R + G) / 2 - B is 1 / 2 for both. One colour alone has the shift only."""
    both = np.concatenate([flat(1, 0, 0), flat(0, 1, 0)], axis=3)
    assert colourfulness(both) == pytest.approx([255 * (1 + 0.3 * 0.5)])
    assert colourfulness(flat(0, 0, 1)) == pytest.approx([255 * 0.3])
    assert colourfulness(flat(0.4, 0.4, 0.4)) == pytest.approx([0], abs=1e-9)


def test_noise_needs_more_bits_than_one_colour():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert jpeg_bits(picture) > 5 > 2 > jpeg_bits(np.full_like(picture, 90))
