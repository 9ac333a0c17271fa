"""How pictures are brought to a size: worked by hand."""

import pytest

from alignbench.crop import CropBox, CropSpec


@pytest.mark.parametrize(
    ("height", "width", "resized", "corner"),
    [
        (512, 512, (512, 512), (0, 0)),  # nothing to do
        (1024, 1024, (512, 512), (0, 0)),  # smaller, uncropped
        (600, 800, (512, 683), (0, 85)),  # 800 * 512 / 600 = 682.67; (683 - 512) / 2 = 85.5
        (800, 600, (683, 512), (85, 0)),
        (100, 300, (512, 1536), (0, 512)),  # larger
        (512, 700, (512, 700), (0, 94)),  # cropped alone
    ],
)
def test_the_short_side_is_resized_and_the_centre_cut_out(height, width, resized, corner):
    assert CropSpec((512, 512)).box(height, width) == CropBox((height, width), resized, corner, (512, 512))


def test_sdxl_is_told_height_before_width_and_top_before_left():
    assert CropSpec((512, 512)).box(600, 800).time_ids == (600, 800, 0, 85, 512, 512)
    assert CropSpec((512, 512)).box(512, 512).time_ids == (
        512,
        512,
        0,
        0,
        512,
        512,
    )  # as ever


@pytest.mark.parametrize("sides", [(5, 9), (31, 17), (8, 64), (1023, 1024), (333, 1000)])
def test_the_square_lies_inside_of_the_resized_picture(sides):
    box = CropSpec((64, 64)).box(*sides)
    assert min(box.resized) == 64
    assert all(corner >= 0 and corner + 64 <= size for corner, size in zip(box.corner, box.resized, strict=True))
