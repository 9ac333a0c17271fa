"""Aesthetic predictors: the published head as one affine function of the published features."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipModel

from alignbench.errors import UserError
from evaluators.aesthetic import LAION_HEAD, SO400M, Aesthetic, AestheticV25, affine_head, collapsed

WIDTHS = (1024, 128, 64, 16, 1)  # of both published heads


def stacked_head(width: int, seed: int = 0) -> nn.Sequential:
    """Return five random linear layers numbered as in the published LAION file, with dropout between."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for number, size in enumerate(WIDTHS):
        layer = nn.Linear(width, size)
        layer.weight.data = torch.randn(size, width, generator=generator) * width**-0.5
        layer.bias.data = torch.randn(size, generator=generator)
        layers += [layer, nn.Dropout(0.2)] if number < 3 else [layer]
        width = size
    return nn.Sequential(*layers).eval()


def laion_stack() -> nn.Sequential:
    """Return five layers that amount to the published head: random ones, of which the first is moved to fit."""
    published = affine_head(LAION_HEAD)
    stack = stacked_head(768).double()
    weight, bias = collapsed(stack.state_dict(), "stack")
    later = torch.linalg.multi_dot([stack[n].weight.data for n in (7, 6, 4, 2)])  # [1, 1024]
    direction = later.T / later.square().sum()
    stack[0].weight.data += direction @ (published.weight.double() - weight)
    stack[0].bias.data += (direction * (published.bias.double() - bias)).squeeze(-1)
    return stack.float()


def unit_features(number: int, width: int) -> torch.Tensor:
    return F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(1)), dim=-1)


# ---- the head


def test_the_shipped_head_is_the_published_one():
    content, head = json.loads(LAION_HEAD.read_text()), affine_head(LAION_HEAD)
    assert content["source_sha256"] == "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
    assert head.weight.shape == (1, 768)
    assert head.weight.dtype == torch.float32
    assert head.bias.item() == pytest.approx(5.23665, abs=1e-5)
    assert head.weight.norm().item() == pytest.approx(17.996, abs=1e-3)
    low, high = Aesthetic.range
    assert low <= head.bias.item() - head.weight.norm().item()
    assert head.bias.item() + head.weight.norm().item() <= high


@torch.no_grad()
def test_the_affine_head_scores_as_its_five_layers_do(tmp_path):
    stack, features = laion_stack(), unit_features(500, 768)
    torch.save(stack.state_dict(), tmp_path / "head.pth")
    # in float64: the rounding of five float32 layers depends on the processor
    expected = stack.double()(features.double()).squeeze(-1)
    assert expected.std() > 0.3
    for file in (LAION_HEAD, tmp_path / "head.pth"):
        torch.testing.assert_close(affine_head(file)(features).squeeze(-1).double(), expected, atol=2e-6, rtol=0)


def test_layers_may_be_named_below_a_module_and_lie_in_half_precision(tmp_path):
    stack = stacked_head(32).bfloat16()
    torch.save({f"scoring_head.{key}": tensor for key, tensor in stack.state_dict().items()}, tmp_path / "head.pth")
    features = unit_features(20, 32)
    expected = stack.double()(features.double()).squeeze(-1)
    found = affine_head(tmp_path / "head.pth")(features).squeeze(-1)
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [state.pop(f"7.{kind}") for kind in ("weight", "bias")],
        lambda state: state.pop("0.bias"),
        lambda state: state.update(extra=torch.ones(1)),
        lambda state: state.update({"6.weight": torch.ones(16, 63)}),
    ],
)
def test_what_is_no_head_of_five_layers_is_refused(change):
    state = stacked_head(32).state_dict()
    change(state)
    with pytest.raises(UserError, match=r"mine\.pth is not a head of 5 linear layers; it holds"):
        collapsed(state, "mine.pth")


# ---- the whole


@pytest.fixture(scope="module")
def laion(weights, architecture, tmp_path_factory):
    """Build the LAION predictor on a tiny CLIP and a head of its width."""
    folder = tmp_path_factory.mktemp("laion")
    torch.save(stacked_head(16).state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")

    def make(**arguments):
        defaults = {
            "source": weights["clip_score_l14"],
            "head": str(folder),
            "architecture": architecture | {"quick_gelu": True},
        }
        return Aesthetic(**defaults | arguments)

    return make


@torch.no_grad()
def test_the_laion_score_is_that_of_the_layers_on_unit_clip_features(laion, photos, tiny_openai_clip):
    images, evaluator = photos(5, 300), laion()
    output = tiny_openai_clip.get_image_features(pixel_values=evaluator.preprocess(images))
    expected = stacked_head(16)(F.normalize(output.pooler_output, dim=-1)).squeeze(-1)
    torch.testing.assert_close(evaluator.score(images, [""] * 5), expected, atol=2e-6, rtol=0)
    assert expected.std() > 0.01
    assert torch.equal(evaluator.score(images, list("abcde")), evaluator.score(images, [""] * 5))


TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """The folder of a tiny SigLIP and a head of its width, in bfloat16 as published."""
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(vision_config=SO400M | TOWER | {"image_size": 64}, text_config=TOWER)).save_pretrained(
        folder
    )
    head = {f"scoring_head.{key}": tensor for key, tensor in stacked_head(32).bfloat16().state_dict().items()}
    torch.save(head, folder / "aesthetic_predictor_v2_5.pth")
    return str(folder)


@pytest.fixture(scope="module")
def v2_5(siglip):
    """Build the V2.5 predictor on a tiny SigLIP."""
    return partial(AestheticV25, siglip, siglip, architecture=SO400M | TOWER | {"image_size": 64})


@pytest.fixture(params=["laion", "v2_5"])
def predictor(request, laion, v2_5):
    """Either predictor."""
    return {"laion": laion, "v2_5": v2_5}[request.param]()


@torch.no_grad()
def test_the_v2_5_score_is_that_of_the_layers_on_unit_siglip_features(v2_5, siglip, photos):
    network = SiglipModel.from_pretrained(siglip).eval()
    images, evaluator = photos(3, 100), v2_5()
    output = network.vision_model(pixel_values=evaluator.preprocess(images))
    head = stacked_head(32).bfloat16().float()
    expected = head(F.normalize(output.pooler_output, dim=-1)).squeeze(-1)
    scores = evaluator.score(images, [""] * 3)
    torch.testing.assert_close(scores, expected, atol=5e-6, rtol=0)
    assert torch.equal(v2_5(gradient_checkpointing=True).score(images, [""] * 3), scores)


def test_the_training_path_differs_from_the_published_one_by_the_resizing_alone(laion, photos, pixels_of):
    evaluator, images = laion(), photos(5, 512)
    difference = evaluator.score(images, [""] * 5) - evaluator.reward(pixels_of(images), [""] * 5)
    assert difference.abs().max() < 0.03


def test_the_gradient_through_pixels_matches_finite_differences(predictor, photos, pixels_of):
    evaluator = predictor
    evaluator.network.double()
    evaluator.affine.double()
    pixels = pixels_of(photos(2, 256)).double().requires_grad_()
    gradient = torch.autograd.grad(evaluator.reward(pixels, [""] * 2).sum(), pixels)[0]
    assert torch.isfinite(gradient).all()
    block = torch.zeros_like(pixels)
    block[:, :, 100:108, 60:68] = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    ahead, behind = (evaluator.reward(pixels.detach() + s * 1e-5 * block, [""] * 2).sum() for s in (1, -1))
    assert (gradient * block).sum().abs() > 1e-6
    torch.testing.assert_close((gradient * block).sum(), (ahead - behind) / 2e-5, rtol=1e-5, atol=0)


def test_the_training_path_keeps_within_the_bound_on_photographs(predictor, photographs, pixels_of):
    published = predictor.score(photographs, [""] * 4)
    trained = torch.cat([predictor.reward(pixels_of([image]), [""]) for image in photographs])
    assert (published - trained).abs().max() < 0.03


def test_scores_depend_neither_on_the_batch_nor_on_its_order(predictor, photos):
    images = photos(64, 64)
    scores = predictor.score(images, [""] * 64, batch_size=64)
    assert len(scores.unique()) > 32
    for size in (1, 7):
        parts = predictor.score(images, [""] * 64, batch_size=size)
        torch.testing.assert_close(parts, scores, atol=1e-5, rtol=0)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = predictor.score([images[n] for n in order], [""] * 64)
    torch.testing.assert_close(shuffled, scores[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_head_computes_in_float32_whatever_the_tower_computes_in(laion, photos, precision):
    evaluator, images = laion(precision=precision), photos(5, 64)
    scores = evaluator.score(images, [""] * 5)
    assert evaluator.affine.weight.dtype == scores.dtype == torch.float32
    assert (scores - laion().score(images, [""] * 5)).abs().max() < 0.03
    assert not any(parameter.requires_grad for parameter in evaluator.network.parameters())
    assert not any(module.training for module in evaluator.network.modules())


def test_an_absent_tower_or_head_is_refused_in_one_sentence(laion, weights, tmp_path):
    with pytest.raises(UserError, match=r"lacks model\.safetensors; give"):
        laion(source=str(tmp_path))
    with pytest.raises(UserError, match=r"lacks sac\+logos\+ava1-l14-linearMSE\.pth; give"):
        laion(head=str(tmp_path))
    with pytest.raises(UserError, match=r"lacks aesthetic_predictor_v2_5\.pth; give"):
        AestheticV25(head=str(tmp_path), source=weights["pickscore"])
    assert Path(LAION_HEAD).is_file()
