"""Statistics are measured once for each image as it was scored."""

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import alignbench.store.image_statistics_table
from alignbench.statistics.image_statistics import MEASURES, image_statistics
from alignbench.store.image_statistics_table import ImageToMeasure, measured
from alignbench.store.manifest import ResultsError
from alignbench.store.scores import digest_of


@pytest.fixture
def table(tmp_path):
    return tmp_path / "run" / "statistics" / "shapes" / "1a2b.parquet"


def shown(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return ImageToMeasure(path, digest_of(path))


@pytest.fixture
def counted(monkeypatch):
    """The images that were looked at."""
    seen = []
    real = alignbench.store.image_statistics_table._measure
    monkeypatch.setattr(
        alignbench.store.image_statistics_table, "_measure", lambda entry: seen.append(entry.path.name) or real(entry)
    )
    return seen


def test_what_was_measured_is_kept_and_an_image_that_was_scored_anew_is_measured_anew(tmp_path, table, counted):
    images = {(f"p{i}", 0): shown(tmp_path / f"{i}.png", i) for i in range(3)}
    first = measured(table, images)
    assert len(counted) == 3
    counted.clear()
    again = measured(table, images)
    assert counted == []
    for key in images:
        assert again[key].figures == first[key].figures
        assert (again[key].thumbnail == first[key].thumbnail).all()
    with Image.open(tmp_path / "0.png") as image:
        assert first["p0", 0].figures == image_statistics(np.asarray(image)).figures
    images["p1", 0] = shown(tmp_path / "1.png", 9)
    changed = measured(table, images)
    assert counted == ["1.png"]
    assert changed["p1", 0].figures != first["p1", 0].figures


def test_an_image_that_is_gone_keeps_what_was_measured_and_one_never_seen_has_nothing(tmp_path, table):
    images = {("p0", 0): shown(tmp_path / "0.png", 0)}
    first = measured(table, images)
    (tmp_path / "0.png").unlink()
    images["p1", 0] = ImageToMeasure(tmp_path / "1.png", "0" * 32)
    assert measured(table, images).keys() == first.keys()


def test_a_file_that_is_not_what_was_scored_is_refused(tmp_path, table):
    image = shown(tmp_path / "0.png", 0)
    shown(tmp_path / "0.png", 1)
    with pytest.raises(ResultsError, match=r"0\.png has changed since it was scored; add score to stages"):
        measured(table, {("p0", 0): image})


def test_a_kill_loses_no_more_than_a_chunk(tmp_path, table, counted, monkeypatch):
    monkeypatch.setattr(alignbench.store.image_statistics_table, "CHUNK", 2)
    images = {(f"p{i}", 0): shown(tmp_path / f"{i}.png", i) for i in range(3)}
    whole = dict(images)
    images["p2", 0] = ImageToMeasure(tmp_path / "2.png", "another")
    with pytest.raises(ResultsError):
        measured(table, images)
    counted.clear()
    assert len(measured(table, whole)) == 3
    assert counted == ["2.png"]


def test_another_version_of_the_statistics_is_measured_anew(tmp_path, table, counted, monkeypatch):
    images = {("p0", 0): shown(tmp_path / "0.png", 0)}
    measured(table, images)
    monkeypatch.setattr(alignbench.store.image_statistics_table, "VERSION", "3")
    measured(table, images)
    assert counted == ["0.png", "0.png"]


def test_an_image_too_small_for_a_measure_has_none(tmp_path, table):
    Image.new("RGB", (40, 40)).save(tmp_path / "small.png")
    entry = ImageToMeasure(tmp_path / "small.png", digest_of(tmp_path / "small.png"))
    [found] = [measured(table, {("p0", 0): entry})["p0", 0] for _ in range(2)][1:]
    figures = dict(zip(MEASURES, found.figures, strict=True))
    assert np.isnan(figures["grid_16"])
    assert figures["grid_8"] == 0


def as_of_version_1(path):
    """Take out of a table what version 1 had not."""
    table = parquet.read_table(path)
    later = ["edge_side", *(name for name, version in MEASURES.items() if version != "1")]
    parquet.write_table(table.drop_columns(later).replace_schema_metadata({"alignbench": "1"}), path)


def test_images_that_version_1_measured_are_measured_again_and_keep_their_figures(tmp_path, table, counted):
    images = {(f"p{i}", 0): shown(tmp_path / f"{i}.png", i) for i in range(2)}
    first = measured(table, images)
    as_of_version_1(table)
    counted.clear()
    again = measured(table, images)
    assert sorted(counted) == ["0.png", "1.png"]
    assert {key: one.figures for key, one in again.items()} == {key: one.figures for key, one in first.items()}


def test_what_version_1_measured_of_an_image_that_is_gone_is_kept_without_the_later_measures(tmp_path, table, counted):
    images = {(f"p{i}", 0): shown(tmp_path / f"{i}.png", i) for i in range(2)}
    first = measured(table, images)
    as_of_version_1(table)
    (tmp_path / "0.png").unlink()
    counted.clear()
    for _ in range(2):  # the second time from a table of today
        found = measured(table, images)
        figures = dict(zip(MEASURES, zip(found["p0", 0].figures, first["p0", 0].figures, strict=True), strict=True))
        for name, (kept, before) in figures.items():
            assert kept == before if MEASURES[name] == "1" else np.isnan(kept), name
        assert (found["p0", 0].thumbnail == first["p0", 0].thumbnail).all()
    assert counted == ["1.png"]
