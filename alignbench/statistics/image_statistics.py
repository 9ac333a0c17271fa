"""What pixels alone say of an image: light, colours, edges, clipping and grids, and its colours in the large.

None of these is good or bad in itself. They move when a policy pleases a reward by something other than better images.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import rfft

Floats = NDArray[np.floating]

VERSION = "2"  # of the table that keeps the figures; raised whenever it gets others
# The version since which each measure is as it is now: figures of one version can be compared, whatever table has them.
MEASURES = {
    **dict.fromkeys(("saturation", "sharpness", "grid_8", "grid_16", "clipped"), "1"),
    **dict.fromkeys(("brightness", "contrast", "edge_density", "colour_entropy", "colourfulness", "jpeg_bits"), "2"),
}
EDGE_SIDE = 512  # pixels of the short side at which edges are counted: what is larger is reduced to it
EDGE_STEP = 0.1  # change of luma a pixel above which there is an edge
COLOUR_BINS = 8  # a channel
JPEG_QUALITY = 95
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in most programs that turn pictures grey
THUMBNAIL = 8  # cells a side of the low resolution at which diversity is measured
ROUNDING = 1 / (12 * 255**2)  # variance of what is lost when a value is rounded to 8 bits


@dataclass(frozen=True)
class ImageStatistics:
    """The statistics of one image.

    Attributes:
        figures: in the order of `MEASURES`; NaN where the image is too small for a measure.
        thumbnail: mean colours of `THUMBNAIL` x `THUMBNAIL` cells, [3 * 64], uint8, plane by plane.
        edge_side: short side in pixels at which edges were counted. Images of another are not compared by their edges.
    """

    figures: tuple[float, ...]
    thumbnail: NDArray[np.uint8]
    edge_side: int


def image_statistics(picture: NDArray[np.uint8]) -> ImageStatistics:
    """Return the statistics of one picture, [H, W, 3]."""
    pixels = np.ascontiguousarray(picture.transpose(2, 0, 1))[None].astype(np.float32) / np.float32(255)
    luma = to_luma(pixels)
    found = {
        "saturation": saturation(pixels),
        "sharpness": sharpness(luma),
        **dict(zip(("grid_8", "grid_16"), grid_energy(luma), strict=True)),
        "clipped": clipped(pixels),
        "brightness": luma.mean(axis=(1, 2), dtype=np.float64),
        "contrast": luma.std(axis=(1, 2), dtype=np.float64),
        "edge_density": edge_density(reduced(luma, EDGE_SIDE)),
        "colour_entropy": [colour_entropy(picture)],
        "colourfulness": colourfulness(pixels),
        "jpeg_bits": [jpeg_bits(picture)],
    }
    small = np.rint(255 * thumbnails(pixels)).astype(np.uint8)
    edge_side = min(EDGE_SIDE, *picture.shape[:2])
    return ImageStatistics(tuple(float(found[name][0]) for name in MEASURES), small[0], edge_side)


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


def edge_density(luma: Floats) -> Floats:
    """Return the share of pixels at an edge, [B], 0..1: where luma changes by more than `EDGE_STEP` a pixel.

    The change is the length of the gradient by central differences; pixels of the border have none. It depends on the
    resolution, so images are reduced to one size first, see `reduced`.
    """
    across = (luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]) / 2
    down = (luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]) / 2
    return (np.square(across) + np.square(down) > EDGE_STEP**2).mean(axis=(1, 2))


def reduced(luma: Floats, side: int) -> Floats:
    """Return luma, [B, H, W], with the short side at `side` pixels by area; what is smaller is returned as it is."""
    height, width = luma.shape[1:]
    short = min(height, width)
    if short <= side:
        return luma
    return _area_means(_area_means(luma, 1, round(height * side / short)), 2, round(width * side / short))


def _area_means(values: Floats, axis: int, size: int) -> Floats:
    """Return the means over `size` equal parts of an axis, which may cut through pixels."""
    sums = np.cumsum(values, axis=axis, dtype=np.float64)
    sums = np.concatenate([np.zeros_like(np.take(sums, [0], axis)), sums], axis=axis)  # from the start to each pixel
    ends = np.linspace(0, values.shape[axis], size + 1)
    below = np.minimum(ends.astype(np.intp), values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = size + 1
    share = (ends - below).reshape(shape)
    at_ends = (1 - share) * np.take(sums, below, axis) + share * np.take(sums, below + 1, axis)
    return np.diff(at_ends, axis=axis) * (size / values.shape[axis])


def colour_entropy(picture: NDArray[np.uint8]) -> float:
    """Return the Shannon entropy of a picture's colours, [H, W, 3], in bits, 0..9, in 8 x 8 x 8 equal cells of RGB."""
    cells = (picture // (256 // COLOUR_BINS)).astype(np.uint16)
    red, green, blue = cells[..., 0], cells[..., 1], cells[..., 2]
    counts = np.bincount(((red * COLOUR_BINS + green) * COLOUR_BINS + blue).ravel())
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no minus before a zero


def colourfulness(pixels: Floats) -> Floats:
    """Return how colourful people find an image, [B], 0 for grey, about 33 for moderately and 82 for highly colourful.

    Source: Hasler and Suesstrunk 2003, Measuring colourfulness in natural images, metric M(3), in levels of 0..255.
    """
    red, green, blue = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    opponents = np.stack([red - green, (red + green) / 2 - blue])  # [2, B, H, W]
    spread = np.square(opponents.std(axis=(2, 3), dtype=np.float64)).sum(axis=0)
    shift = np.square(opponents.mean(axis=(2, 3), dtype=np.float64)).sum(axis=0)
    return 255 * (np.sqrt(spread) + 0.3 * np.sqrt(shift))


def jpeg_bits(picture: NDArray[np.uint8]) -> float:
    """Return the size of a picture, [H, W, 3], as a JPEG file of quality 95, in bits a pixel: detail and noise cost."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return 8 * file.tell() / (picture.shape[0] * picture.shape[1])


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
