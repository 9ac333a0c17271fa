import numpy as np
from PIL import Image

from alignbench.report.page.sprites import (
    BACKGROUND,
    COLUMNS,
    ROWS,
    TILE,
    ThumbnailSource,
    draw,
    draw_all,
    draw_frames,
    sprite_names,
)
from alignbench.report.page.store import Store
from alignbench.videos import FrameSpec, write_video

PER_SPRITE = COLUMNS * ROWS


def picture(folder, name, colour, size=(64, 64)):
    path = folder / f"{name}.png"
    Image.new("RGB", size, colour).save(path)
    return ThumbnailSource(path, name)


def middle(sheet, place):
    row, column = divmod(place, COLUMNS)
    return sheet.getpixel((column * TILE + TILE // 2, row * TILE + TILE // 2))


def test_images_stand_row_by_row_and_what_is_missing_leaves_its_place_empty(tmp_path):
    pictures = [None] * (COLUMNS + 2)
    pictures[1] = picture(tmp_path, "red", "red")
    pictures[COLUMNS] = picture(tmp_path, "blue", "blue", (1000, 500))
    sheet = draw(pictures)
    assert sheet.size == (COLUMNS * TILE, 2 * TILE)
    assert middle(sheet, 0) == BACKGROUND
    assert middle(sheet, 1) == (255, 0, 0)
    assert middle(sheet, COLUMNS) == (0, 0, 255)
    assert sheet.getpixel((TILE // 2, TILE + 2)) == BACKGROUND, "a wide image keeps its shape"


def test_small_images_fill_their_place_and_transparent_ones_are_drawn(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGBA", (TILE // 2, TILE // 2), (0, 200, 0, 255)).save(file)
    assert draw([ThumbnailSource(file, "a")]).getpixel((0, 0)) == (0, 200, 0)


def test_a_run_more_draws_only_its_own_and_a_changed_image_only_its_sprite(tmp_path):
    shown = [picture(tmp_path, f"p{i}", "red") for i in range(PER_SPRITE + 3)]
    store, jobs = Store(tmp_path), {}
    names = sprite_names(store, shown, jobs)
    assert len(names) == len(jobs) == 2
    draw_all(store, jobs)
    assert all((tmp_path / name).exists() for name in names)
    again = {}
    assert sprite_names(Store(tmp_path), shown, again) == names
    assert again == {}
    changed = [*shown[:-1], picture(tmp_path, "new", "blue")]
    assert sprite_names(Store(tmp_path), changed, again)[0] == names[0]
    assert [len(part) for part in again.values()] == [3]


def test_where_nothing_is_there_is_no_sprite(tmp_path):
    jobs = {}
    assert sprite_names(Store(tmp_path), [None] * (PER_SPRITE + 1), jobs) == [None, None]
    assert jobs == {}


def test_thumbnails_of_videos_play_their_first_two_seconds_and_short_ones_begin_anew(tmp_path):
    def video(name, num_frames, fps):
        shades = [np.full((16, 16, 3), 3 * number, np.uint8) for number in range(num_frames)]
        write_video(tmp_path / f"{name}.webp", np.stack(shades), fps)
        return ThumbnailSource(tmp_path / f"{name}.webp", name, FrameSpec(num_frames, fps))

    pictures = [video("long", 49, 16.0), None, video("short", 5, 8.0)]
    sheets = draw_frames(pictures)
    assert len(sheets) == 16
    assert [middle(sheet, 0)[0] for sheet in sheets[:3]] == [3, 9, 15]  # each second frame
    assert [middle(sheet, 2)[0] for sheet in sheets[3:7]] == [9, 12, 0, 3]
    assert all(middle(sheet, 1) == BACKGROUND for sheet in sheets)
    store, jobs = Store(tmp_path), {}
    (name,) = sprite_names(store, pictures, jobs)
    assert name.endswith(".webp")
    draw_all(store, jobs)
    with Image.open(tmp_path / name) as sprite:
        assert sprite.size == (COLUMNS * TILE, TILE)
        assert 1 < sprite.n_frames <= 16  # equal ones are stored once
    Store(tmp_path).prune()
    assert not (tmp_path / name).exists()
