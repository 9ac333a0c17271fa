"""The rewards score by the published path and train by one that nearly equals it."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from alignbench.miniature.scenes import render, sample_scene
from alignbench.models.tiny_random.parts import clip_tokenizer
from evaluators.shapes_reward import ShapesReward

PROMPTS = ["a red circle in the center, black background", "a photo of a cat", "shaded. ", ""]


def random_reward(name: str = "shapes_clip", seed: int = 0) -> ShapesReward:
    """Return the reward on a small random CLIP instead of the shipped one."""
    tokenizer = clip_tokenizer()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CLIPModel(
            CLIPConfig(
                text_config=tower | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 77},
                vision_config=tower | {"image_size": 64, "patch_size": 16},
                projection_dim=16,
            )
        )
        for parameter in network.parameters():  # away from the tiny initial values, so that images differ
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    reward = ShapesReward(name)  # pyright: ignore[reportArgumentType]
    vars(reward)["_loaded"] = (network, tokenizer)
    return reward


def pictures(num: int, side: int = 64) -> list[Image.Image]:
    scenes = [np.random.default_rng(seed) for seed in range(num)]
    images = [Image.fromarray(render(sample_scene(rng), rng)) for rng in scenes]
    return [image.resize((side, side), Image.Resampling.BICUBIC) for image in images]


def pixels_of(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0 for image in images])


def test_scores_do_not_depend_on_the_batch_or_its_order():
    images, texts = pictures(4), PROMPTS
    scores = random_reward().score(images, texts)
    reward = random_reward()
    alone = torch.cat([reward.score([image], [text]) for image, text in zip(images, texts, strict=True)])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.flip(0), reward.score(images[::-1], texts[::-1]), atol=1e-5, rtol=0)
    assert scores.dtype == torch.float32
    assert scores.std() > 0.01


@pytest.mark.parametrize(("side", "bound"), [(64, 1e-5), (128, 1e-3), (512, 1e-3)])
@pytest.mark.parametrize("name", ["shapes_clip", "shapes_preference"])
def test_the_training_path_differs_from_the_published_one_by_the_resizing_alone(name, side, bound):
    reward, images = random_reward(name), pictures(4, side)
    difference = reward.score(images, PROMPTS) - reward.reward(pixels_of(images), PROMPTS)
    assert difference.abs().max() < bound * reward.scale


def test_the_gradient_through_pixels_matches_finite_differences():
    reward = random_reward("shapes_preference")
    reward.network.double()
    pixels = pixels_of(pictures(2)).double().requires_grad_()
    gradient = torch.autograd.grad(reward.reward(pixels, PROMPTS[:2]).sum(), pixels)[0]
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (reward.reward(pixels.detach() + s * 1e-6 * direction, PROMPTS[:2]).sum() for s in (1, -1))
    slope = (ahead - behind) / 2e-6
    assert slope.abs() > 1e-3
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=0)


def test_the_gradient_reaches_every_pixel_of_a_larger_image():
    pixels = pixels_of(pictures(2, 256)).requires_grad_()
    random_reward().reward(pixels, PROMPTS[:2]).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).double().mean() > 0.99


def test_only_the_pixels_get_a_gradient():
    reward = random_reward()
    assert not any(parameter.requires_grad for parameter in reward.network.parameters())
    assert not reward.network.training
    assert not reward.embed_text(PROMPTS).requires_grad


def test_the_reward_is_the_scaled_product_of_its_embeddings():
    images = pixels_of(pictures(4))
    for name in ("shapes_clip", "shapes_preference"):
        reward = random_reward(name)
        image, text = reward.embed_image(images), reward.embed_text(PROMPTS)
        torch.testing.assert_close(image.norm(dim=-1), torch.ones(4))
        torch.testing.assert_close(text.norm(dim=-1), torch.ones(4))
        torch.testing.assert_close(reward.reward(images, PROMPTS), reward.scale * (image * text).sum(dim=-1))


def test_the_clip_reward_is_a_cosine_and_the_preference_reward_a_logit():
    clip, preference = random_reward("shapes_clip"), random_reward("shapes_preference")
    factor = preference.network.logit_scale.exp().item()
    assert factor > 10
    images = pictures(4)
    torch.testing.assert_close(preference.score(images, PROMPTS), factor * clip.score(images, PROMPTS))
    assert clip.range == (-1.0, 1.0)


def test_a_prompt_is_encoded_once_and_alike_in_any_company(monkeypatch):
    reward = random_reward()
    encoded = []
    encode = reward.network.get_text_features
    monkeypatch.setattr(
        reward.network, "get_text_features", lambda input_ids: encoded.append(input_ids) or encode(input_ids)
    )
    first = reward.embed_text(PROMPTS[:1])
    rest = reward.embed_text([PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    assert [len(ids) for ids in encoded] == [1, 1]
    assert torch.equal(rest[1], first[0])
    assert torch.equal(rest[0], rest[2])
    assert torch.equal(random_reward().embed_text(PROMPTS)[0], first[0])  # to the last bit: a resumed run asks anew


def test_weights_are_read_when_they_are_first_needed():
    reward = ShapesReward("shapes_clip")
    assert reward.supports(PROMPTS) is None
    assert "_loaded" not in vars(reward)
