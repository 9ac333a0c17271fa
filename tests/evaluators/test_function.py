"""A function of the user's scores pictures and prompts, and every wrong answer ends in one sentence."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from evaluators import load
from evaluators.function import Function

MODULE = """
from pathlib import Path
Path({ran!r}).touch()

def brightness(images, prompts):
    assert all(image.mode == "RGB" for image in images)
    return [image.getpixel((0, 0))[0] + 1000 * len(prompt) for image, prompt in zip(images, prompts)]

def answer(images, prompts):
    return ANSWER

NUMBER = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the user's; return its name and the file that it makes when it is imported."""
    name = f"users_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(ran=str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name, tmp_path / "ran"
    sys.modules.pop(name, None)


def function(module, attribute="brightness", **values):
    return Function("mine", 1, f"{module}:{attribute}", **values)


def greys(*values):
    return [Image.new("L", (64, 64), value) for value in values]


def test_a_function_scores_lists_of_pictures_and_prompts(module):
    name, _ = module
    one = function(name)
    assert one.score(greys(0, 100, 255), ["", "a", "ab"]).tolist() == [0, 1100, 2255]
    assert one.score(greys(0, 100, 255), ["", "a", "ab"], batch_size=2).tolist() == [0, 1100, 2255]


def test_it_is_imported_when_it_is_first_asked(module):
    name, ran = module
    one = function(name)
    assert not ran.exists()
    assert one.supports(["anything"]) is None  # which a command asks before it computes
    assert ran.exists()


@pytest.mark.parametrize(
    "answer",
    [[1, 2.5], (1, 2.5), np.array([1, 2.5]), torch.tensor([1, 2.5]), [np.float32(1), torch.tensor(2.5)]],
    ids=repr,
)
def test_numbers_of_every_library_are_taken(module, answer):
    name, _ = module
    one = function(name, "answer")
    vars(sys.modules[one.function.__module__])["ANSWER"] = answer
    assert one.score(greys(1, 2), ["", ""]).tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ([1.0], "gave 1 scores for 2 images"),
        ([1.0, 2.0, 3.0], "gave 3 scores for 2 images"),
        ([1.0, float("nan")], "gave the score nan; a score must be one finite number"),
        ([1.0, float("inf")], "gave the score inf"),
        ([1.0, None], "gave the score None"),
        ([1.0, "2"], "gave the score '2'"),
        ([1.0, True], "gave the score True"),
        ([1.0, [2.0, 3.0]], r"gave the score \[2.0, 3.0\]"),
        (None, "returned None; expected a list of numbers"),
        (1.0, "returned 1.0; expected a list of numbers"),
    ],
)
def test_a_wrong_answer_ends_in_a_sentence(module, answer, sentence):
    name, _ = module
    one = function(name, "answer")
    vars(sys.modules[one.function.__module__])["ANSWER"] = answer
    with pytest.raises(UserError, match=sentence) as refused:
        one.score(greys(1, 2), ["", ""])
    assert str(refused.value).startswith(f"function={name}:answer ")


def test_what_the_function_raises_is_passed_on(module):
    name, _ = module
    with pytest.raises(NameError, match="ANSWER"):
        function(name, "answer").score(greys(1), [""])


@pytest.mark.parametrize("attribute", ["nothing", "NUMBER"])
def test_a_name_that_is_no_function_is_told(module, attribute):
    name, _ = module
    with pytest.raises(UserError, match=f"function={name}:{attribute}: the module has no function of this name"):
        function(name, attribute).supports([])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no_such_module:score", "there is no module no_such_module; start the command in its folder"),
        ("no_such_package.module:score", "there is no module no_such_package.module"),
        ("module", "is not understood; expected a module and a name, as in my_module:score"),
        ("a.py:score()", "is not understood"),
        ("os.system", "is not understood"),
        (":score", "is not understood"),
    ],
)
def test_what_names_no_function_is_refused_at_once(text, sentence):
    with pytest.raises(UserError, match=sentence):
        Function("mine", "1", text)


def test_it_is_loaded_by_its_name_like_any_evaluator(module):
    name, _ = module
    one = load("function", name="mine", version="3", function=f"{name}:brightness", higher_is_better=False)
    assert (one.name, one.version, one.higher_is_better) == ("mine", "3", False)
    assert one.score(greys(5), [""]).tolist() == [5]
