"""How a picture of any size becomes one of a given size: what it is resized to, and what is cut out of it."""

from dataclasses import dataclass
from math import floor

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class CropBox:
    """What training sees of a picture. Lengths in pixels, heights before widths.

    Attributes:
        original: size of the picture as it came.
        resized: its size when it is cut.
        corner: top and left of the part that is cut out, in the resized picture; mirrored before, where it is.
        size: of that part.
        flipped: whether the picture is mirrored, left to right, before it is cut.
    """

    original: Size
    resized: Size
    corner: Size
    size: Size
    flipped: bool = False

    @classmethod
    def uncropped(cls, size: Size) -> "CropBox":
        """Return the frame of a picture that came in the size that training sees."""
        return cls(size, size, (0, 0), size)

    @property
    def time_ids(self) -> tuple[int, ...]:
        """What SDXL is told of the picture: original size, corner of the crop, target size, each height first.

        A mirrored picture counts as one that came so, and nothing is told of it.

        Source: Podell et al. 2023 (SDXL), section 2.2; the order is that of diffusers, and so is the mirroring.
        """
        return (*self.original, *self.corner, *self.size)


@dataclass(frozen=True)
class CropSpec:
    """What to cut out of a picture, whatever its size: both images of a pair are cut alike.

    The picture is resized until it just covers `size`; something is left over along one side at most.

    Attributes:
        size: of the part that is cut out.
        place: how far from the top and from the left it lies, as shares 0..1 (exclusive) of what is left over, between
            none of it and all; None for the centre.
        flipped: whether the picture is mirrored, left to right, before it is cut.
    """

    size: Size
    place: tuple[float, float] | None = None
    flipped: bool = False

    def frame(self, height: int, width: int) -> CropBox:
        """Return the frame of a picture of a height and a width in pixels."""
        scale = max(self.size[0] / height, self.size[1] / width)
        resized = (height, width)
        if scale != 1.0:
            resized = (max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale)))
        left_over = (resized[0] - self.size[0], resized[1] - self.size[1])
        if self.place is None:
            corner = (left_over[0] // 2, left_over[1] // 2)
        else:  # every pixel is as probable a corner as any other
            corner = (floor(self.place[0] * (left_over[0] + 1)), floor(self.place[1] * (left_over[1] + 1)))
        return CropBox((height, width), resized, corner, self.size, self.flipped)

    @property
    def name(self) -> str:
        """Tells cuts apart: `512x512` for a centre, and more for others."""
        name = f"{self.size[0]}x{self.size[1]}"
        if self.place is not None:
            name += f"@{self.place[0]!r},{self.place[1]!r}"
        return f"{name} flipped" if self.flipped else name
