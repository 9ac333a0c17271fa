import pytest
from PIL import Image

from alignbench.report import pictures
from alignbench.report.tables import build
from alignbench.report.write import write_report, write_run_pictures
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder


def colours(path):
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def images(*runs):
    """Return the image folder of each run, by its method."""
    return {run.manifest.method: run.images("shapes", "1a2b") for run in runs}


def test_base_and_aligned_images_stand_side_by_side(world, tmp_path):
    base = world.run("base", [1, 2, 3, 4], picture="red")
    run = world.run("sft", [1, 2, 3, 4], picture="blue")
    path = tmp_path / "pair.png"
    pictures.side_by_side(images(base, run), path, num_prompts=1)
    with Image.open(path) as image:
        assert image.getpixel((100, 150)) == (255, 0, 0)
        assert image.getpixel((100 + pictures.TILE + pictures.GAP, 150)) == (0, 0, 255)
        below = image.crop((0, 24 + 18 + pictures.TILE, image.width, image.height)).convert("L")
    assert below.getextrema()[0] < 64, "the prompt is written below"


def test_small_images_keep_their_pixels_as_squares(world, tmp_path):
    runs = [world.run("base", [1, 2, 3, 4], picture="red")]
    file = runs[0].images("shapes", "1a2b") / "p0-0.png"
    checker = Image.new("L", (64, 64))
    checker.putdata([255 * ((i + i // 64) % 2) for i in range(64 * 64)])
    checker.save(file)
    pictures.side_by_side(images(*runs), tmp_path / "one.png", num_prompts=1)
    with Image.open(tmp_path / "one.png") as image:
        top = pictures.GAP + pictures.FONT_SIZE + 4
        tile = image.convert("L").crop((pictures.GAP, top, pictures.GAP + pictures.TILE, top + pictures.TILE))
    assert tile.getcolors() == [(pictures.TILE**2 // 2, 0), (pictures.TILE**2 // 2, 255)]


def test_runs_without_a_common_prompt_are_refused(world, tmp_path):
    base = world.run("base", [1, 2, 3, 4], picture="red")
    run = world.run("sft", [1], prompts={"x": "another"}, picture="blue")
    with pytest.raises(ResultsError, match=r"base-\S*/images/shapes/1a2b, .*sft-\S* share no prompt"):
        pictures.side_by_side(images(base, run), tmp_path / "pair.png")


def test_a_run_that_shares_no_prompt_with_base_has_no_picture_beside_it(world):
    world.run("base", [1, 2, 3, 4], picture="red")
    run = world.run("sft", [1], prompts={"x": "another"}, picture="blue")
    assert [file.name for file in write_run_pictures(run)] == ["training.png"]


def test_large_images_and_odd_prompts_fit(world, tmp_path):
    text = "naïve - длинный " + "very " * 80 + "long\nprompt"
    run = world.run("base", [1], prompts={"x": text}, picture="red")
    Image.new("RGB", (1024, 512), "green").save(run.images("shapes", "1a2b") / "x-0.png")
    pictures.side_by_side(images(run), tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        assert image.width < 400


def test_a_log_without_figures_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ResultsError, match="logs no figures"):
        pictures.training_curve(tmp_path / "train.jsonl", tmp_path / "t.png")


def test_a_forest_needs_a_trained_run(world, tmp_path):
    world.run("base", [1, 2, 3, 4])
    with pytest.raises(ResultsError, match="no run of sd15_mini was scored on shapes"):
        pictures.forest(build(world.root), "sd15_mini", "shapes", tmp_path / "f.png")


def test_a_matrix_is_blue_where_the_row_wins_and_red_where_it_loses(small_table, tmp_path):
    pictures.win_matrix(build(small_table.root), "sd15_mini", "shapes", tmp_path / "m.png")
    shown = colours(tmp_path / "m.png")
    assert (5, 48, 97) in shown  # dpo beats base by the trained reward on every prompt
    assert (103, 0, 31) in shown


def test_a_matrix_needs_two_methods(world, tmp_path):
    world.run("base", [1, 2, 3, 4])
    with pytest.raises(ResultsError, match="no run of sd15_mini was scored on shapes"):
        pictures.win_matrix(build(world.root), "sd15_mini", "shapes", tmp_path / "m.png")


def test_a_report_of_one_run_alone_is_written(world):
    """As where its base run is left out."""
    world.run("sft", [1, 2, 3, 4])
    write_report(world.root, 50)
    assert [file.name for file in world.root.glob("report/*.png")] == ["win_rates-sd15_mini-shapes.png"]


def test_a_whole_report_gives_the_same_bytes_twice(small_table):
    contents = []
    for _ in range(2):
        write_report(small_table.root)
        [folder] = small_table.root.glob("dpo-*")
        files = write_run_pictures(RunFolder(folder))
        made = [*files, *sorted(small_table.root.glob("report/*.png")), small_table.root / "leaderboard.csv"]
        contents.append([path.read_bytes() for path in made])
    assert len(contents[0]) == 5
    assert contents[0] == contents[1]
