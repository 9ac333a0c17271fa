"""Weights of either library give the same CLIP network."""

import pytest
import torch
from open_clip import CLIP, get_model_config
from torch.nn import functional as F
from transformers import CLIPModel

from alignbench.errors import UserError
from evaluators.networks.checkpoint import assign
from evaluators.networks.clip import check_precision, clip_config, to_transformers


def features(network, pixels, ids):
    """Return unit features of image and text, by either library."""
    if hasattr(network, "encode_image"):
        return F.normalize(network.encode_image(pixels), dim=-1), F.normalize(network.encode_text(ids), dim=-1)
    image, text = network.get_image_features(pixel_values=pixels), network.get_text_features(input_ids=ids)
    return F.normalize(image.pooler_output, dim=-1), F.normalize(text.pooler_output, dim=-1)


def token_ids(*lengths):
    ids = torch.randint(1, 49000, (len(lengths), 77), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 49406
    for row, length in enumerate(lengths):
        ids[row, length - 1] = 49407
        ids[row, length:] = 0
    return ids


@torch.no_grad()
def test_the_networks_of_both_libraries_agree_on_converted_weights(tiny_open_clip, tiny_pickscore):
    network = assign(lambda: CLIPModel(tiny_pickscore.config), to_transformers(tiny_open_clip.state_dict()))
    pixels, ids = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1)), token_ids(3, 20, 77)
    for found, expected in zip(features(network, pixels, ids), features(tiny_open_clip, pixels, ids), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert (expected[0] - expected[1]).norm() > 0.01


@pytest.mark.matrix
@torch.no_grad()
def test_the_networks_of_both_libraries_agree_at_the_published_size():
    with torch.device("meta"):
        published = CLIP(**get_model_config("ViT-H-14")).eval()
    shapes = {key: tensor.shape for key, tensor in published.state_dict().items()}
    table = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    weights = {}
    for key, shape in shapes.items():  # cut from one table, as drawing a billion numbers takes longer than the rest
        size, fan_in = shape.numel(), shape[1:].numel() if len(shape) > 1 else 25
        values = table.repeat(-(-size // len(table)))[:size].view(shape) * fan_in**-0.5
        weights[key] = 1 + values if len(shape) == 1 and key.endswith(".weight") else values
    published.load_state_dict(weights, assign=True)
    published.attn_mask = torch.full((77, 77), float("-inf")).triu(1)
    network = assign(lambda: CLIPModel(clip_config("ViT-H-14")), to_transformers(weights))
    sizes = {name: part.numel() for name, part in network.named_parameters()}
    assert sum(size for name, size in sizes.items() if name.startswith("vis")) == 632_076_800
    pixels, ids = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)), token_ids(12, 77)
    for found, expected in zip(features(network, pixels, ids), features(published, pixels, ids), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_published_sizes_are_those_of_the_papers():
    config = clip_config("ViT-H-14")
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1280, 32, 16)
    assert (vision.intermediate_size, vision.image_size, vision.patch_size) == (5120, 224, 14)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (1024, 24, 16)
    assert (text.intermediate_size, text.vocab_size, text.max_position_embeddings) == (4096, 49408, 77)
    assert {vision.hidden_act, text.hidden_act} == {"gelu"}
    assert (config.projection_dim, vision.layer_norm_eps, text.layer_norm_eps) == (1024, 1e-5, 1e-5)
    config = clip_config("ViT-L-14-quickgelu")
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1024, 24, 16)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (768, 12, 12)
    assert {vision.hidden_act, text.hidden_act} == {"quick_gelu"}
    assert config.projection_dim == 768


def test_weights_in_the_layout_of_transformers_are_passed_on(tiny_pickscore):
    weights = tiny_pickscore.state_dict()
    assert to_transformers(weights).keys() == weights.keys()


def test_an_unknown_architecture_or_precision_is_answered_with_those_that_exist():
    with pytest.raises(UserError, match=r"architecture=ViT-H-41 is unknown; available: .*ViT-H-14"):
        clip_config("ViT-H-41")
    with pytest.raises(UserError, match="precision=fp16 is unknown; available: float32, bfloat16, float16"):
        check_precision("fp16")
