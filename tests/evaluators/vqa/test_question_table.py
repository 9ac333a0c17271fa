"""Tables of questions: three layouts, right answers, and parents."""

import json

import pytest

from alignbench.errors import UserError
from alignbench.scoring.calibration import _samples, scores
from evaluators.vqa.answers import Answer
from evaluators.vqa.question_table import TableQuestions, with_parents
from evaluators.vqa.tables import Item, read_questions
from tests.evaluators.tiny_qwen import noise

DSG = """\
item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language
a_1,a red cat on a mat,cat,1,0,entity,whole,entity - whole (cat),Is there a cat?
a_1,a red cat on a mat,mat,2,0,entity,whole,entity - whole (mat),Is there a mat?
a_1,a red cat on a mat,red,3,1,attribute,color,"attribute - color (cat, red)",Is the cat red?
a_1,a red cat on a mat,on,4,"1,2",relation,spatial,"relation - spatial (cat, mat, on)",Is the cat on the mat?
a_2,a dog,dog,1,0,entity,whole,entity - whole (dog),Is there a dog?
"""
TIFA = [
    {"id": "x_1", "caption": "two dogs", "question": "how many dogs?", "choices": ["1", "2", "3"], "answer": "2",
     "element_type": "counting"},
    {"id": "x_1", "caption": "two dogs", "question": "are there dogs?", "choices": ["yes", "no"], "answer": "yes",
     "element_type": "object"},
]  # fmt: skip


def test_a_list_of_parents_is_read_like_their_numbers_in_a_text(write):
    rows = [
        {"item_id": "a", "text": "a cat", "proposition_id": 1, "dependency": 0, "question_natural_language": "A cat?"},
        {"item_id": "a", "text": "a cat", "proposition_id": 2, "dependency": [1], "question_natural_language": "Red?"},
    ]
    assert [item.parents for item in read_questions(write("a.json", json.dumps(rows)))["a cat"]] == [(), ("1",)]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return write


@pytest.fixture
def evaluator(settings, write):
    return TableQuestions("dsg", str(write("dsg.csv", DSG)), "dsg", **settings)


def test_the_layouts_of_dsg_tifa_and_our_own_are_read(write):
    dsg = read_questions(write("dsg.csv", DSG))
    assert list(dsg) == ["a red cat on a mat", "a dog"]
    assert dsg["a red cat on a mat"][3] == Item(
        "4", "Is the cat on the mat?", parents=("1", "2"), category="relation - spatial"
    )
    tifa = read_questions(write("tifa.json", json.dumps(TIFA)))
    assert tifa["two dogs"] == (
        Item("1", "how many dogs?", ("1", "2", "3"), "2", category="counting"),
        Item("2", "are there dogs?", category="object"),
    )
    lines = [
        {"prompt": "a", "question": "Is it?"},
        {"prompt": "a", "question": "Which?", "choices": ["x", "y"], "answer": "y", "parents": [1], "category": "kind"},
    ]
    own = read_questions(write("own.jsonl", "\n".join(map(json.dumps, lines))))
    assert own["a"] == (Item("1", "Is it?"), Item("2", "Which?", ("x", "y"), "y", ("1",), "kind"))
    table = "prompt,question,choices,answer,parents\na,Is it?,,,\na,Which?,x|y,y,1\n"
    assert read_questions(write("own.csv", table))["a"][1] == Item("2", "Which?", ("x", "y"), "y", ("1",))


def test_a_child_of_a_wrong_parent_counts_as_wrong():
    chain = [Item("1", ""), Item("2", "", parents=("1",)), Item("3", "", parents=("2",)), Item("4", "")]
    for rule in ("dsg", "dpg"):
        assert with_parents(chain, [True] * 4, rule) == [True] * 4
        assert with_parents(chain, [True, True, False, True], rule) == [True, True, False, True]
        assert with_parents(chain, [True, False, True, True], rule) == [True, False, False, True]
    # a grandchild, as published: DSG asks for the parent's own answer, DPG for what it counts by then
    assert with_parents(chain, [False, True, True, True], "dsg") == [False, False, True, True]
    assert with_parents(chain, [False, True, True, True], "dpg") == [False, False, False, True]
    assert with_parents([chain[0], chain[2], chain[1]], [False, True, True], "dpg") == [False, True, False]


def test_what_dsgs_own_table_has_wrong_is_read(write):
    """A text under two ids, a word among parents, and a parent that is no question: all are in the published file."""
    again = DSG + DSG[DSG.index("a_2") :].replace("a_2", "a_3")
    table = again.replace('4,"1,2",relation', '4,"1, mat, 9",relation')
    assert read_questions(write("dsg.csv", table))["a red cat on a mat"][3].parents == ("1",)
    with pytest.raises(UserError, match="two different lists of questions about 'a dog'"):
        read_questions(write("dsg.csv", again + "a_3,a dog,dog,2,0,entity,whole,entity - whole (dog),Is it big?\n"))


def test_the_score_is_the_share_of_right_answers_after_the_rule(evaluator):
    [asked] = evaluator.encode_prompts(["a red cat on a mat"])
    answers = [Answer(0.4, 0.0, word) for word in ("Yes", "no", " yes", "YES")]
    score, told = evaluator.judge(asked, answers)
    assert score == 0.5
    assert [one["right"] for one in told] == [True, False, True, True]
    assert [one["counted"] for one in told] == [True, False, True, False]
    assert told[2]["category"] == "attribute - color"
    assert evaluator.judge(asked, [Answer(0.4, 0.0, "Yesterday")] * 4)[0] == 0


def test_choices_have_letters(settings, write):
    evaluator = TableQuestions("tifa_v1", str(write("tifa.json", json.dumps(TIFA))), "dsg", **settings)
    asked = evaluator.encode_prompts(["two dogs"])[0]
    choice, there = evaluator.questions(asked)
    assert choice.text == "how many dogs?\nA. 1\nB. 2\nC. 3\nAnswer with one letter."
    assert choice.answers == ("B", " B")
    assert there.text == "are there dogs? Answer yes or no."
    assert there.answers == ("yes", " yes", "Yes", " Yes")
    assert evaluator.judge(asked, [Answer(0.4, 0.0, " b"), Answer(0.4, 0.0, "no")])[0] == 0.5
    assert (evaluator.name, evaluator.version, evaluator.summary) == ("tifa_v1_tiny", "1-dsg", "mean")


def test_scores_do_not_depend_on_the_batch(evaluator):
    pictures = [noise(number, size) for number, size in enumerate([(56, 56), (28, 84), (84, 28)])]
    prompts = ["a red cat on a mat", "a dog", "a red cat on a mat"]
    _, together = evaluator.explain(pictures, evaluator.encode_prompts(prompts))
    for picture, prompt, expected in zip(pictures, prompts, together, strict=True):
        _, [alone] = evaluator._judged([picture], evaluator.encode_prompts([prompt]), cached=False)
        for one, other in zip(alone["questions"], expected["questions"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)


def test_calibration_has_questions_about_its_images_and_always_asks(evaluator, own_cache):
    folder, samples = _samples(evaluator)
    assert all((folder / sample["file"]).is_file() for sample in samples)
    assert len(scores(evaluator)) == 4
    assert evaluator.supports([samples[0]["prompt"]]) is not None  # no prompt of the user's
    assert not (own_cache / "answers").exists()  # asked anew each time, to notice another library


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([{"prompt": "a", "question": "?", "answer": "maybe"}], "has the answer 'maybe', which is none of yes, no"),
        ([{"prompt": "a", "question": "?", "choices": ["x"], "answer": "x"}], "must have 2 to 26 different choices"),
        ([{"prompt": "a", "question": "?", "parents": ["7"]}], "names question 7 as a parent, which 'a' does not have"),
        ([{"prompt": "a", "question": "?", "id": 1}] * 2, "is a second question 1 of its prompt"),
        ([{"prompt": "a", "words": "?"}], "has the columns prompt, words; expected prompt and question"),
        ([{"prompt": "a", "question": 3}], 'has no text in column "question"'),
    ],
)
def test_tables_of_no_use_are_refused(write, lines, told):
    with pytest.raises(UserError, match=told) as refused:
        read_questions(write("bad.jsonl", "\n".join(map(json.dumps, lines))))
    assert "\n" not in str(refused.value)
