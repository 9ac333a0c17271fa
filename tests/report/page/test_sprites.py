from PIL import Image

from alignbench.report.page.sprites import (
    BACKGROUND,
    COLUMNS,
    ROWS,
    TILE,
    ThumbnailSource,
    draw,
    draw_all,
    sprite_names,
)
from alignbench.report.page.store import Store

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
