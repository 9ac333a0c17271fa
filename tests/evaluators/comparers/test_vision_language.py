"""A vision-language model of the published class with random weights: log-odds are those of its plain logits."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForImageTextToText

from alignbench.errors import UserError
from evaluators.comparers.instruction import AGAIN, INSTRUCTION
from evaluators.comparers.vision_language import VisionLanguageComparer, label_log_odds
from evaluators.networks.chat_model import ChatModel
from tests.evaluators.tiny_qwen import noise, write_tiny_qwen

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as from_pretrained reads it: Qwen2.5-VL, whose answers begin with A or B."""
    folder = tmp_path_factory.mktemp("vlm") / "qwen"
    asked = INSTRUCTION.format(prompt="a cat", labels=("A", "B"))
    message = ("Image A:", None, "Image B:", None, asked)
    write_tiny_qwen(folder, f"{INSTRUCTION} {AGAIN} A B", likeliest=("A", "B"), message=message)
    return folder


@pytest.fixture(scope="module")
def comparer(folder):
    return VisionLanguageComparer("tiny", str(folder), precision="float32", max_side=56)


def direct_logits(folder, first, second, text):
    """The logits of the next token, [V], of one pair, by the model and its processor as published."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "text", "text": "Image A:"}, {"type": "image"}, {"type": "text", "text": "Image B:"}]
    chat = [{"role": "user", "content": [*content, {"type": "image"}, {"type": "text", "text": text}]}]
    inputs = processor(
        text=[processor.apply_chat_template(chat, add_generation_prompt=True)],
        images=[first, second],
        return_tensors="pt",
    )
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(**inputs).logits[0, -1], inputs["input_ids"].shape[1]


def test_log_odds_are_those_of_the_plain_logits_over_all_forms_of_a_label(comparer, folder):
    first, second = noise(0), noise(1)
    found = comparer.compare([first], [second], ["a cat"])[0]
    logits, num_tokens = direct_logits(folder, first, second, INSTRUCTION.format(prompt="a cat", labels=("A", "B")))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert comparer.label_tokens == [sorted((vocabulary[label], vocabulary[f"\u0120{label}"])) for label in "AB"]
    probability = logits.double().softmax(dim=-1)
    shares = [sum(float(probability[token]) for token in tokens) for tokens in comparer.label_tokens]
    assert found.log_odds == pytest.approx(math.log(shares[0] / shares[1]), abs=1e-4)
    assert found.won == float(found.log_odds > 0)
    assert found.tokens == (num_tokens, 1)
    assert found.raw in ("A", "B")
    assert found.seconds > 0


def test_a_verdict_depends_on_both_images_their_order_and_the_prompt_but_not_on_the_batch(comparer):
    images = [noise(n, size) for n, size in ((0, (56, 56)), (1, (28, 56)), (2, (56, 28)))]
    prompts = ["a cat", "a dog that sleeps", "a red house on a hill"]
    together = [one.log_odds for one in comparer.compare(images, images[::-1], prompts)]
    alone = [
        comparer.compare([first], [second], [prompt])[0].log_odds
        for first, second, prompt in zip(images, images[::-1], prompts, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-4)
    others = [
        comparer.compare([images[2]], [images[0]], ["a cat"])[0].log_odds,
        comparer.compare([images[0]], [images[1]], ["a cat"])[0].log_odds,
        comparer.compare([images[0]], [images[2]], ["a dog"])[0].log_odds,
    ]
    assert min(abs(one - alone[0]) for one in others) > 1e-4


def test_large_images_are_made_smaller_and_special_tokens_are_words(comparer):
    (small,) = comparer.preprocess([noise(0, (224, 112))])
    assert small.size == (56, 28)
    (found,) = comparer.compare([noise(0)], [noise(1)], ["<|image_pad|> <|im_end|>"])
    assert found.won in (0.0, 1.0)


def test_what_stands_for_an_image_is_a_word_even_where_it_is_no_special_token(folder):
    comparer = VisionLanguageComparer("tiny", str(folder))
    tokenizer = SimpleNamespace(all_special_tokens=["</s>"])
    vars(comparer.model)["processor"] = SimpleNamespace(image_token="<image>", tokenizer=tokenizer)
    assert comparer.model._harmless("an <image> of </s>") == "an < image> of < /s>"


def test_an_answer_that_begins_with_another_word_is_asked_about_again_and_is_a_failure(folder):
    comparer = VisionLanguageComparer("tiny", str(folder), precision="float32", max_side=56)
    comparer.model = ChatModel(str(folder), None, "float32")  # others share theirs
    with torch.no_grad():
        labels = comparer.model.network.lm_head.weight[[tokens[0] for tokens in comparer.label_tokens]]
        comparer.model.network.lm_head.weight[comparer.model.first_token("C")] = 3 * labels.mean(dim=0)
    (found,) = comparer.compare([noise(0)], [noise(1)], ["a cat"])
    assert (found.won, found.log_odds) == (None, None)
    assert found.raw == "C\n[asked again]\nC"


def test_its_identity_is_that_of_the_files_and_it_can_be_released(comparer, folder):
    assert comparer.version == "1-56px"
    assert comparer.identity == f"{comparer.weights} float32 pictures_56_lanczos"
    assert len(comparer.weights) == 64
    before = comparer.compare([noise(0)], [noise(1)], ["a cat"])[0].log_odds
    comparer.release()
    assert "network" not in vars(comparer.model)
    comparer.to("cpu")
    assert comparer.compare([noise(0)], [noise(1)], ["a cat"])[0].log_odds == before


def test_other_models_and_absent_ones_are_refused_before_anything_loads(tmp_path):
    with pytest.raises(UserError, match=r"lacks config\.json"):
        VisionLanguageComparer("tiny", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="holds a model of type clip; expected one that reads images and writes text"):
        VisionLanguageComparer("tiny", str(tmp_path))


def test_a_model_without_a_chat_template_is_refused(folder, tmp_path):
    for file in folder.iterdir():
        if "template" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="has no chat template, so it cannot be asked"):
        _ = VisionLanguageComparer("tiny", str(tmp_path)).model.processor


def test_label_log_odds_of_three_tokens():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    expected = [math.log((math.e + math.e**2) / math.e**3), math.log(2)]
    assert label_log_odds(logits, [[0, 1], [2]]).tolist() == pytest.approx(expected)
