"""How a picture of any size becomes a square one: by how much it is resized, and what is cut out of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """The square that training sees of a picture. Lengths in pixels, heights before widths.

    Attributes:
        original: size of the picture as it came.
        resized: its size when the square is cut out of it.
        corner: top and left of the square in the resized picture.
        side: of the square.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    side: int

    @property
    def time_ids(self) -> tuple[int, ...]:
        """What SDXL is told of the picture: original size, corner of the crop, target size, each height first.

        Source: Podell et al. 2023 (SDXL), section 2.2; the order is that of diffusers.
        """
        return (*self.original, *self.corner, self.side, self.side)


def centre_frame(height: int, width: int, side: int) -> Frame:
    """Return the frame of a picture whose short side is resized to `side`, and whose centre is cut out then."""
    scale = side / min(height, width)
    resized = (height, width)
    if scale != 1.0:
        resized = (max(side, round(height * scale)), max(side, round(width * scale)))
    return Frame((height, width), resized, ((resized[0] - side) // 2, (resized[1] - side) // 2), side)
