"""A vision-language model of the published class with random weights: log-odds are those of its plain logits."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from alignbench.calibrate.official import write_qwen2_vl
from alignbench.errors import UserError
from evaluators.comparers.instruction import AGAIN, INSTRUCTION
from evaluators.comparers.vision_language import VisionLanguageComparer, label_log_odds

pytestmark = pytest.mark.matrix
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "tie_word_embeddings": False, "initializer_range": 0.3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}  # fmt: skip
VISION = {
    "depth": 1, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 14,
    "fullatt_block_indexes": [0], "window_size": 112, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as from_pretrained reads it: Qwen2.5-VL, whose answers begin with A or B."""
    folder = tmp_path_factory.mktemp("vlm") / "qwen"
    write_qwen2_vl(folder, {}, f"{INSTRUCTION} {AGAIN} A B")
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    processor = {"processor_class": "Qwen2_5_VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor | processor))
    (folder / "config.json").unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"]
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"vocab_size": max(ids.values()) + 1},
        vision_config=VISION,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    comparer = VisionLanguageComparer("tiny", str(folder), precision="float32", max_side=56)
    with torch.no_grad():  # the likeliest answers are the labels: they have the state of the last token in common
        state = model.model(**comparer.inputs([picture(8)], [picture(9)], ["a cat"])).last_hidden_state[0, -1]
        for label in ("A", "B"):
            model.lm_head.weight[vocabulary[label]] += state
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def comparer(folder):
    return VisionLanguageComparer("tiny", str(folder), precision="float32", max_side=56)


def picture(seed, size=(56, 56)):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (*size[::-1], 3), generator=generator, dtype=torch.uint8).numpy())


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
    first, second = picture(0), picture(1)
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
    images = [picture(n, size) for n, size in ((0, (56, 56)), (1, (28, 56)), (2, (56, 28)))]
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
    (small,) = comparer.preprocess([picture(0, (224, 112))])
    assert small.size == (56, 28)
    (found,) = comparer.compare([picture(0)], [picture(1)], ["<|image_pad|> <|im_end|>"])
    assert found.won in (0.0, 1.0)


def test_what_stands_for_an_image_is_a_word_even_where_it_is_no_special_token(folder):
    comparer = VisionLanguageComparer("tiny", str(folder))
    vars(comparer)["processor"] = SimpleNamespace(
        image_token="<image>", tokenizer=SimpleNamespace(all_special_tokens=["</s>"])
    )
    assert comparer._harmless("an <image> of </s>") == "an < image> of < /s>"


def test_an_answer_that_begins_with_another_word_is_asked_about_again_and_is_a_failure(folder):
    comparer = VisionLanguageComparer("tiny", str(folder), precision="float32", max_side=56)
    with torch.no_grad():
        labels = comparer.network.lm_head.weight[[tokens[0] for tokens in comparer.label_tokens]]
        comparer.network.lm_head.weight[comparer.processor.tokenizer.encode("C")[0]] = 3 * labels.mean(dim=0)
    (found,) = comparer.compare([picture(0)], [picture(1)], ["a cat"])
    assert (found.won, found.log_odds) == (None, None)
    assert found.raw == "C\n[asked again]\nC"


def test_its_identity_is_that_of_the_files_and_it_can_be_released(comparer, folder):
    assert comparer.version == "1-56px"
    assert comparer.identity == f"{comparer.weights} float32 pictures_56_lanczos"
    assert len(comparer.weights) == 64
    before = comparer.compare([picture(0)], [picture(1)], ["a cat"])[0].log_odds
    comparer.release()
    assert "network" not in vars(comparer)
    comparer.to("cpu")
    assert comparer.compare([picture(0)], [picture(1)], ["a cat"])[0].log_odds == before


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
        _ = VisionLanguageComparer("tiny", str(tmp_path)).processor


def test_label_log_odds_of_three_tokens():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    expected = [math.log((math.e + math.e**2) / math.e**3), math.log(2)]
    assert label_log_odds(logits, [[0, 1], [2]]).tolist() == pytest.approx(expected)
