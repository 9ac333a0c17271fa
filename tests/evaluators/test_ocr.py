"""Text that images show is read, and compared with what prompts ask for in three ways."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from alignbench.data.prompts import text_rendering
from alignbench.errors import UserError
from alignbench.scoring.calibration import compare
from evaluators import load, ocr
from evaluators.ocr import FORMULAS, Line, RapidOcr, edit_distance
from tests.program import alignbench, rows

PROMPT = 'a sign that says "Hello World" and "more"'
NAMES = {"reward": "ocr_rapid", "exact": "ocr_rapid_exact", "similarity": "ocr_rapid_similarity"}


# ---- formulas


@pytest.mark.parametrize(
    ("text", "reward", "exact", "similarity"),
    [
        ("Hello World", 1, 1, 1),
        ("HELLO  world", 1, 1, 1),
        ("xxHelloWorldyyyy", 1, 0, 1 - 6 / 16),
        ("Hello Worldd", 1, 0, 1 - 1 / 11),
        ("Hello World Hello World", 1, 0, 1 - 10 / 20),
        ("Hello Worl", 0.9, 0, 0.9),
        ("Hello", 0.5, 0, 0.5),
        ("World Hello", 0.2, 0, 0.2),
        ("z" * 15, 0, 0, 0),
        ("Hello" + "z" * 15, 0, 0, 1 - 15 / 20),
        ("", 0, 0, 0),
        ("Hello\u3000\uff37orld", 0.8, 1, 1),  # a wide blank and a wide W, compatible forms of the plain ones
    ],
)
def test_each_formula_gives_what_is_computed_by_hand(text, reward, exact, similarity):
    found = {name: formula(text, "Hello World") for name, formula in FORMULAS.items()}
    assert found == pytest.approx({"reward": reward, "exact": exact, "similarity": similarity})


def test_the_edit_distance_counts_insertions_deletions_and_replacements():
    assert edit_distance("kitten", "sitting") == edit_distance("sitting", "kitten") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("abcd", "bcda") == 2  # one deleted, one inserted
    assert edit_distance("", "") == 0


# ---- prompts


def test_the_target_is_the_text_between_the_first_two_double_quotes():
    assert RapidOcr("reward").encode_prompts([PROMPT, '"a"', 'x "é 2" y']) == ["Hello World", "a", "é 2"]


@pytest.mark.parametrize("prompt", ["a cat", 'a "cat', 'an empty "" sign', 'a "  " sign', "a “cat”"])
def test_prompts_without_a_target_are_refused_and_the_first_is_named(prompt):
    evaluator = RapidOcr("exact")
    sentence = evaluator.supports([PROMPT, prompt, "another"])
    assert sentence.startswith("ocr_rapid_exact looks for the text between the first two double quotes")
    assert sentence.endswith(f"2 of 3 prompts have none, such as {prompt!r}")
    with pytest.raises(UserError, match="1 of 1 prompts have none"):
        evaluator.encode_prompts([prompt])
    assert evaluator.supports([PROMPT]) is None


def test_all_prompts_of_the_shipped_set_have_a_target():
    assert RapidOcr("reward").supports(text_rendering("text_rendering", None).texts) is None


# ---- the evaluator


@pytest.fixture
def engine(monkeypatch):
    """A reader that finds two lines in pictures that begin with a red pixel and none in others, and keeps pictures."""
    seen = []

    def read(bgr):
        seen.append(bgr)
        is_red = bgr[0, 0].tolist() == [0, 0, 255]
        return ([[[], "Hello", 0.9], [[], "World!", 0.8]], [0.1]) if is_red else (None, None)

    monkeypatch.setattr(ocr, "_engine", lambda: read)
    ocr._lines.cache_clear()
    yield seen
    ocr._lines.cache_clear()


RED, BLUE = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))


def test_lines_are_read_from_blue_green_and_red_and_none_is_no_lines(engine):
    assert ocr.read(RED) == (Line("Hello", 0.9), Line("World!", 0.8))
    assert ocr.read(BLUE) == ()
    assert engine[0].shape == (10, 20, 3)
    assert engine[0].flags.c_contiguous


@pytest.mark.parametrize(("score", "expected"), [("reward", 1), ("exact", 0), ("similarity", 10 / 11)])
def test_lines_are_joined_and_scores_are_the_same_in_any_batch(engine, score, expected):
    evaluator = RapidOcr(score)
    assert evaluator.name == NAMES[score]
    found = evaluator.score([RED, BLUE, RED.convert("RGBA")], [PROMPT] * 3)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([expected, 0, expected])
    assert torch.equal(evaluator.score([RED, BLUE, RED], [PROMPT] * 3, batch_size=1), found)


def test_a_picture_that_comes_again_is_not_read_again(engine):
    for score in FORMULAS:
        RapidOcr(score).score([RED] * 3, [PROMPT, '"a"', '"b"'])
    assert len(engine) == 1


def test_the_three_share_preprocessing_pass_and_weights():
    assert len({(e.preprocess, e.shared_pass, e.weights) for e in map(RapidOcr, FORMULAS)}) == 1
    assert [load(name).name for name in NAMES.values()] == list(NAMES.values())
    assert RapidOcr("reward").weights == "e46d24e795391e4627317ae61e59fb7cf8f053864bd5522689e878ad07a9ff98"  # of 1.4.4


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="score=best is unknown; available: reward, exact, similarity"):
        RapidOcr("best")


def test_a_missing_package_is_told_at_construction(monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'ocr_rapid needs the package .*: pip install "alignbench\[ocr\]", or in'):
        RapidOcr("reward")


def test_a_package_that_cannot_be_imported_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(UserError, match=r"rapidocr_onnxruntime cannot be imported \(.*\); if a shared library") as told:
        ocr._engine.__wrapped__()
    assert "\n" not in str(told.value)


# ---- the reader itself


def test_rendered_words_are_read_and_score_as_stored():
    found = [compare(RapidOcr(score), None) for score in FORMULAS]
    assert [one.outcome for one in found] == ["as stored"] * 3
    assert [one.values for one in found] == [[1.0, 1.0, 1.0]] * 3


def sign(text):
    """Return a white picture with lines of text."""
    picture = Image.new("RGB", (512, 512), "white")
    font = ImageFont.load_default(48)
    ImageDraw.Draw(picture).multiline_text((256, 256), text, fill="black", font=font, anchor="mm")
    return picture


@pytest.mark.matrix
def test_a_picture_without_text_has_no_lines():
    assert ocr.read(Image.new("RGB", (512, 512), "white")) == ()
    assert ocr.read(Image.fromarray(np.full((64, 64, 3), 90, np.uint8))) == ()


@pytest.mark.matrix
def test_folders_of_signs_are_compared_and_repeated_text_lowers_all_but_the_reward(tmp_path, monkeypatch):
    prompts = text_rendering("text_rendering", None).texts[:3]
    for name, num_times in (("once", 1), ("twice", 2)):
        (tmp_path / name).mkdir()
        lines = []
        for number, prompt in enumerate(prompts):
            sign("\n\n".join([prompt.split('"')[1]] * num_times)).save(tmp_path / name / f"{number}.png")
            lines.append(json.dumps({"file": f"{number}.png", "prompt": prompt}))
        (tmp_path / name / "list.jsonl").write_text("\n".join(lines))
    num_read, read = [], ocr.read
    monkeypatch.setattr(ocr, "read", lambda image: num_read.append(1) or read(image))

    folders = f"model.folders=[{tmp_path / 'once'},{tmp_path / 'twice'}]"
    results = f"results={tmp_path / 'results'}"
    alignbench("model=images", folders, "evaluators=text_rendering", "calibration=false", results)
    assert len(num_read) == 6  # each picture once for the three evaluators
    table = {
        (row["method"], row["evaluator"]): float(row["median"])
        for row in rows(tmp_path / "results" / "leaderboard.csv")
        if row["group"] == "all" and row["prompt_set"] == "text_rendering"
    }
    assert {name: table["base", name] for name in NAMES.values()} == dict.fromkeys(NAMES.values(), 1.0)
    twice = {name: table["twice", name] for name in NAMES.values()}
    assert twice == {"ocr_rapid": 1.0, "ocr_rapid_exact": 0.0, "ocr_rapid_similarity": 0.5}


@pytest.mark.matrix
def test_nothing_of_the_reader_is_imported_before_it_reads():
    script = "import sys; from evaluators import load; load('ocr_rapid').weights; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"cv2", "onnxruntime", "rapidocr_onnxruntime"} & set(done.stdout.split())
