"""Mask2Former detects as published: weights of both layouts, the input, and objects from logits."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from alignbench.errors import UserError
from evaluators.networks.mask2former import (
    Mask2FormerDetector,
    detections,
    in_order_of_patches,
    load_mask2former,
    network_input,
    swin_small,
)

WIDTH, STAGES = 8, 4  # features of the first stage


def tiny_config(num_labels=80):
    backbone = SwinConfig(
        embed_dim=WIDTH, depths=[1] * STAGES, num_heads=[1, 1, 2, 2], window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=backbone, num_labels=num_labels, num_queries=6, decoder_layers=2, encoder_layers=1,
        hidden_dim=32, feature_size=32, mask_feature_size=32, encoder_feedforward_dim=16, dim_feedforward=16,
        num_attention_heads=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Mask2FormerForUniversalSegmentation(tiny_config()).eval()


# ---- weights


def names_in_mmdet():
    """Return the names and shapes of the tiny network in mmdet 2.x, written down from its modules."""

    def affine(name, *shape):
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    found = affine("backbone.patch_embed.projection", WIDTH, 3, 4, 4) | affine("backbone.patch_embed.norm", WIDTH)
    for stage, heads in enumerate((1, 1, 2, 2)):
        width, block = WIDTH * 2**stage, f"backbone.stages.{stage}.blocks.0"
        found |= affine(f"{block}.norm1", width) | affine(f"{block}.norm2", width)
        found[f"{block}.attn.w_msa.relative_position_bias_table"] = (169, heads)
        found[f"{block}.attn.w_msa.relative_position_index"] = (49, 49)
        found |= affine(f"{block}.attn.w_msa.qkv", 3 * width, width) | affine(f"{block}.attn.w_msa.proj", width, width)
        found |= affine(f"{block}.ffn.layers.0.0", 4 * width, width) | affine(f"{block}.ffn.layers.1", width, 4 * width)
        found |= affine(f"backbone.norm{stage}", width)
        if stage < STAGES - 1:
            found |= affine(f"backbone.stages.{stage}.downsample.norm", 4 * width)
            found[f"backbone.stages.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
    pixels = "panoptic_head.pixel_decoder"
    for level in range(3):
        found |= affine(f"{pixels}.input_convs.{level}.conv", 32, WIDTH * 2 ** (3 - level), 1, 1)
        found |= affine(f"{pixels}.input_convs.{level}.gn", 32)
    layer = f"{pixels}.encoder.layers.0"
    points = 2 * 3 * 4  # heads, levels and points of each
    found |= affine(f"{layer}.attentions.0.sampling_offsets", 2 * points, 32)
    found |= affine(f"{layer}.attentions.0.attention_weights", points, 32)
    found |= affine(f"{layer}.attentions.0.value_proj", 32, 32) | affine(f"{layer}.attentions.0.output_proj", 32, 32)
    found |= affine(f"{layer}.ffns.0.layers.0.0", 16, 32) | affine(f"{layer}.ffns.0.layers.1", 32, 16)
    found |= affine(f"{layer}.norms.0", 32) | affine(f"{layer}.norms.1", 32)
    found |= {f"{pixels}.level_encoding.weight": (3, 32), f"{pixels}.lateral_convs.0.conv.weight": (32, WIDTH, 1, 1)}
    found |= {f"{pixels}.output_convs.0.conv.weight": (32, 32, 3, 3)}
    found |= affine(f"{pixels}.lateral_convs.0.gn", 32) | affine(f"{pixels}.output_convs.0.gn", 32)
    found |= affine(f"{pixels}.mask_feature", 32, 32, 1, 1)
    layer = "panoptic_head.transformer_decoder.layers.0"
    for number in (0, 1):
        found |= {
            f"{layer}.attentions.{number}.attn.in_proj_{end}": (96, 32)[:n] for end, n in (("weight", 2), ("bias", 1))
        }
        found |= affine(f"{layer}.attentions.{number}.attn.out_proj", 32, 32)
    for number in range(3):
        found |= affine(f"{layer}.norms.{number}", 32) | affine(f"panoptic_head.mask_embed.{2 * number}", 32, 32)
    found |= affine(f"{layer}.ffns.0.layers.0.0", 16, 32) | affine(f"{layer}.ffns.0.layers.1", 32, 16)
    found |= affine("panoptic_head.transformer_decoder.post_norm", 32) | affine("panoptic_head.cls_embed", 81, 32)
    found |= {"panoptic_head.query_embed.weight": (6, 32), "panoptic_head.query_feat.weight": (6, 32)}
    return found | {"panoptic_head.level_embed.weight": (3, 32)}


@pytest.fixture(scope="module")
def in_mmdet():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in names_in_mmdet().items()}


def test_a_file_of_mmdet_fills_every_weight(in_mmdet, tmp_path):
    torch.save({"meta": {"epoch": 50}, "state_dict": in_mmdet}, tmp_path / "mmdet.pth")
    loaded = load_mask2former(tmp_path / "mmdet.pth", tiny_config())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    transformer = loaded.model.transformer_module.decoder.layers[0]
    cross, own = (
        in_mmdet[f"panoptic_head.transformer_decoder.layers.0.attentions.{n}.attn.in_proj_weight"] for n in (0, 1)
    )
    assert torch.equal(transformer.cross_attn.in_proj_weight, cross)
    assert torch.equal(transformer.self_attn.k_proj.weight, own[32:64])
    assert torch.equal(loaded.class_predictor.bias, in_mmdet["panoptic_head.cls_embed.bias"])
    values = {name: tensor for name, tensor in loaded.state_dict().items() if "blocks.0.attention" in name}
    [value] = [tensor for name, tensor in values.items() if ".layers.1." in name and name.endswith("v_proj.weight")]
    assert torch.equal(value, in_mmdet["backbone.stages.1.blocks.0.attn.w_msa.qkv.weight"][32:])
    assert loaded.model.pixel_level_module.decoder.level_embed.equal(
        in_mmdet["panoptic_head.pixel_decoder.level_encoding.weight"]
    )


def test_the_published_architecture_has_the_published_number_of_weights():
    with torch.device("meta"):
        network = Mask2FormerForUniversalSegmentation(swin_small())
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == 68.7
    assert network.class_predictor.out_features == 81


def test_patches_merge_as_in_mmdet(network):
    """mmdet unfolds the picture, so that its features are by channel and then by place in the patch."""
    torch.manual_seed(0)
    norm, reduction = torch.nn.LayerNorm(4 * WIDTH), torch.nn.Linear(4 * WIDTH, 2 * WIDTH, bias=False)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    picture = torch.randn(1, WIDTH, 6, 4)
    expected = reduction(norm(F.unfold(picture, 2, stride=2).transpose(1, 2)))
    merging = deepcopy(network.model.pixel_level_module.encoder.swin.encoder.layers[0].downsample)
    weights = {"reduction.weight": reduction.weight, "norm.weight": norm.weight, "norm.bias": norm.bias}
    merging.load_state_dict({name: in_order_of_patches(tensor) for name, tensor in weights.items()})
    torch.testing.assert_close(merging(picture.flatten(2).transpose(1, 2), (6, 4)), expected)


def test_weights_that_do_not_fit_are_refused_in_one_sentence(in_mmdet, tmp_path):
    wrong = dict(in_mmdet)
    del wrong["panoptic_head.cls_embed.bias"]
    wrong["panoptic_head.cls_embed.weight"] = torch.zeros(134, 32)  # a panoptic network
    wrong["bbox_head.weight"] = torch.zeros(1)
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(UserError) as told:
        load_mask2former(tmp_path / "wrong.pth", tiny_config())
    assert (
        "wrong.pth do not fit this Mask2Former; missing: class_predictor.bias; left over: bbox_head.weight; of"
        in str(told.value)
    )
    assert str(told.value).endswith("of another shape: class_predictor.weight; give the published file")


def test_files_of_transformers_are_read_as_they_are(network, tmp_path):
    network.save_pretrained(tmp_path)
    loaded = load_mask2former(
        tmp_path / "model.safetensors", Mask2FormerConfig.from_json_file(tmp_path / "config.json")
    )
    weights = network.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


# ---- input


@pytest.mark.parametrize(
    ("size", "inner", "padded"),
    [
        ((64, 64), (800, 800), (800, 800)),
        ((60, 40), (800, 1200), (800, 1216)),
        ((100, 25), (333, 1333), (352, 1344)),  # the long side decides: 333.25 and 1333
    ],
)
def test_the_short_side_becomes_800_or_the_long_one_1333_and_zeros_follow(size, inner, padded):
    pixels, found = network_input(Image.new("RGB", size, (255, 0, 0)))
    assert found == inner
    assert pixels.shape == (1, 3, *padded)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    assert pixels[..., inner[0] :, :].count_nonzero() == pixels[..., inner[1] :].count_nonzero() == 0


def test_large_pictures_shrink_without_antialiasing_and_to_whole_levels():
    """Halved, a bilinear pixel is the mean of four, whatever lies around; 0.25 * 255 is no level of 8 bits."""
    levels = np.zeros((1600, 1600, 3), np.uint8)
    levels[10, 20] = 255
    pixels, _ = network_input(Image.fromarray(levels))
    red = pixels[0, 0] * 58.395 + 123.675
    assert red[5, 10].item() == pytest.approx(64, abs=1e-3)
    assert (red > 0.5).sum() == 1


# ---- detections


def plain_detections(class_logits, mask_logits, padded, inner, size):
    """Return label, score, box and pixels of every pair of query and class, one after the other."""
    found = []
    for query, logits in enumerate(mask_logits):
        large = F.interpolate(logits[None, None], size=padded, mode="bilinear")[..., : inner[0], : inner[1]]
        large = F.interpolate(large, size=size, mode="bilinear")[0, 0].numpy()
        inside = [(y, x) for y in range(size[0]) for x in range(size[1]) if large[y, x] > 0]
        ys, xs = zip(*inside, strict=True) if inside else ((0, -1), (0, -1))
        certainty = np.mean([1 / (1 + np.exp(-large[place])) for place in inside]) if inside else 0.0
        powers = np.exp(class_logits[query].double().numpy())
        for label, probability in enumerate((powers / powers.sum())[:-1]):
            box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1) if inside else (0, 0, 0, 0)
            found.append((probability, label, probability * certainty, box, large > 0))
    return sorted(found, key=lambda one: -one[0])


def test_objects_are_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(3)
    class_logits = 3 * torch.randn(4, 6, generator=generator)
    class_logits[0, 2] = 8.0
    mask_logits = torch.randn(4, 8, 12, generator=generator)
    mask_logits[1] = -1.0  # an empty mask
    sizes = ((32, 48), (25, 40), (13, 21))
    found, expected = detections(class_logits, mask_logits, *sizes), plain_detections(class_logits, mask_logits, *sizes)
    assert [one.label for one in found] == [one[1] for one in expected]
    assert [one.score for one in found] == pytest.approx([one[2] for one in expected], abs=1e-6)
    assert [one.box for one in found] == [one[3] for one in expected]
    assert 0 < sum(one.mask is not None for one in found) < len(found)
    for one, (*_, pixels) in zip(found, expected, strict=True):
        left, top, right, bottom = one.box
        assert (one.mask is not None) == (one.score > 0.3)
        assert one.mask is None or np.array_equal(one.mask, pixels[top:bottom, left:right])


def test_at_most_a_hundred_pairs_are_kept():
    generator = torch.Generator().manual_seed(0)
    class_logits, mask_logits = torch.randn(6, 81, generator=generator), torch.ones(6, 2, 2)
    found = detections(class_logits, mask_logits, (8, 8), (8, 8), (8, 8))
    assert len(found) == 100
    assert found[0].box == (0, 0, 8, 8)


def test_a_network_detects_in_pictures_of_any_shape(network, monkeypatch):
    monkeypatch.setattr("evaluators.networks.mask2former.SHORT_SIDE", 64)
    detect = Mask2FormerDetector(network)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
    found = detect(picture)
    assert len(found) == 100
    assert all(0 <= one.score <= 1 and 0 <= one.box[0] <= one.box[2] <= 32 and one.box[3] <= 24 for one in found)
    assert [one.score for one in detect(picture)] == [one.score for one in found]
