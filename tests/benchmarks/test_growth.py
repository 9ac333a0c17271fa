"""The plot of growth shows what was measured, and small commands are measured by the system."""

from xml.etree import ElementTree

import pytest

from benchmarks.growth import __main__ as growth
from benchmarks.growth.plot import HEIGHT, LEFT, TOP, WIDTH, Curve, svg

SVG = "{http://www.w3.org/2000/svg}"


def lines(picture):
    """Return the points of each kind of line, as shares of the area of its panel from the lower left."""
    found = {}
    for line in ElementTree.fromstring(picture).iter(f"{SVG}polyline"):
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        shares = [((x - LEFT) / WIDTH, 1 - (y - TOP) / HEIGHT) for x, y in points]
        found[line.attrib["class"]] = [(round(x, 2), round(y, 2)) for x, y in shares]
    return found


def test_a_time_as_large_as_what_grows_lies_on_the_dashed_line_and_constant_memory_on_the_ground():
    found = lines(svg([Curve("a < b", (1, 4, 16), (2.0, 8.0, 32.0), (300.0, 300.0, 300.0))]))
    assert found["linear"] == [(0, 0), (0.5, 0.5), (1, 1)]
    assert found["time"] == found["linear"]
    assert found["memory"] == [(0, 0), (0.5, 0), (1, 0)]


def test_words_at_the_ends_of_close_lines_do_not_lie_over_each_other():
    picture = svg([Curve("report", (1, 4, 16), (2.0, 3.0, 3.0), (300.0, 400.0, 450.0))])
    texts = ElementTree.fromstring(picture).iter(f"{SVG}text")
    heights = {text.text: float(text.attrib["y"]) for text in texts}
    assert heights["450 MiB"] - heights["3 s"] >= 12


@pytest.mark.matrix
def test_a_small_command_is_measured(tmp_path, capsys):
    table, plot = tmp_path / "growth.csv", tmp_path / "growth.svg"
    growth.main(["--only", "report-evaluators", "--factors", "1", "2", "--csv", str(table), "--svg", str(plot)])
    head, *rows = [line.split(",") for line in table.read_text().splitlines()]
    assert tuple(head) == growth.COLUMNS
    assert [(name, int(size)) for name, _, size, _, _ in rows] == [("report-evaluators", 1), ("report-evaluators", 2)]
    assert all(float(seconds) > 0.5 and float(mib) > 50 for *_, seconds, mib in rows)
    assert "report: evaluators" in plot.read_text()
    assert "report-evaluators 2: CPU" in capsys.readouterr().out
