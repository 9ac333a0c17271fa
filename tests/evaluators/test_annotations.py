"""Annotations are looked up by the text of a prompt."""

import json

import pytest

from alignbench.data.prompts import geneval
from alignbench.errors import UserError
from evaluators.annotations import Annotations


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_every_shipped_geneval_prompt_is_annotated():
    annotations = Annotations("geneval")
    assert len(annotations) == 553
    assert annotations.lacking(geneval("geneval", None).texts) is None
    assert annotations["a photo of two clocks"]["exclude"] == [{"class": "clock", "count": 3}]


def test_prompts_without_an_annotation_are_counted_and_the_first_is_named(tmp_path):
    annotations = Annotations(write(tmp_path / "own.jsonl", {"prompt": "a"}, {"prompt": "b"}))
    assert annotations.lacking(["a", "c", "d"]) == "2 of 3 prompts have no annotation in own.jsonl, such as 'c'"


def test_a_text_may_come_twice_but_not_with_two_annotations(tmp_path):
    same = write(tmp_path / "same.jsonl", {"prompt": "a", "n": 1}, {"prompt": "a", "n": 1})
    assert len(Annotations(same)) == 1
    other = write(tmp_path / "other.jsonl", {"prompt": "a", "n": 1}, {"prompt": "a", "n": 2})
    with pytest.raises(UserError, match=r"line 2 of .*other\.jsonl is a second annotation of 'a'; keep one"):
        Annotations(other)


def test_a_line_without_a_prompt_is_named(tmp_path):
    with pytest.raises(UserError, match=r'line 1 of .*x\.jsonl has no text in "prompt"'):
        Annotations(write(tmp_path / "x.jsonl", {"text": "a"}))


def test_the_digest_follows_the_annotations_and_not_the_file(tmp_path):
    first, copy, other = (
        Annotations(write(tmp_path / f"{number}.jsonl", {"prompt": "a", "n": n})).digest
        for number, n in enumerate((1, 1, 2))
    )
    assert first == copy != other
