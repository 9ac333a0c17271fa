"""What pixels alone say of an image: how saturated, sharp, clipped and grid-like it is, and its colours in the large.

None of these is good or bad in itself. They move when a policy pleases a reward by something other than better images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

Floats = NDArray[np.floating]

VERSION = "1"  # raised whenever a figure could change
MEASURES = ("saturation", "sharpness", "grid_8", "grid_16", "clipped")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in most programs that turn pictures grey
THUMBNAIL = 8  # cells a side of the low resolution at which diversity is measured
ROUNDING = 1 / (12 * 255**2)  # variance of what is lost when a value is rounded to 8 bits


@dataclass(frozen=True)
class ImageStatistics:
    """The statistics of one image.

    Attributes:
        figures: in the order of `MEASURES`; NaN where the image is too small for a measure.
        thumbnail: mean colours of `THUMBNAIL` x `THUMBNAIL` cells, [3 * 64], uint8, plane by plane.
    """

    figures: tuple[float, ...]
    thumbnail: NDArray[np.uint8]


def image_statistics(picture: NDArray[np.uint8]) -> ImageStatistics:
    """Return the statistics of one picture, [H, W, 3]."""
    pixels = np.ascontiguousarray(picture.transpose(2, 0, 1))[None].astype(np.float32) / np.float32(255)
    luma = to_luma(pixels)
    figures = (saturation(pixels), sharpness(luma), *grid_energy(luma), clipped(pixels))
    small = np.rint(255 * thumbnails(pixels)).astype(np.uint8)
    return ImageStatistics(tuple(float(values[0]) for values in figures), small[0])


def to_luma(pixels: Floats) -> Floats:
    """Return the grey picture, [B, H, W] in 0..1, of pixels [B, 3, H, W] in 0..1."""
    red, green, blue = (np.asarray(weight, pixels.dtype) for weight in LUMA)
    return red * pixels[:, 0] + green * pixels[:, 1] + blue * pixels[:, 2]


def saturation(pixels: Floats) -> Floats:
    """Return the mean saturation of HSV, [B], 0..1: (max - min) / max of each pixel's channels, 0 for black.

    Source: the measure by which guidance was shown to oversaturate (Sadat et al. 2024, arXiv 2410.02416).
    """
    highest, lowest = pixels.max(axis=1), pixels.min(axis=1)
    share = np.divide(highest - lowest, highest, out=np.zeros_like(highest), where=highest > 0)
    return share.mean(axis=(1, 2), dtype=np.float64)


def sharpness(luma: Floats) -> Floats:
    """Return the variance of the Laplacian of luma, [B], in levels of 0..255: the usual measure of focus.

    Source: Pech-Pacheco et al. 2000, with the kernel of four neighbours; pixels of the border have no value.
    """
    inside = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return 255**2 * (around - 4 * inside).var(axis=(1, 2), dtype=np.float64)


def clipped(pixels: Floats) -> Floats:
    """Return the share of values that are as dark or as bright as they can be, [B], 0..1."""
    return ((pixels <= 0) | (pixels >= 1)).mean(axis=(1, 2, 3))


def grid_energy(luma: Floats) -> tuple[Floats, Floats]:
    """Return how far the power at the frequencies of a grid of 8 and of 16 pixels stands out, [B] each, in dB.

    A pattern that repeats every p pixels, as decoders and patches leave it behind, has all its power at the multiples
    of 1 / p cycles a pixel, where the spectrum of other images is as smooth as elsewhere. At each of these the power
    (spectra of all rows averaged, then those of all columns; Hann window) is divided by the geometric mean of that two
    to four bins beside it. The result is the mean of 10 log10 over multiples and both directions: 0 for no grid,
    whatever the contrast, 3 for twice the power of the neighbours. The noise of rounding to 8 bits is added to every
    power, so that a flat image has 0.

    Args:
        luma: [B, H, W], 0..1; cropped to multiples of 16 pixels. What was resized has lost its grid.

    Returns:
        At the multiples of 1/8: cells of a VAE that reduces by 8. And at the odd multiples of 1/16, which are not among
        them: patches of two such cells. NaN where a side is under 32 or 64 pixels, too short to tell them from others.
    """
    directions = (_power(luma), _power(luma.swapaxes(1, 2)))
    return _standing_out(directions, spacing_of=8, step=1), _standing_out(directions, spacing_of=16, step=2)


def _standing_out(directions: tuple[Floats, Floats], spacing_of: int, step: int) -> Floats:
    found = []
    for power in directions:
        spacing = 2 * (power.shape[1] - 1) // spacing_of  # bins between two multiples
        if spacing < 4:  # the window widens each multiple by a bin on either side
            return np.full(len(power), np.nan)
        distances = np.arange(2, min(4, spacing // 2) + 1)
        for multiple in spacing * np.arange(1, spacing_of // 2 + 1, step):
            beside = np.concatenate([multiple - distances, multiple + distances])
            beside = beside[beside < power.shape[1]]  # nothing is above half a cycle a pixel
            found.append(np.log10(power[:, multiple]) - np.log10(power[:, beside]).mean(axis=1))
    return 10 * np.mean(found, axis=0)


def _power(luma: Floats) -> Floats:
    """Return the power of each frequency along the last axis, averaged over the other, [B, N / 2 + 1]."""
    size = luma.shape[2] // 16 * 16
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(luma.dtype)
    values = np.ascontiguousarray(luma[:, :, :size])
    spectrum = np.asarray(rfft((values - values.mean(axis=2, keepdims=True)) * window, axis=2))
    power = np.square(np.real(spectrum)) + np.square(np.imag(spectrum))
    return power.mean(axis=1, dtype=np.float64) / float(np.square(window).sum()) + ROUNDING


def thumbnails(pixels: Floats) -> Floats:
    """Return the mean colour of each of 8 x 8 cells, [B, 3 * 64]; they share pixels where 8 does not divide a side."""
    for axis in (2, 3):
        size = pixels.shape[axis]
        bounds = [(i * size // THUMBNAIL, -(-(i + 1) * size // THUMBNAIL)) for i in range(THUMBNAIL)]
        cells = [np.take(pixels, range(*ends), axis=axis).mean(axis=axis, dtype=np.float64) for ends in bounds]
        pixels = np.stack(cells, axis=axis)
    return pixels.reshape(len(pixels), -1)
