"""The page of models: what it says of the memory of other families is what the program estimates."""

import re

import pytest

from alignbench.configuration.build import conf_folder
from alignbench.configuration.compose import composed
from alignbench.models.weights.skeleton import skeleton
from alignbench.training.memory_estimate import CARDS, GIB, _decode_activations, estimate, total
from tests.pages import ROOT, tables

(TABLE,) = (rows for heads, rows in tables(ROOT / "docs" / "models.md") if "24 GB" in heads)
ROWS = {name: row for row in TABLE for name in re.findall(r"`(\w+)`", row[0])}
OWN_PAGES = {"flux", "sd15", "sdxl", "sd3", "sd35_medium", "images"}


def test_the_page_has_every_model_that_needs_weights():
    files = {file.stem for file in (conf_folder() / "model").glob("*.yaml")}
    assert ROWS.keys() == {name for name in files if not name.endswith("_mini")} - OWN_PAGES


@pytest.mark.matrix
def test_what_the_page_says_of_fewer_frames_is_what_is_estimated():
    text = " ".join((ROOT / "docs" / "models.md").read_text().split())
    frames, memory, whole = re.findall(r"(\d+) frames, .*?takes ([\d.]+) GiB with them in place of ([\d.]+) GiB", text)[
        0
    ]
    cfg = composed(["method=dpo", "model=wan_video", "data=shapes", f"model.num_frames={frames}"])
    assert f"{total(estimate(cfg)) / GIB:.1f}" == memory
    assert whole == ROWS["wan_video"][2]
    decoded = re.findall(r"(\d+) GiB for (\d+) frames?", text)
    assert len(decoded) == 3
    for memory, frames in decoded:
        model = skeleton(composed(["method=base", "model=wan_video", f"model.num_frames={frames}"]).model)
        assert f"{_decode_activations(model, 1, checkpointing=False).peak / GIB:.0f}" == memory


@pytest.mark.matrix
@pytest.mark.parametrize("name", ROWS)
def test_what_the_page_says_of_memory_is_what_is_estimated(name):
    _, _, memory, *cards = ROWS[name]
    needed = total(estimate(composed(["method=dpo", f"model={name}", "data=shapes"]))) / GIB
    assert f"{needed:.1f}" == memory
    for said, (card, size) in zip(cards, CARDS.items(), strict=True):
        assert (said == "fits") == (needed <= size), card
        if found := re.fullmatch(r"([\d.]+): `(.*)`", said):
            saved = total(estimate(composed(["method=dpo", f"model={name}", "data=shapes", *found[2].split()]))) / GIB
            assert f"{saved:.1f}" == found[1]
            assert saved <= size
