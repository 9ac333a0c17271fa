import contextlib
import json

import pytest

from alignbench.errors import UserError
from alignbench.files import with_check, write_json_lines
from alignbench.scoring.evidence import (
    Counted,
    add_evidence,
    borderline_share,
    category_totals,
    evidence_file,
    read_evidence,
)
from alignbench.store.manifest import ResultsError
from alignbench.store.scores import ScoreInfo, Scores

SCORES = Scores.of(ScoreInfo("geneval", "1"), ["a", "b"], [0, 0], [1.0, 0.0], ["d1", "d2"])
KEYS, DIGESTS = [("a", 0), ("b", 0)], ["d1", "d2"]
CAT, BENCH = {"reasons": [], "margin": 0.01}, {"reasons": ["expected bench >= 1, found 0"], "margin": 0.5}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "geneval@1.parquet"


def test_evidence_is_that_of_the_images_as_they_are_scored(path):
    assert read_evidence(path, SCORES) == {}
    add_evidence(path, KEYS[1:], ["of an earlier image"], [{"margin": 0.001}])
    add_evidence(path, KEYS, DIGESTS, [CAT, BENCH])
    found = read_evidence(path, SCORES)
    assert found == {("a", 0): [CAT], ("b", 0): [BENCH]}
    assert borderline_share(found) == 0.5


def test_an_image_that_was_scored_again_after_a_kill_has_the_last_evidence(path):
    add_evidence(path, KEYS[:1], DIGESTS[:1], [BENCH])
    add_evidence(path, KEYS[:1], DIGESTS[:1], [CAT])
    assert read_evidence(path, SCORES) == {("a", 0): [CAT]}


def test_a_video_has_the_evidence_of_each_frame_of_the_last_time(path):
    for margin in (0.9, 0.8, 0.7, 0.01, 0.5):  # killed after two of three frames
        add_evidence(path, KEYS[:1], DIGESTS[:1], [{"margin": margin}])
    found = read_evidence(path, SCORES, num_frames=3)
    assert [one["margin"] for one in found["a", 0]] == [0.7, 0.01, 0.5]
    assert borderline_share(found) == 1


def test_evidence_without_a_margin_says_nothing_of_thresholds(path):
    add_evidence(path, KEYS, DIGESTS, [{"questions": []}, {"margin": None}])
    assert borderline_share(read_evidence(path, SCORES)) is None


@pytest.mark.parametrize("name", ["prompt_id", "image", "digest", "check"])
def test_evidence_that_names_something_as_the_image_is_named_is_refused(path, name):
    with pytest.raises(ResultsError, match=f"geneval@1 explains its scores by '{name}', which names the image"):
        add_evidence(path, KEYS[:1], DIGESTS[:1], [{name: 1}])
    assert not evidence_file(path).exists()


ABOUT = {"prompt_id": "a", "image": 0, "digest": "d1"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 0.1},
        ABOUT | {"margin": "wide"},
        ABOUT | {"margin": []},
        ABOUT | {"margin": float("nan")},
        ABOUT | {"digest": 5},
        ABOUT | {"image": -1},
        ABOUT | {"image": 0.5},
        ABOUT | {"margin": 0.1, "check": "of another line"},
    ],
)
def test_damaged_evidence_is_refused_in_one_sentence(path, wrong):
    write_json_lines(
        evidence_file(path), map(with_check, [ABOUT, wrong]) if "check" not in wrong else [with_check(ABOUT), wrong]
    )
    with pytest.raises(UserError, match=r"line 2 of .*geneval@1\.evidence\.jsonl has .*; delete it"):
        read_evidence(path, SCORES)


def test_every_changed_byte_of_evidence_is_found(path):
    add_evidence(path, KEYS, DIGESTS, [CAT, BENCH])
    content, expected = evidence_file(path).read_bytes(), read_evidence(path, SCORES)
    for place in range(0, len(content), 7):
        for byte in (0, 255, content[place] ^ 1):
            evidence_file(path).write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            with contextlib.suppress(UserError):
                assert read_evidence(path, SCORES) == (expected if place < len(content) - 1 else {("a", 0): [CAT]})
    evidence_file(path).write_bytes(content[:-9])  # a kill has cut the last line
    assert read_evidence(path, SCORES) == {("a", 0): [CAT]}
    assert json.loads(content.splitlines()[0])["prompt_id"] == "a"


def asked(*questions):
    return {"questions": [{"category": one, "counted": counted, "question": "?"} for one, counted in questions]}


def test_questions_are_added_up_by_category_and_prompt(path):
    assert category_totals(read_evidence(path, SCORES)) == {}
    add_evidence(path, KEYS[1:], ["of an earlier image"], [asked(("count", 1.0))])
    add_evidence(path, KEYS[1:], DIGESTS[1:], [asked(("count", 1.0))])  # scored again after a kill
    first = asked(("count", 0.5), ("count", 0.25), ("object", 1.0), ("", 1.0))
    add_evidence(path, KEYS, DIGESTS, [first, asked(("count", 0.0))])
    assert category_totals(read_evidence(path, SCORES)) == {
        "count": {"a": Counted(0.75, 2), "b": Counted(0.0, 1)},
        "object": {"a": Counted(1.0, 1)},
    }


@pytest.mark.parametrize("question", [{"category": 3, "counted": 0.5}, {"category": "count", "counted": "half"}, 7])
def test_damaged_questions_are_refused_in_one_sentence(path, question):
    add_evidence(path, KEYS[:1], DIGESTS[:1], [{"questions": [question]}])
    with pytest.raises(UserError, match=r"the evidence of image 0 of a has .*; delete it") as refused:
        category_totals(read_evidence(path, SCORES))
    assert "\n" not in str(refused.value)
