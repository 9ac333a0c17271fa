"""A program is asked in lines of JSON, started once, and every wrong answer ends in one sentence."""

import sys
import time

import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from evaluators import load
from evaluators.program import Program

BRIGHTNESS = """
import base64, io, json, os, sys
from pathlib import Path
from PIL import Image, ImageStat
starts = Path(sys.argv[1])
starts.write_text(starts.read_text() + "start\\n" if starts.exists() else "start\\n")
for line in sys.stdin:
    request = json.loads(line)
    given = request["image"]
    file = given if os.path.exists(given) else io.BytesIO(base64.b64decode(given))
    value = ImageStat.Stat(Image.open(file).convert("L")).mean[0]
    print(json.dumps({"score": value + 1000 * len(request["prompt"])}), flush=True)
starts.write_text(starts.read_text() + "end\\n")
"""


@pytest.fixture
def program(tmp_path):
    """Return a function that makes an evaluator of a Python script, which gets the path of a file as its argument."""
    made = []

    def make(script, **values):
        file = tmp_path / "score.py"
        file.write_text(script)
        command = [sys.executable, str(file), str(tmp_path / "starts")]
        made.append(Program(**{"name": "mine", "version": 1, "command": command, "timeout_seconds": 20.0} | values))
        return made[-1]

    yield make
    for one in made:
        one.release()


def greys(*values):
    return [Image.new("RGB", (64, 64), (value,) * 3) for value in values]


@pytest.mark.parametrize("image_as", ["base64", "path"])
def test_a_program_is_started_once_and_scores_each_image_with_its_prompt(program, tmp_path, image_as):
    one = program(BRIGHTNESS, image_as=image_as)
    assert not (tmp_path / "starts").exists()  # construction starts nothing
    assert one.score(greys(0, 100, 255), ["", "a", 'ab\n"c" 🐈']).tolist() == [0, 1100, 8255]
    assert one.score(greys(7), [""], batch_size=1).tolist() == [7]
    assert (tmp_path / "starts").read_text() == "start\n"
    one.release()
    assert (tmp_path / "starts").read_text() == "start\nend\n"  # its input was closed
    assert one.score(greys(7), [""]).tolist() == [7]
    assert (tmp_path / "starts").read_text() == "start\nend\nstart\n"


def test_scores_are_the_same_in_any_batch(program):
    images, prompts = greys(*range(0, 250, 25)), [""] * 10
    one = program(BRIGHTNESS)
    assert torch.equal(one.score(images, prompts, 1), one.score(images, prompts, 10))


def test_name_version_and_direction_are_the_users(program):
    one = program(BRIGHTNESS, name="my-score", version="2b", higher_is_better=False, display_scale=100)
    assert (one.name, one.version, one.higher_is_better, one.display_scale) == ("my-score", "2b", False, 100)
    assert one.lineage == ("my-score",)
    assert one.network is None


def test_a_command_may_be_a_text_that_is_split_as_a_shell_would():
    assert Program("a", 1, "python -c 'print(1, 2)' --device cuda").command[1:] == [
        "-c",
        "print(1, 2)",
        "--device",
        "cuda",
    ]


ANSWERS = {
    "print('loading', flush=True)": r"answered 'loading'; expected a line with a score, \{\"score\": 0.5\}; what else",
    "print('[1]', flush=True)": r"answered '\[1\]'; expected a line with a score",
    "print('{\"score\": null}', flush=True)": "gave the score None; a score must be one finite number",
    "print('{\"score\": NaN}', flush=True)": "gave the score nan",
    "print('{\"score\": true}', flush=True)": "gave the score True",
    'print(\'{"score": "1"}\', flush=True)': "gave the score '1'",
    "print('{\"score\": 1e999}', flush=True)": "gave the score inf",
    'print(\'{"error": "no weights\\\\nhere"}\', flush=True)': r"says: no weights here",
    "sys.exit(3)": "ended with status 3 before it answered",
    "sys.stdout.close(); sys.exit(0)": "ended with status 0 before it answered",
    "time.sleep(60)": "gave no answer within 0.5 seconds; mend it, or raise timeout_seconds",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_wrong_answer_ends_in_a_sentence(program, answer):
    script = f"import sys, time\nsys.stdin.readline()\n{answer}\nsys.stdin.readline()\n"
    one = program(script, timeout_seconds=0.5 if "sleep" in answer else 20.0)
    begin = time.monotonic()
    with pytest.raises(UserError, match=ANSWERS[answer]) as refused:
        one.score(greys(1), [""])
    assert str(refused.value).startswith("the program mine (")
    assert "\n" not in str(refused.value)
    assert time.monotonic() - begin < 15


def test_a_program_that_reads_nothing_is_killed_although_the_image_waits(program):
    """A pipe holds 64 KiB; noise of this size does not compress to that."""
    one = program("import time\ntime.sleep(60)\n", timeout_seconds=0.5)
    picture = Image.effect_noise((400, 400), 100).convert("RGB")
    process = one._talk.process
    with pytest.raises(UserError, match=r"gave no answer within 0\.5 seconds"):
        one.score([picture], [""])
    assert process.poll() is not None


def test_an_image_that_comes_after_the_end_is_told(program):
    one = program("import sys\nsys.stdin.readline()\nprint('{\"score\": 1}', flush=True)\n")
    with pytest.raises(UserError, match="ended with status 0 before it answered"):
        one.score(greys(1, 2), ["", ""])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"command": "/no/such/program --fast"}, r"cannot be started: '/no/such/program' is no program here"),
        ({"command": "python 'unclosed"}, "cannot be started"),
        ({"command": []}, "cannot be started"),
        ({"name": "../x"}, r"name=\.\./x must consist of letters"),
        ({"version": ""}, "version= must consist of letters"),
        ({"timeout_seconds": 0}, "timeout_seconds=0 must be above 0"),
        ({"display_scale": 0}, "display_scale=0 must be a number above 0"),
        ({"image_as": "jpeg"}, "image_as=jpeg is unknown; available: base64, path"),
    ],
)
def test_values_of_no_use_are_refused_before_anything_starts(values, sentence):
    with pytest.raises(UserError, match=sentence):
        Program(**{"name": "a", "version": 1, "command": [sys.executable]} | values)


def test_it_is_loaded_by_its_name_like_any_evaluator():
    one = load("program", name="mine", version="1", command=[sys.executable, "-c", "pass"])
    assert isinstance(one, Program)
    assert (one.name, one.command) == ("mine", [sys.executable, "-c", "pass"])
    with pytest.raises(UserError, match="evaluator program needs command; give command=VALUE"):
        load("program", name="mine", version="1")
