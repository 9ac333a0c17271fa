"""VQAScore: the probability of Yes, one score for each template, and a gradient through Qwen's pixels."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.checkpoint import checkpoint
from transformers import CLIPImageProcessor

from alignbench.errors import UserError
from alignbench.evaluator import weight_bytes
from alignbench.scoring.calibration import IMAGES
from evaluators import load
from evaluators.networks.chat_model import ChatModel
from evaluators.vqa.differentiable import qwen_patches
from evaluators.vqa.vqascore import TEMPLATES, VqaScore
from tests.evaluators.tiny_qwen import noise


@pytest.fixture
def scorer(settings):
    return VqaScore("t2v_metrics", **settings)


def tensor_of(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 255


def test_a_score_is_the_probability_of_yes_to_the_question_of_its_template(settings):
    for template, (text, answers) in TEMPLATES.items():
        scorer = VqaScore(template, **settings)
        asked = text.replace("{}", "a {cat}")
        expected = scorer.questioner.answer_probability(noise(0), asked, answers)
        assert scorer.score([noise(0)], ["a {cat}"]).item() == pytest.approx(expected)
        assert scorer.version == f"1-{template}"
    assert len({VqaScore(template, **settings).score([noise(0)], ["a cat"]).item() for template in TEMPLATES}) == 3
    with pytest.raises(UserError, match="template=own is unknown; available: paper, t2v_metrics, geneval2"):
        load("vqascore", **settings, template="own")


def test_scores_do_not_depend_on_the_batch_and_evidence_says_what_was_asked(scorer):
    pictures, prompts = [noise(0), noise(1, (28, 84)), noise(2)], ["a cat", "a dog that is in the image", "a cat"]
    scores, evidence = scorer.explain(pictures, prompts)
    alone = torch.cat([scorer.score([one], [two]) for one, two in zip(pictures, prompts, strict=True)])
    torch.testing.assert_close(scores, alone, atol=1e-6, rtol=0)
    assert evidence[1]["questions"][0]["question"] == (
        'Does this figure show "a dog that is in the image"? Please answer Yes or No.'
    )


def test_the_configuration_builds_it_and_the_name_ends_with_the_model(vlm):
    scorer = load("vqascore", source=str(vlm), vlm="mine", precision="float32", max_side=64)
    assert (scorer.name, scorer.version, scorer.preprocess.key) == (
        "vqascore_mine",
        "1-t2v_metrics",
        "pictures_64_lanczos",
    )
    with pytest.raises(UserError, match="vqascore_a b cannot be a name"):
        load("vqascore", source=str(vlm), vlm="a b")
    network = ChatModel(str(vlm), None, "float32").network
    num = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    assert weight_bytes(VqaScore, {**_arguments(vlm), "precision": "float32"}) == num
    assert weight_bytes(VqaScore, {**_arguments(vlm), "source": "owner/absent"}) is None


def _arguments(vlm):
    return {
        "template": "paper", "vlm": "m", "source": str(vlm), "revision": None, "precision": "bfloat16",
        "max_side": None, "batch_size": 1,
    }  # fmt: skip


def test_a_folder_that_is_no_vision_language_model_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"lacks config\.json"):
        load("vqascore", source=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="holds a model of type bert; expected one that reads images") as refused:
        load("vqascore", source=str(tmp_path))
    assert "\n" not in str(refused.value)


# ---- the gradient


def test_a_reward_equals_the_score_where_nothing_is_resized(scorer):
    pixels = torch.cat([tensor_of(noise(0)), tensor_of(noise(1))])
    prompts = ["a cat", "how many dog in the image"]
    rewards = scorer.reward(pixels, prompts)
    torch.testing.assert_close(rewards, scorer.score([noise(0), noise(1)], prompts), atol=1e-6, rtol=1e-5)


def test_the_gradient_equals_finite_differences(scorer):
    scorer.model = scorer.questioner.model = ChatModel(scorer.model.source, None, "float32")
    scorer.network.double()
    pixels = tensor_of(noise(0, (60, 60))).double().requires_grad_()  # is resized to 56 pixels
    scorer.model.next_logits = lambda inputs: scorer.network(**inputs, logits_to_keep=1).logits[:, -1]
    reward = scorer.reward(pixels, ["a cat"])
    [gradient] = torch.autograd.grad(reward.sum(), pixels)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        up, down = (scorer.reward(pixels + sign * 1e-4 * direction, ["a cat"]) for sign in (1, -1))
    assert ((up - down) / 2e-4).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("name", ["cat", "astronaut"])
def test_what_the_network_reads_differs_a_little_from_the_published_path(scorer, name):
    """In units of the normalised pixels, of which a level of 8 bits is 0.015."""
    processor = scorer.model.processor.image_processor
    picture = Image.open(IMAGES / f"{name}.png").convert("RGB").resize((512, 512))  # patches of 14 pixels: 504 x 504
    published = processor([picture], return_tensors="pt")
    patches = qwen_patches(processor, tensor_of(picture), published["image_grid_thw"], "")
    difference = (patches - published["pixel_values"]).abs()
    assert patches.shape == (36 * 36, 3 * 2 * 14 * 14)
    assert 0.001 < difference.mean() < 0.005
    assert difference.max() < 0.11
    whole = picture.crop((0, 0, 504, 476))
    published = processor([whole], return_tensors="pt")
    patches = qwen_patches(processor, tensor_of(whole), published["image_grid_thw"], "")
    torch.testing.assert_close(patches, published["pixel_values"], atol=1e-6, rtol=0)


def test_activations_can_be_computed_twice(settings):
    reward = VqaScore("t2v_metrics", **settings, gradient_checkpointing=True)
    reward.model = reward.questioner.model = ChatModel(settings["source"], None, "float32")
    pixels = torch.cat([tensor_of(noise(0)), tensor_of(noise(1))]).requires_grad_()
    prompts = ["a cat", "a dog that is in the image"]
    [expected] = torch.autograd.grad(VqaScore("t2v_metrics", **settings).reward(pixels, prompts).sum(), pixels)
    for _ in range(2):  # the second time changes nothing
        [gradient] = torch.autograd.grad(reward.reward(pixels, prompts).sum(), pixels)
        torch.testing.assert_close(gradient, expected)
    layers = [*reward.network.model.visual.blocks, *reward.network.model.language_model.layers]
    assert all(layer.forward.func is checkpoint and not isinstance(layer.forward.args[0], partial) for layer in layers)


def test_models_with_other_pixels_are_refused_in_one_sentence(scorer):
    with pytest.raises(UserError, match="has CLIPImageProcessor; give one of these models") as refused:
        qwen_patches(CLIPImageProcessor(), torch.zeros(1, 3, 56, 56), torch.ones(1, 3), "FOLDER")
    assert "\n" not in str(refused.value)
