"""GenEval 2: what answers are accepted, how probabilities become a score, and whose file it is."""

import json
import math

import pytest

from alignbench.errors import UserError
from evaluators.vqa.answers import Answer
from evaluators.vqa.geneval2 import YES, GenEval2, accepted, arithmetic_mean, geometric_mean
from tests.evaluators.tiny_qwen import noise

LINES = [  # of our own, in the layout of the published file
    {"prompt": "two cats", "vqa_list": [["How many cats are in the image?", "two"], ["Are there cats?", "Yes"]],
     "skills": ["count", "object"]},
    {"prompt": "a dog", "vqa_list": [["Are there dogs?", "Yes"]], "skills": ["object"]},
]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return str(tmp_path / "mine.jsonl")


@pytest.fixture
def three(settings, table):
    return [GenEval2(score, table, True, **settings) for score in ("soft_tifa_gm", "soft_tifa_am", "tifa")]


def test_means():
    assert arithmetic_mean([0.25, 0.75, 0.5]) == pytest.approx(0.5)
    assert geometric_mean([0.25, 0.5, 1.0]) == pytest.approx(0.5)
    assert geometric_mean([0.9, 0.0, 0.9]) == 0
    assert geometric_mean([1e-40] * 20) == pytest.approx(1e-40)  # their product is no number of 64 bits


def test_accepted_answers_are_the_six_forms_of_a_number():
    assert set(accepted("two")) == {"two", "Two", " two", " Two", "2", " 2"}
    assert set(accepted("eleven")) == {"eleven", "Eleven", " eleven", " Eleven"}


def test_questions_are_asked_as_published(three):
    [asked] = three[0].encode_prompts(["two cats"])
    count, there = three[0].questions(asked)
    assert (count.text, set(count.answers)) == (
        "How many cats are in the image? Answer in one word.",
        set(accepted("two")),
    )
    assert (there.text, there.answers) == ("Are there cats? Answer in one word.", YES)


def test_the_three_scores_and_the_variant_without_the_blank(three, settings, table):
    asked = three[0].encode_prompts(["two cats"])[0]
    answers = [Answer(0.5, 0.25, " two"), Answer(0.5, 0.0, "No")]
    assert [one.judge(asked, answers)[0] for one in three] == pytest.approx([0.5, 0.5, 0.5])
    without = [GenEval2(score, table, False, **settings) for score in ("soft_tifa_gm", "soft_tifa_am", "tifa")]
    assert [one.judge(asked, answers)[0] for one in without] == pytest.approx([math.sqrt(0.125), 0.375, 0.5])
    assert {one.version for one in without} == {"1-no_blank"}
    told = three[2].judge(asked, answers)[1]
    assert told == [{"category": "count", "counted": 1.0}, {"category": "object", "counted": 0.0}]
    # capitals match by their lower-case form; a bare blank is no answer
    assert three[2].judge(asked, [Answer(0.5, 0.5, " "), Answer(0.1, 0.0, "YES")])[0] == 0.5


def test_each_question_is_asked_once_for_the_three_and_evidence_says_what_was_answered(three, monkeypatch):
    model = three[0].model
    assert all(one.model is model for one in three)
    rows, next_logits = [], type(model).next_logits.__get__(model)
    monkeypatch.setattr(
        model, "next_logits", lambda inputs: rows.append(len(inputs["input_ids"])) or next_logits(inputs)
    )
    pictures, prompts = [noise(0), noise(1, (84, 28))], ["two cats", "a dog"]
    scores, evidence = three[0].explain(pictures, three[0].encode_prompts(prompts))
    assert sum(rows) == 3
    others = [one.explain(pictures, one.encode_prompts(prompts)) for one in three[1:]]
    assert sum(rows) == 3
    probabilities = [one["probability"] for one in evidence[0]["questions"]]
    assert scores[0].item() == pytest.approx(math.sqrt(math.prod(probabilities)))
    assert others[0][0][0].item() == pytest.approx(sum(probabilities) / 2)
    count = evidence[0]["questions"][0]
    assert (count["question"], count["category"]) == ("How many cats are in the image? Answer in one word.", "count")
    assert 0 < count["blank"] < count["probability"] < 1
    json.dumps(evidence)
    assert three[0].score(pictures[1:], prompts[1:]).item() == pytest.approx(scores[1].item())
    assert len({(one.shared_pass, one.preprocess) for one in three}) == 1


def test_the_file_is_the_users_and_the_message_says_under_which_licence(settings, table, tmp_path):
    for absent in (None, str(tmp_path / "absent.jsonl")):
        with pytest.raises(UserError, match=r"CC BY-NC 4\.0 \(no commercial use\) and does not come with") as refused:
            GenEval2("soft_tifa_gm", absent, True, **settings)
        assert "\n" not in str(refused.value)
    evaluator = GenEval2("soft_tifa_gm", table, True, **settings)
    assert evaluator.supports(["two cats", "a dog"]) is None
    assert evaluator.supports(["a bird"]) == (
        "soft_tifa_gm_tiny scores prompts with questions in its table alone, and 1 of 1 prompts have no annotation in "
        "mine.jsonl, such as 'a bird'"
    )
    with pytest.raises(UserError, match="have no annotation"):
        evaluator.encode_prompts(["a bird"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"prompt": "a", "vqa_list": [["q", "Yes"]], "skills": []}, "of one length"),
        ({"prompt": "a", "vqa_list": [["q"]], "skills": ["object"]}, "must have pairs of texts"),
        ({"prompt": "two cats", "vqa_list": [["q", "Yes"]], "skills": ["object"]}, "is a second annotation"),
        ({"text": "a", "vqa_list": [["q", "Yes"]], "skills": ["object"]}, 'has no text in column "prompt"'),
    ],
)
def test_other_files_are_refused(settings, tmp_path, line, told):
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, [*LINES, line])))
    with pytest.raises(UserError, match=told):
        GenEval2("tifa", str(tmp_path / "other.jsonl"), True, **settings)


def test_the_table_is_part_of_the_weights(settings, three, tmp_path):
    (tmp_path / "less.jsonl").write_text(json.dumps(LINES[0]))
    assert GenEval2("tifa", str(tmp_path / "less.jsonl"), True, **settings).weights != three[2].weights
