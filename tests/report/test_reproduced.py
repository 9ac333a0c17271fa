"""Verdicts on rows of published tables: what is written is read, and what others wrote is checked."""

import json
from dataclasses import replace

import pytest

from alignbench.report.published_tables.reproduced import (
    FigureRecord,
    OwnFigure,
    ReproductionRecord,
    read_reproductions,
)

FIGURES = [
    FigureRecord("pickscore median", 22.08, OwnFigure(22.0, 21.9, 22.1), -0.08, 0.15, "reproduced", "0.15: errors"),
    FigureRecord("clip mean", 0.3, OwnFigure(0.3, None, None), 0.0, None, "not comparable", "no interval"),
    FigureRecord("hpsv2_1 median", 29.3, None, None, None, "not measured", "no scores"),
]
RECORD = ReproductionRecord(
    "row",
    "Paper",
    "1234.56789",
    "2",
    "a copy",
    ["experiment=x"],
    "dpo-sd15-1",
    "reproduced",
    [],
    ["noise"],
    FIGURES,
    "1",
)


def test_what_is_written_is_read_again(tmp_path):
    RECORD.write(tmp_path)
    replace(RECORD, row="another").write(tmp_path)
    left_out: dict[str, str] = {}
    assert read_reproductions(tmp_path, left_out) == [replace(RECORD, row="another"), RECORD]
    assert left_out == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"verdict": "<b>fine"}, "has a wrong entry verdict"),
        ({"row": "other"}, "is the record of other"),
        ({"figures": [{"figure": "f"}]}, "has a wrong entry figures.0.expected"),
        ({"figures": 3}, "has a wrong entry figures"),
        ({"more": 1}, "has a wrong entry more"),
    ],
)
def test_a_damaged_record_is_left_out_and_named(tmp_path, change, told):
    file = RECORD.write(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    left_out: dict[str, str] = {}
    assert read_reproductions(tmp_path, left_out) == []
    assert told in left_out["reproductions/row.json"]


def test_a_number_that_is_none_is_damage(tmp_path):
    file = RECORD.write(tmp_path)
    file.write_text(file.read_text().replace("22.08", "NaN"))
    left_out: dict[str, str] = {}
    assert read_reproductions(tmp_path, left_out) == []
    assert "has a wrong entry figures.0.expected" in left_out["reproductions/row.json"]
