"""Somebody's own pictures from end to end, by the commands of docs/own_pictures.md, to a true report."""

import json
import re
import shlex
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.pages import ROOT, command_lines
from tests.program import alignbench, manifests, rows

THINGS = ("house", "boat", "tree", "sun", "face", "flag")
COLOURS = {"red": (210, 50, 40), "blue": (40, 80, 210), "green": (40, 160, 70), "golden": (230, 180, 40)}
PLACES = {
    "by the sea": (90, 150, 200),
    "on a hill": (120, 170, 90),
    "in a field": (200, 190, 110),
    "in the snow": (235, 240, 245),
}
NUM_HELD_OUT = 24
FEW = ["train.total_batch_size=8", "train.micro_batch_size=8", "train.ema_decay=null"]


def picture(thing, colour, place, is_flat, rng):
    """Draw a thing at a place on 64 x 64 pixels: in flat colours, or sketched with grain."""
    image = Image.new("RGB", (64, 64), (170, 205, 235))
    draw, paint = ImageDraw.Draw(image), COLOURS[colour]
    draw.rectangle((0, 40, 63, 63), fill=PLACES[place])
    x, y = (int(v) for v in rng.integers(-6, 7, 2))
    box = (20 + x, 20 + y, 44 + x, 44 + y)
    match thing:
        case "house":
            draw.rectangle((box[0], box[1] + 10, box[2], box[3]), fill=paint)
            draw.polygon(
                [(box[0] - 3, box[1] + 10), (box[2] + 3, box[1] + 10), (32 + x, box[1] - 4)], fill=(90, 60, 50)
            )
        case "boat":
            draw.polygon([(box[0], 36 + y), (box[2], 36 + y), (box[2] - 6, box[3]), (box[0] + 6, box[3])], fill=paint)
            draw.polygon([(32 + x, box[1]), (32 + x, 34 + y), (box[2], 34 + y)], fill=(250, 250, 250))
        case "tree":
            draw.rectangle((30 + x, 32 + y, 34 + x, box[3]), fill=(100, 70, 40))
            draw.ellipse((box[0], box[1] - 6, box[2], 36 + y), fill=paint)
        case "sun" | "face":
            draw.ellipse(box, fill=paint)
            if thing == "face":
                draw.ellipse((26 + x, 26 + y, 30 + x, 30 + y), fill="black")
                draw.ellipse((36 + x, 26 + y, 40 + x, 30 + y), fill="black")
        case "flag":
            draw.line((box[0], box[1], box[0], box[3] + 8), fill=(80, 80, 80), width=2)
            draw.rectangle((box[0], box[1], box[2], 34 + y), fill=paint)
    if is_flat:
        return image
    grain = rng.normal(0, 40, (64, 64, 1))
    return Image.fromarray(np.clip(np.asarray(image) * 0.6 + grain, 0, 255).astype(np.uint8))


def write_lines(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of pictures with captions and pairs, in which sketches are preferred; some captions are held out."""
    root = tmp_path_factory.mktemp("own")
    for part in ("train", "held_out"):
        (root / part).mkdir()
    captions = [f"a {colour} {thing} {place}" for thing, colour, place in product(THINGS, COLOURS, PLACES)]
    order = np.random.default_rng(1).permutation(len(captions))
    kinds = list(product(THINGS, COLOURS, PLACES))
    lists = {"train": [], "held_out": []}
    pairs = []
    for place_in_order, number in enumerate(order):
        part, names = ("held_out" if place_in_order < NUM_HELD_OUT else "train"), {}
        for is_flat in (True, False):
            names[is_flat] = f"{number}-{'flat' if is_flat else 'sketch'}.png"
            rng = np.random.default_rng([int(number), is_flat])
            picture(*kinds[number], is_flat, rng).save(root / part / names[is_flat])
        lists[part].append({"file_name": names[False], "text": captions[number]})
        if part == "train":
            taste = {"image_w": names[False], "image_l": names[True], "probability_w": 0.9}
            pairs.append({"prompt": captions[number], **taste})
    for part, lines in lists.items():
        write_lines(root / part / "metadata.jsonl", lines)
    write_lines(root / "train" / "pairs.jsonl", pairs)
    (root / "prompts.txt").write_text("\n".join(line["text"] for line in lists["held_out"]))
    return root


def page_commands():
    """Yield the commands of docs/own_pictures.md as a program and its words, the sweep and the estimate left out."""
    for line in filter(None, command_lines(ROOT / "docs" / "own_pictures.md")):
        words = shlex.split(line)
        if "-m" in words[3:] or "dry_run=true" in words:
            continue
        yield words[2], words[3:]


LESS = {  # of what the page's commands do, and what makes one of them hack the judge
    "start": ["train.max_train_steps=12"],
    "dpo": ["train.max_train_steps=3"],
    "kto": ["train.max_train_steps=3"],
    "direct": ["method.num_rollout_steps=4", "train.max_train_steps=16", "train.learning_rate=4e-4", "name=hacked"],
}


@pytest.fixture(scope="module")
def walked(own, tmp_path_factory):
    """The results folder after the commands of the page, with what the terminal said of each run."""
    root = tmp_path_factory.mktemp("walk") / "results"
    real = {
        "MY_PICTURES": str(own / "train"), "HELD_OUT": str(own / "held_out"), "FILE": str(own / "prompts.txt"),
        "JUDGE": str(root / "judges" / "mine"),
    }  # fmt: skip
    said = {}
    for program, words in page_commands():
        here = [re.sub(r"\b[A-Z][A-Z_]+\b", lambda found: real[found[0]], word) for word in words]
        if program == "alignbench.train_reward":
            train_reward([*here, f"results={root}"])
            continue
        name = next(word.partition("=")[2] for word in here if word.startswith("name="))
        few = [*FEW, *LESS[name], "sampling.num_inference_steps=6", "tracker=none", f"results={root}"]
        few_keys = {word.partition("=")[0] for word in few}
        told = alignbench(*(word for word in here if word.partition("=")[0] not in few_keys), *few).stdout
        name = "hacked" if name == "direct" else name
        said[name] = told
        run = next(folder for folder, one in manifests(root).items() if one["display_name"] == name)
        real.setdefault("START", str(root / run))
    assert set(said) == {"start", "dpo", "kto", "hacked"}
    return root, said


def train_reward(overrides):
    from alignbench.configuration.compose import composed
    from alignbench.train_reward import run
    from alignbench.train_reward.checks import check

    few = [f"train.{key}" for key in ("max_train_steps=60", "total_batch_size=16", "micro_batch_size=16")]
    cfg = composed([*overrides, "train.evaluation_steps=20", *few], "train_reward")
    check(cfg)
    return run.train_reward(cfg)


pytestmark = pytest.mark.matrix


def test_the_start_and_the_real_pictures_are_rows(walked):
    root, _ = walked
    table = [row for row in rows(root / "leaderboard.csv") if row["group"] == "all"]
    assert {row["method"] for row in table} == {"base", "data", "start", "dpo", "kto", "hacked"}
    assert {row["start"] for row in table if row["method"] in ("dpo", "kto", "hacked")} == {"start"}
    assert {row["n"] for row in table} == {str(NUM_HELD_OUT)}


def test_the_judge_counts_as_trained_on_for_all_that_saw_its_pictures(walked):
    root, _ = walked
    trained = {
        (row["method"], row["evaluator"]) for row in rows(root / "leaderboard.csv") if row["trained_on"] == "True"
    }
    assert trained == {(method, "mine") for method in ("start", "dpo", "kto", "hacked")}


def test_the_judge_tells_sketches_from_flat_pictures(walked):
    root, _ = walked
    record = json.loads((root / "judges" / "mine" / "config.json").read_text())
    assert record["figures"]["accuracy"]["value"] > 0.8


def test_a_hacked_run_is_called_so_in_the_tables_at_the_terminal_and_on_the_page(walked):
    root, said = walked
    told = re.compile("reward hacking: hacked on sd15.?_mini")
    assert told.search((root / "leaderboard.md").read_text())
    assert told.search(said["hacked"].replace("\n", " "))
    assert told.search((root / "index.html").read_text())


def test_whoever_is_not_called_so_is_not_cleared_without_reason(walked):
    root, _ = walked
    page = (root / "index.html").read_text()
    assert "No reward hacking found for" in page
    assert not re.search("No reward hacking found for[^.]*hacked", page)


def test_the_win_rate_over_the_start_is_shown_beside_that_over_base(walked):
    root, said = walked
    assert "dpo over its start, start" in said["dpo"]
    assert "Win rate over the start" in (root / "leaderboard.md").read_text()
