"""The probability of an answer is that of the first tokens of all accepted answers, and each question is asked once."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from alignbench.images import picture_digest
from evaluators.networks.chat_model import chat_model
from evaluators.vqa.answers import Answer, AnswerCache, Question, key_of
from evaluators.vqa.questioner import Questioner
from tests.evaluators.tiny_qwen import noise

YES = ("Yes", "yes", " yes", " Yes")
TWO = ("two", "Two", " two", " Two", "2", " 2")


@pytest.fixture
def model(vlm):
    return chat_model(str(vlm), None, "float32")


@pytest.fixture
def asked(model, monkeypatch):
    """The number of rows of each forward pass from now on."""
    found = []
    monkeypatch.setattr(model, "next_logits", lambda inputs: found.append(len(inputs["input_ids"])) or logits(inputs))
    logits = type(model).next_logits.__get__(model)
    return found


def direct(vlm, picture, question):
    """Return the probabilities of the next token, [V], by the model and its processor as published."""
    processor = AutoProcessor.from_pretrained(vlm)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(text=[text], images=[picture], return_tensors="pt")
    network = AutoModelForImageTextToText.from_pretrained(vlm, dtype=torch.float32).eval()
    with torch.no_grad():
        return network(**inputs).logits[0, -1].double().softmax(dim=-1)


def test_a_probability_sums_over_the_set_of_first_tokens_and_a_bare_blank_is_counted_apart(vlm, model):
    probabilities = direct(vlm, noise(0), "Are there cats in the image?")
    content = json.loads((vlm / "tokenizer.json").read_text())["model"]["vocab"]
    blank = "\u0120"  # how the tokenizer writes a blank
    # "Yes" twice counts once; " 2" begins with the token of a blank, as with the vocabulary of Qwen
    ids = {"Yes": content["Yes"], " Yes": content[f"{blank}Yes"], "2": content["2"], " ": content[blank]}
    questioner = Questioner(model, batch_size=4)
    found = questioner.answer_probability(noise(0), "Are there cats in the image?", ["Yes", " Yes", "Yes"])
    assert found == pytest.approx(float(probabilities[ids["Yes"]] + probabilities[ids[" Yes"]]), rel=1e-4)
    [digits] = questioner.ask([noise(0)], [Question("Are there cats in the image?", ("2", " 2"))])
    assert digits.probability == pytest.approx(float(probabilities[ids["2"]] + probabilities[ids[" "]]), rel=1e-4)
    assert digits.blank == pytest.approx(float(probabilities[ids[" "]]), rel=1e-4)
    assert digits.blank > 0
    assert digits.likeliest == questioner.model.text_of(int(probabilities.argmax()))
    everything = tuple(model.text_of(token) for token in range(len(probabilities)))
    assert questioner.answer_probability(noise(0), "?", everything) <= 1


def test_answers_do_not_depend_on_the_batch_nor_on_the_cache(model):
    questions = [Question(f"Are there {'many ' * number}cats?", YES) for number in range(5)]
    pictures = [noise(number, size) for number, size in enumerate([(56, 56), (28, 84), (84, 28), (56, 84), (112, 56)])]
    one_by_one = Questioner(model, 1)
    alone = [one_by_one.ask([one], [two], cached=False)[0] for one, two in zip(pictures, questions, strict=True)]
    together = Questioner(model, 5).ask(pictures, questions)
    backwards = Questioner(model, 2).ask(pictures[::-1], questions[::-1], cached=False)[::-1]
    for found in (together, backwards):
        assert [one.probability for one in found] == pytest.approx([one.probability for one in alone], abs=1e-6)
    assert len({round(one.probability, 6) for one in alone}) == 5
    assert Questioner(model, 3).ask(pictures, questions) == together


def test_what_is_known_is_not_asked_again_and_what_differs_is(model, asked):
    questions = [Question("Is there a cat?", YES), Question("How many cats?", TWO)]
    Questioner(model, 4).ask([noise(0)] * 2, questions)
    assert asked == [2]
    Questioner(model, 4).ask([noise(0)] * 3, [*questions, questions[0]])
    assert asked == [2]
    Questioner(model, 4).ask([noise(0)], questions[:1], cached=False)
    assert asked == [2, 1]
    Questioner(model, 4).ask(
        [noise(1), noise(0), noise(0)], [questions[0], Question("Is there a cat?", TWO), questions[1]]
    )
    assert asked == [2, 1, 2]  # another image, and other accepted answers


def test_what_the_model_is_decides_what_is_known(own_cache):
    key, question = key_of(picture_digest(noise(0)), Question("?", YES)), Question("?", YES)
    AnswerCache("model in bfloat16").add({key: (question, Answer(0.5, 0.0, "Yes"))})
    assert AnswerCache("model in bfloat16").get([key]) == [Answer(0.5, 0.0, "Yes")]
    assert AnswerCache("model in float32").get([key]) == [None]
    [file] = own_cache.glob("answers/*/*.jsonl")
    assert json.loads(file.read_text())["question"] == "?"


@pytest.mark.parametrize("damage", ['"probability": 0.25', '"probability": 7.5', '"key": "x', "{"])
def test_a_damaged_line_is_not_read_and_its_question_is_asked_again(own_cache, damage):
    key, question = key_of(picture_digest(noise(0)), Question("?", YES)), Question("?", YES)
    AnswerCache("m").add({key: (question, Answer(0.5, 0.0, "Yes"))})
    [file] = own_cache.glob("answers/*/*.jsonl")
    text = file.read_text()
    file.write_text(text.replace('"probability": 0.5', damage) if ":" in damage else damage + text)
    cache = AnswerCache("m")
    assert cache.get([key]) == [None]
    cache.add({key: (question, Answer(0.125, 0.0, "no"))})
    assert cache.get([key]) == [Answer(0.125, 0.0, "no")] == AnswerCache("m").get([key])


@pytest.mark.matrix
def test_processes_that_add_at_once_lose_nothing(own_cache):
    script = (
        "import sys; from evaluators.vqa.answers import Answer, AnswerCache, Question\n"
        "for number in range(60):\n"
        "    key = f'00{sys.argv[1]}-{number}'\n"
        "    AnswerCache('m').add({key: (Question('x' * 3000, ()), Answer(number / 100, 0.0, sys.argv[1]))})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    keys = [f"00{name}-{number}" for name in "abc" for number in range(60)]
    expected = [Answer(number / 100, 0.0, name) for name in "abc" for number in range(60)]
    assert AnswerCache("m").get(keys) == expected


def test_a_half_written_line_is_left_for_later(own_cache):
    cache, question = AnswerCache("m"), Question("?", ())
    cache.add({"00a": (question, Answer(0.5, 0.0, "Yes"))})
    [file] = own_cache.glob("answers/*/*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole + whole.replace(b"00a", b"00b")[:-9])
    assert cache.get(["00a", "00b"]) == [Answer(0.5, 0.0, "Yes"), None]
    cache.add({"00c": (question, Answer(0.25, 0.0, "no"))})
    assert cache.get(["00a", "00b", "00c"]) == [Answer(0.5, 0.0, "Yes"), None, Answer(0.25, 0.0, "no")]
