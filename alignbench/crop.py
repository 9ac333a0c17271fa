"""How an image of any size becomes one of a given size: what it is resized to, and which part of it is kept."""

from dataclasses import dataclass
from math import floor

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class CropBox:
    """The part of one image that training sees. Lengths are in pixels, heights before widths.

    Attributes:
        original: size of the image as it is stored.
        resized: size of the image after resizing and before cropping.
        corner: top and left of the crop in the resized image; if the image is mirrored, in the mirrored one.
        size: size of the crop.
        flipped: whether the image is mirrored, left to right, before it is cropped.
    """

    original: Size
    resized: Size
    corner: Size
    size: Size
    flipped: bool = False

    @classmethod
    def uncropped(cls, size: Size) -> "CropBox":
        """Return the box of an image that is stored in the size that training sees."""
        return cls(size, size, (0, 0), size)

    @property
    def time_ids(self) -> tuple[int, ...]:
        """The numbers that SDXL is given: original size, corner of the crop, size of the crop, each height first.

        SDXL is not told that an image is mirrored.

        Source: Podell et al. 2023 (SDXL), section 2.2; the order and the mirroring are those of diffusers.
        """
        return (*self.original, *self.corner, *self.size)


@dataclass(frozen=True)
class CropSpec:
    """How to crop an image of any size: both images of a pair have one specification.

    The image is resized until it just covers `size`. Then it is too long along one side at most, by its surplus.

    Attributes:
        size: size of the crop.
        offset: shares of the surplus that are cut off at the top and at the left, 0..1 (exclusive); None for the
            centre.
        flipped: whether the image is mirrored, left to right, before it is cropped.
    """

    size: Size
    offset: tuple[float, float] | None = None
    flipped: bool = False

    def box(self, height: int, width: int) -> CropBox:
        """Return the crop of an image, given its height and width in pixels."""
        scale = max(self.size[0] / height, self.size[1] / width)
        resized = (height, width)
        if scale != 1.0:
            resized = (max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale)))
        surplus = (resized[0] - self.size[0], resized[1] - self.size[1])
        if self.offset is None:
            corner = (surplus[0] // 2, surplus[1] // 2)
        else:  # every pixel is as probable a corner as any other
            corner = (floor(self.offset[0] * (surplus[0] + 1)), floor(self.offset[1] * (surplus[1] + 1)))
        return CropBox((height, width), resized, corner, self.size, self.flipped)

    @property
    def name(self) -> str:
        """A name that tells crops apart: `512x512` for the centre; offset and mirroring are added to it."""
        name = f"{self.size[0]}x{self.size[1]}"
        if self.offset is not None:
            name += f"@{self.offset[0]!r},{self.offset[1]!r}"
        return f"{name} flipped" if self.flipped else name
