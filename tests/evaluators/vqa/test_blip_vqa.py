"""BLIP-VQA by a tiny random network: factors are those of a direct pass, in both layouts of the weights."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import BlipForQuestionAnswering

from alignbench.errors import UserError
from evaluators.vqa import blip_vqa
from evaluators.vqa.blip_vqa import BlipVqa, BlipVqaTransformers, blip_config, question
from tests.evaluators.conftest import randomise
from tests.evaluators.tiny_qwen import noise

TINY = {
    "vision": {"image_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
               "num_attention_heads": 2},
    "text": {"hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2},
}  # fmt: skip
PROMPTS = {
    "a red apple and a dog": ["a red apple", "a dog"],
    "a cat": ["a cat"],
    "nine": [f"thing {number}" for number in range(9)],
}


@pytest.fixture(scope="module")
def network():
    network = BlipForQuestionAnswering(blip_config(384, **TINY)).eval()
    randomise(network, seed=3)
    return network


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """Both files of weights, and a table."""
    folder = tmp_path_factory.mktemp("blip")
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file({k: v for k, v in tensors.items() if k not in blip_vqa.TIED}, folder / "model.safetensors")
    published = {}
    for name, tensor in tensors.items():
        for there, here in reversed(blip_vqa.RENAMED.items()):
            name = name.replace(here, there)
        published[name] = tensor
    torch.save({"model": published, "epoch": 1}, folder / blip_vqa.PUBLISHED_FILE)
    lines = [json.dumps({"prompt": prompt, "chunks": chunks}) for prompt, chunks in PROMPTS.items()]
    (folder / "chunks.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    table = str(folder / "chunks.jsonl")
    return {"source": str(folder), "revision": None, "table": table, "precision": "float32", **TINY}


@pytest.fixture(scope="module")
def evaluator(arguments):
    return BlipVqaTransformers(**arguments)


def direct(network, evaluator, picture, text):
    """P(yes) / (P(yes) + P(no)) by the published steps, one question at a time."""
    tokenizer = evaluator.tokenizer
    read = tokenizer([text], return_tensors="pt", truncation=True, max_length=35)
    read.input_ids[:, 0] = 30523
    with torch.no_grad():
        image = network.vision_model(evaluator.preprocess([picture])).last_hidden_state
        states = network.text_encoder(
            input_ids=read.input_ids, attention_mask=read.attention_mask, encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2]),
        ).last_hidden_state  # fmt: skip
        logits = network.text_decoder(torch.tensor([[30522]]), encoder_hidden_states=states).logits[0, 0]
    probabilities = logits.double().softmax(dim=-1)
    return float(probabilities[2748] / (probabilities[2748] + probabilities[2053]))


def test_a_score_is_the_product_of_the_rounded_factors_of_a_direct_pass(evaluator, network):
    prompt = "a red apple and a dog"
    [[score], [evidence]] = evaluator.explain(
        evaluator.image_features(evaluator.preprocess([noise(0)])), evaluator.encode_prompts([prompt])
    )
    factors = [direct(network, evaluator, noise(0), text) for text in ("a red apple?", "a dog?")]
    assert [one["probability"] for one in evidence["questions"]] == [round(factor, 4) for factor in factors]
    assert [one["question"] for one in evidence["questions"]] == ["a red apple?", "a dog?"]
    assert float(score) == pytest.approx(round(round(factors[0], 4) * round(factors[1], 4), 4))
    assert 0.01 < factors[0] < 0.99
    assert abs(factors[0] - factors[1]) > 1e-3


def test_scores_do_not_depend_on_the_batch(evaluator):
    pictures, prompts = [noise(0), noise(1, (40, 90)), noise(2)], [*PROMPTS]
    together = evaluator.score(pictures, prompts)
    alone = torch.cat([evaluator.score(*one) for one in zip(pictures, prompts, strict=True)])
    torch.testing.assert_close(together, alone, atol=1.01e-4, rtol=0)  # the last decimal may be rounded otherwise
    assert evaluator.score([noise(1)], ["a cat"]) != evaluator.score([noise(0)], ["a cat"])


def test_eight_noun_phrases_count(evaluator):
    assert evaluator.encode_prompts(["nine"]) == [tuple(f"thing {number}" for number in range(8))]


def test_the_published_file_has_the_same_parameters_and_a_name_of_its_own(evaluator, arguments):
    published = BlipVqa(**arguments)
    assert (published.name, evaluator.name) == ("blip_vqa", "blip_vqa_384")
    assert torch.equal(published.score([noise(0)], ["a cat"]), evaluator.score([noise(0)], ["a cat"]))
    assert published.weights != evaluator.weights


def test_published_sizes():
    assert [blip_config(kind.size, None, None).vision_config.image_size for kind in (BlipVqa, BlipVqaTransformers)] == [
        480,
        384,
    ]
    settings = {"vision": None, "text": None, "precision": "float32"}
    assert 1.4e9 < BlipVqaTransformers.weight_bytes(settings) < 1.7e9  # the hub's file has 1.54 GB


@pytest.mark.parametrize(
    ("chunk", "asked"),
    [
        ("A red (shiny) Apple.", "a red shiny apple?"),
        ("dog", "dog?"),
        ("w " * 60 + "end", " ".join(["w"] * 50)),
    ],
)
def test_questions_are_read_as_published(chunk, asked):
    assert question(chunk) == asked


def test_prompts_without_noun_phrases_and_bad_tables_are_refused(evaluator, arguments, tmp_path):
    assert evaluator.supports([*PROMPTS]) is None
    assert evaluator.supports(["a cat", "a bird"]) == (
        "blip_vqa_384 needs the noun phrases of each prompt, and 1 of 2 prompts have no annotation in chunks.jsonl, "
        "such as 'a bird'"
    )
    for number, (text, told) in enumerate(
        [
            ('{"prompt": "a", "chunks": []}', "has no noun phrase"),
            ('{"prompt": "a", "chunks": ["a"]}\n{"prompt": "a", "chunks": ["b"]}', "a second list of the noun phrases"),
            ('{"prompt": "a", "chunks": 7}', "has no list of texts"),
        ]
    ):
        (tmp_path / f"{number}.jsonl").write_text(text)
        with pytest.raises(UserError, match=told):
            BlipVqa(**(arguments | {"table": str(tmp_path / f"{number}.jsonl")}))


def test_a_missing_parameter_is_refused_by_name(network, arguments, tmp_path):
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    del tensors["text_encoder.encoder.layer.1.crossattention.self.key.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"missing: text_encoder\.encoder\.layer\.1\.crossattention\.self\.key\.weight"):
        _ = BlipVqaTransformers(**(arguments | {"source": str(tmp_path)})).network
