"""ImageReward scores as the official package does, reads its file strictly, and can be trained on."""

import hashlib
import json
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from alignbench.calibrate.official import random_weights
from alignbench.calibrate.samples import SAMPLES, picture
from alignbench.configuration.build import conf_folder
from alignbench.errors import UserError
from alignbench.miniature.scenes import render, sample_scene
from evaluators.image_reward import MEAN, STD, TEXT, VISION, VOCABULARY, ImageReward, ImageRewardNetwork, from_published

GOLDEN = Path(__file__).parent / "data" / "image_reward_golden.json"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = {"vision": SMALL | {"image_size": 32}, "text": SMALL}
LONG = "a very long prompt " + "with many words that nobody will read to the end " * 8
PROMPTS = [
    "a photo of a cat",
    "",
    LONG,
    "two dogs, oil painting",
    "Ein Caf\u00e9 \u2014 \u6771\u4eac",
    "cat",
    "[PAD] cat",
]


def published_shapes(vision, text):
    """Return name and shape of every parameter of ImageReward.pt, written down from the official modules."""
    vision, text = VISION | vision, TEXT | text
    width, hidden, inner = vision["hidden_size"], text["hidden_size"], text["intermediate_size"]
    patch, num_patches = vision["patch_size"], (vision["image_size"] // vision["patch_size"]) ** 2
    shapes = {}

    def linear(name, rows, columns):
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def norm(name, size):
        shapes.update({f"{name}.weight": (size,), f"{name}.bias": (size,)})

    tower = "blip.visual_encoder"
    shapes[f"{tower}.cls_token"] = (1, 1, width)
    shapes[f"{tower}.pos_embed"] = (1, num_patches + 1, width)
    shapes[f"{tower}.patch_embed.proj.weight"] = (width, 3, patch, patch)
    shapes[f"{tower}.patch_embed.proj.bias"] = (width,)
    for block in (f"{tower}.blocks.{number}" for number in range(vision["num_hidden_layers"])):
        norm(f"{block}.norm1", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.fc1", vision["intermediate_size"], width)
        linear(f"{block}.mlp.fc2", width, vision["intermediate_size"])
    norm(f"{tower}.norm", width)

    tower = "blip.text_encoder"
    shapes[f"{tower}.embeddings.word_embeddings.weight"] = (text["vocab_size"], hidden)
    shapes[f"{tower}.embeddings.position_embeddings.weight"] = (text["max_position_embeddings"], hidden)
    norm(f"{tower}.embeddings.LayerNorm", hidden)
    for layer in (f"{tower}.encoder.layer.{number}" for number in range(text["num_hidden_layers"])):
        for attention, read in (("attention", hidden), ("crossattention", width)):
            linear(f"{layer}.{attention}.self.query", hidden, hidden)
            linear(f"{layer}.{attention}.self.key", hidden, read)
            linear(f"{layer}.{attention}.self.value", hidden, read)
            linear(f"{layer}.{attention}.output.dense", hidden, hidden)
            norm(f"{layer}.{attention}.output.LayerNorm", hidden)
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        norm(f"{layer}.output.LayerNorm", hidden)

    linear("blip.vision_proj", 256, width)
    linear("blip.text_proj", 256, hidden)
    for number, (rows, columns) in {0: (1024, hidden), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}.items():
        linear(f"mlp.layers.{number}", rows, columns)
    return shapes


def checkpoint(architecture=TINY, seed=0):
    """Return random parameters in the layout of ImageReward.pt."""
    positions = {"blip.text_encoder.embeddings.position_ids": torch.arange(512)[None]}
    return positions | random_weights(published_shapes(**architecture), seed)


def reward_of(folder, state_dict, **arguments):
    torch.save(state_dict, folder / "ImageReward.pt")
    return ImageReward(str(folder), **(TINY | arguments))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The folder of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.save(checkpoint(), folder / "ImageReward.pt")
    return str(folder)


@pytest.fixture(scope="module")
def tiny(file):
    return ImageReward(file, **TINY)


def scenes(num, side=32):
    randoms = [np.random.default_rng(seed) for seed in range(num)]
    images = [Image.fromarray(render(sample_scene(random), random)) for random in randoms]
    return [image.resize((side, side), Image.Resampling.BICUBIC) for image in images]


def pixels_of(images):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0 for image in images])


# ---- the official package


@pytest.fixture(scope="module")
def made():
    """What the official package made of the samples."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden(made, tmp_path_factory):
    """Arguments of the evaluator with the weights that the official package had."""
    folder = tmp_path_factory.mktemp("golden")
    torch.save(checkpoint(made["architecture"], made["seed"]), folder / "ImageReward.pt")
    return {"source": str(folder)} | made["architecture"]


def largest_difference(reward, made):
    images = [picture(size, mode, seed=number) for number, (size, mode, _) in enumerate(SAMPLES)]
    scores = reward.score(images, [prompt for _, _, prompt in SAMPLES])
    return (scores - torch.tensor([sample["official"] for sample in made["samples"]])).abs().max().item()


def test_scores_equal_those_of_the_official_package(golden, made):
    assert largest_difference(ImageReward(**golden), made) < 1e-5
    scores = [sample["official"] for sample in made["samples"]]
    assert len({round(score, 2) for score in scores}) == len(scores)


def test_the_official_scores_notice_a_causal_mask_and_another_epsilon(golden, made, monkeypatch):
    wrong = ImageReward(**(golden | {"vision": golden["vision"] | {"layer_norm_eps": 1e-5}}))
    assert largest_difference(wrong, made) > 1e-4
    causal = ImageReward(**golden)
    read = causal.network.text.forward
    monkeypatch.setattr(causal.network.text, "forward", lambda **inputs: read(**(inputs | {"is_decoder": True})))
    assert largest_difference(causal, made) > 1e-3


def test_token_ids_equal_those_of_the_official_package(tiny, made):
    prompts = [prompt for _, _, prompt in SAMPLES]
    assert [sample["prompt"] for sample in made["samples"]] == prompts
    assert tiny.encode_prompts(prompts).tolist() == made["token_ids"]


# ---- the file


def test_the_published_architecture_takes_every_parameter_of_the_published_layout():
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in published_shapes({}, {}).items()}
        expected = {name: value.shape for name, value in ImageRewardNetwork({}, {}).state_dict().items()}
    assert {name: value.shape for name, value in from_published(published).items()} == expected
    millions = sum(value.numel() for value in published.values()) / 1e6
    assert millions == pytest.approx(446.7, abs=0.05)


def test_norms_have_the_epsilons_of_their_towers():
    with torch.device("meta"):
        network = ImageRewardNetwork({}, {})
    for tower, eps in ((network.vision, 1e-6), (network.text, 1e-12)):
        assert {module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm)} == {eps}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias", "layer.1.crossattention.self.key.bias"),
        ("blip.visual_encoder.norm.weight", "vision.post_layernorm.weight"),
        ("mlp.layers.7.weight", "head.7.weight"),
    ],
)
def test_a_missing_parameter_is_refused_by_name(tmp_path, name, named):
    state_dict = checkpoint()
    del state_dict[name]
    with pytest.raises(UserError, match=named):
        _ = reward_of(tmp_path, state_dict).network


@pytest.mark.parametrize("name", ["blip.visual_encoder_m.norm.weight", "mlp.layers.8.weight", "blip.itm_head.bias"])
def test_an_unknown_parameter_is_refused_by_name(tmp_path, name):
    with pytest.raises(UserError, match=name.removeprefix("mlp.layers")):
        _ = reward_of(tmp_path, checkpoint() | {name: torch.zeros(3)}).network


def test_a_parameter_of_another_shape_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"text\.embeddings\.word_embeddings\.weight"):
        _ = reward_of(tmp_path, checkpoint(), text=TINY["text"] | {"vocab_size": 30522}).network


def test_missing_weights_are_refused_in_one_sentence_before_anything_loads(tmp_path):
    with pytest.raises(UserError, match=r"ImageReward\.pt") as refused:
        ImageReward(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_an_unknown_precision_is_refused_with_those_that_exist(file):
    with pytest.raises(UserError, match="precision=half is unknown; available: float32"):
        ImageReward(file, precision="half", **TINY)


def test_weights_are_read_when_they_are_first_needed(file):
    reward = ImageReward(file, **TINY)
    assert reward.supports(PROMPTS) is None
    assert "network" not in vars(reward)


def test_the_shipped_vocabulary_is_that_of_bert():
    digest = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert hashlib.sha256(VOCABULARY.read_bytes()).hexdigest() == digest
    assert digest in VOCABULARY.with_name("README.md").read_text(encoding="utf-8")


def test_the_configuration_builds_the_published_evaluator(file):
    reward = instantiate(OmegaConf.load(conf_folder() / "evaluator" / "image_reward.yaml"), source=file, **TINY)
    assert isinstance(reward, ImageReward)
    assert (reward.name, reward.precision, reward.preprocess.key) == ("image_reward", "float32", "clip_32")
    assert ImageReward(file).preprocess.key == "clip_224"


# ---- prompts


def test_a_prompt_is_read_as_uncased_word_pieces_that_start_with_cls(tiny):
    ids = [101, 1037, 6302, 1997, 1037, 4937, 102]
    for prompt in ("a photo of a cat", "A Photo of a CAT"):
        assert tiny.encode_prompts([prompt])[0].tolist() == ids + [0] * 28
    assert tiny.encode_prompts(["[DEC][ENC]"])[0, :4].tolist() == [101, 30522, 30523, 102]


def test_a_long_prompt_is_cut_to_35_tokens_and_keeps_its_end(tiny):
    ids = tiny.encode_prompts([LONG])[0]
    assert len(ids) == 35
    assert (ids[0], ids[-1]) == (101, 102)
    assert (ids != 0).all()


def test_the_tail_of_a_long_prompt_is_invisible(tiny):
    first, second = tiny.score(scenes(1) * 2, [LONG + " a cat", LONG + " two dogs"])
    assert first == second


def test_a_prompt_changes_the_score_by_any_of_its_tokens(tiny):
    prompts = ["red ball on a table", "blue ball on a table", "red ball on a chair", "red ball"]
    scores = tiny.score(scenes(1) * 4, prompts)
    assert torch.pdist(scores[:, None]).min() > 1e-3


def test_a_prompt_is_encoded_once(file):
    reward = ImageReward(file, **TINY)
    read, asked = reward.tokenizer, []
    vars(reward)["tokenizer"] = lambda prompts, **settings: asked.append(prompts) or read(prompts, **settings)
    first = reward.encode_prompts(["a", "b", "a"])
    again = reward.encode_prompts(["b", "c"])
    assert asked == [["a", "b"], ["c"]]
    assert torch.equal(first[1], again[0])


def test_padding_does_not_change_the_score(tiny):
    image = scenes(1)
    alone = torch.cat([tiny.score(image, [prompt]) for prompt in PROMPTS])
    beside_a_long_one = torch.stack([tiny.score(image * 2, [prompt, LONG])[0] for prompt in PROMPTS])
    torch.testing.assert_close(alone, beside_a_long_one, atol=1e-5, rtol=0)


def test_a_padding_token_that_a_prompt_spells_is_read(tiny):
    assert tiny.encode_prompts(["[PAD] cat"])[0, :5].tolist() == [101, 0, 4937, 102, 0]
    scores = tiny.score(scenes(1) * 2, ["[PAD] cat", "cat"])
    assert (scores[0] - scores[1]).abs() > 1e-3


# ---- scores


def test_a_head_of_zeros_scores_minus_the_mean(tmp_path):
    zeros = {name: value * 0 if name.startswith("mlp.") else value for name, value in checkpoint().items()}
    scores = reward_of(tmp_path, zeros).score(scenes(3), PROMPTS[:3])
    torch.testing.assert_close(scores, torch.full((3,), -0.16178), atol=1e-6, rtol=0)
    assert pytest.approx(-0.16178, abs=1e-6) == -MEAN / STD


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_scores_do_not_depend_on_the_batch_or_its_order(tiny, batch_size):
    images, prompts = scenes(64), list(islice(cycle(PROMPTS), 64))
    expected = tiny.score(images, prompts)
    assert expected.std() > 0.05
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    batches = [order[start : start + batch_size] for start in range(0, 64, batch_size)]
    scores = torch.cat([tiny.score([images[i] for i in batch], [prompts[i] for i in batch]) for batch in batches])
    torch.testing.assert_close(scores, expected[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_for_the_towers_alone(file, tiny, precision):
    reward = ImageReward(file, precision=precision, **TINY)
    towers = [*reward.network.vision.parameters(), *reward.network.text.parameters()]
    assert {parameter.dtype for parameter in towers} == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in reward.network.head.parameters()} == {torch.float32}
    scores = reward.score(scenes(7), PROMPTS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, tiny.score(scenes(7), PROMPTS), atol=0.1, rtol=0)


# ---- training


@pytest.mark.parametrize(("side", "bound"), [(32, 1e-5), (128, 0.03), (512, 0.03)])
def test_the_training_path_differs_from_the_published_one_by_the_resizing_alone(tiny, side, bound):
    images = scenes(7, side)
    difference = tiny.score(images, PROMPTS) - tiny.reward(pixels_of(images), PROMPTS)
    assert difference.abs().max() < bound


def test_the_training_path_keeps_within_the_bound_on_photographs(golden, photographs):
    reward, prompts = ImageReward(**golden), PROMPTS[:4]
    published = reward.score(photographs, prompts)
    trained = torch.cat(
        [reward.reward(pixels_of([image]), [text]) for image, text in zip(photographs, prompts, strict=True)]
    )
    assert (published - trained).abs().max() < 0.03
    assert published.std() > 0.05


def test_the_gradient_through_pixels_matches_finite_differences(file):
    reward = ImageReward(file, **TINY)
    reward.network.double()
    pixels = pixels_of(scenes(2, 48)).double().requires_grad_()
    gradient = torch.autograd.grad(reward.reward(pixels, PROMPTS[:2]).sum(), pixels)[0]
    directions = {"all": torch.ones_like(pixels).bernoulli_(0.5, generator=torch.Generator().manual_seed(0)) * 2 - 1}
    directions["block"] = directions["all"].clone()
    directions["block"][:, :, 8:] = 0.0
    directions["block"][..., 8:] = 0.0
    for direction in directions.values():
        ahead, behind = (reward.reward(pixels.detach() + s * 1e-5 * direction, PROMPTS[:2]).sum() for s in (1, -1))
        slope = (ahead - behind) / 2e-5
        assert slope.abs() > 1e-3
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=0)


def test_the_gradient_reaches_every_pixel_of_a_larger_image_and_nothing_else(file):
    reward = ImageReward(file, **TINY)
    pixels = pixels_of(scenes(2, 128)).requires_grad_()
    reward.reward(pixels, PROMPTS[:2]).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()
    assert (pixels.grad != 0).double().mean() > 0.99
    assert not any(parameter.requires_grad for parameter in reward.network.parameters())
    assert not any(module.training for module in reward.network.modules())


def test_gradient_checkpointing_changes_neither_score_nor_gradient_but_keeps_less(file):
    def measured(gradient_checkpointing):
        reward = ImageReward(file, gradient_checkpointing=gradient_checkpointing, **TINY)
        pixels, kept = pixels_of(scenes(2)).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda kept_: kept.append(kept_.numel()) or kept_, lambda x: x):
            rewards = reward.reward(pixels, PROMPTS[:2])
        return rewards.detach(), torch.autograd.grad(rewards.sum(), pixels)[0], sum(kept)

    (plain, plain_gradient, plain_kept), (score, gradient, kept) = measured(False), measured(True)
    assert torch.equal(score, plain)
    torch.testing.assert_close(gradient, plain_gradient, atol=1e-7, rtol=1e-5)
    assert kept < plain_kept


def test_it_has_no_embeddings_because_its_text_tower_reads_the_image(tiny):
    assert not tiny.has_embeddings
    with pytest.raises(TypeError, match="image_reward has no embeddings"):
        tiny.embed_text(PROMPTS)
