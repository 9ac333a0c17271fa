"""Images that change while the reward rises are told of, whichever way they change."""

import pytest
from PIL import Image

from alignbench.report.diagnostics import diagnose
from alignbench.report.display import sections
from alignbench.report.page.hacking import hacking_entry
from alignbench.report.tables import build
from alignbench.store.scores import Scores, digest_of

PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(16)}


def add_run(world, method, gain, colours, trained_on=("clip",)):
    """Add a run whose scores differ from base's by so much, with images of these colours."""
    scores = [0.01 * i + gain for i in range(16)]
    folder = world.run(method, scores, prompts=PROMPTS, groups={}, trained_on=trained_on)
    path = folder.score_file("shapes", "1a2b", "clip", "1")
    scores, digests = Scores.read(path), []
    for i, prompt_id in enumerate(scores.prompt_id):
        file = folder.images("shapes", "1a2b") / f"{prompt_id}-0.png"
        Image.new("RGB", (64, 64), colours[i % len(colours)]).save(file)
        digests.append(digest_of(file))
    Scores.of(scores.info, scores.prompt_id, scores.image, scores.score, digests).write(path)
    folder.complete("score", "shapes/1a2b/clip@1", [path])


def flagged(world):
    rows = diagnose(world.root, build(world.root, 50), 50)
    return {row["measure"]: row["flag"] for row in rows if row["flag"]}, rows


def test_statistics_that_are_higher_or_lower_are_named_with_both_figures(world):
    """Grey becomes red: more saturation and colourfulness, and clipped values where there were none; less light."""
    add_run(world, "base", 0.0, ["#808080"])
    add_run(world, "srpo", 0.5, ["#ff0000"])
    flags, _ = flagged(world)
    assert flags.keys() == {"saturation", "clipped", "brightness", "colourfulness", "jpeg_bits"}
    [text] = set(flags.values())
    assert text.startswith(
        "changed images: srpo on sd15_mini, shapes: better on clip 100.0 % (***), which it trained on"
    )
    assert "while its images are higher in saturation (1, base 0, **), clipped (1, base 0, **)" in text
    assert " and lower in brightness (0.299, base 0.502, **); look at them" in text


@pytest.mark.parametrize(
    ("gain", "colours", "trained_on"),
    [
        (0.0, ["#ff0000"], ["clip"]),  # the reward has not risen
        (0.5, ["#ff0000"], []),  # nobody trained on what rose
        (0.5, ["#7f7f7f", "#818181"], ["clip"]),  # the images are the same
        (0.5, ["#818181", "#7f7f7f"], ["clip"]),  # or differ in both directions
    ],
)
def test_nothing_is_told_where_the_reward_or_the_images_stay(world, gain, colours, trained_on):
    add_run(world, "base", 0.0, ["#7f7f7f", "#818181"])
    add_run(world, "srpo", gain, colours, trained_on)
    assert flagged(world)[0] == {}


def test_the_page_shows_each_sentence_once_and_draws_every_statistic(world):
    add_run(world, "base", 0.0, ["#808080"])
    add_run(world, "srpo", 0.5, ["#ff0000"])
    flags, rows = flagged(world)
    tables = build(world.root, 50)
    tables.diagnostics.extend(rows)
    [section] = sections(tables)
    entry = hacking_entry(tables, section)
    assert entry["changed"] == [flags["saturation"]]
    headings = dict.fromkeys(plot["heading"] for plot in entry["diagnostics"])
    assert list(headings) == ["Image statistics", "Diversity of colours"]
    titles = [plot["title"] for plot in entry["diagnostics"]]
    assert titles[5:11] == [
        "brightness, %", "contrast, standard deviation of brightness, %", "pixels at an edge, %",
        "entropy of colours, bits", "colourfulness", "size as JPEG, bits a pixel",
    ]  # fmt: skip
