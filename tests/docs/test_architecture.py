"""The page of the architecture shows the rooms as they are, and names modules that exist."""

import re
from xml.etree import ElementTree

from tests.pages import ROOT
from tests.test_imports import FLOORS

PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"


def test_the_picture_has_the_rooms_of_each_floor_from_top_to_bottom():
    floors: dict[float, list[str]] = {}
    for text in ElementTree.parse(PICTURE).iter("{http://www.w3.org/2000/svg}text"):
        if text.get("class") == "room":
            floors.setdefault(float(text.attrib["y"]), []).append(str(text.text))
    assert [floors[height] for height in sorted(floors)] == [
        line.split() for line in FLOORS.split("\n") if line.split()
    ]


def test_the_modules_of_the_walks_exist():
    named = set(re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`", PAGE.read_text()))
    assert len(named) > 20
    assert [path for path in named if not ((ROOT / "alignbench" / path).is_file() or (ROOT / path).is_file())] == []
