"""Features of DINOv2 are those of transformers, read from a folder as it is published."""

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from alignbench.errors import UserError
from evaluators.dinov2 import Dinov2Features
from tests.evaluators.conftest import randomise

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
PICTURES = [Image.linear_gradient("L").resize((width, 200)) for width in (200, 300)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny random network, and the folder that transformers saves it to."""
    network = Dinov2Model(Dinov2Config(**SIZES)).eval()
    randomise(network, seed=0)
    folder = tmp_path_factory.mktemp("dinov2")
    network.save_pretrained(folder)
    return network, folder


@torch.no_grad()
def test_a_row_is_the_unit_class_token_of_transformers_in_any_batch(published):
    network, folder = published
    features = Dinov2Features(source=str(folder))
    inputs = features.preprocess(PICTURES)
    token = network(pixel_values=inputs).last_hidden_state[:, 0]
    rows = features.rows(inputs)
    torch.testing.assert_close(rows, token / token.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.rows(inputs[1:]), rows[1:], atol=1e-5, rtol=0)
    assert not features.network.training


@torch.no_grad()
def test_half_precision_gives_nearly_the_same_unit_vectors_in_float32(published):
    whole, half = (Dinov2Features(source=str(published[1]), precision=one) for one in ("float32", "bfloat16"))
    inputs = whole.preprocess(PICTURES)
    rows = half.rows(inputs)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, whole.rows(inputs), atol=0.05, rtol=0)


def test_a_folder_without_weights_or_with_those_of_another_network_is_refused(published, tmp_path):
    with pytest.raises(UserError, match=r"lacks model\.safetensors"):
        Dinov2Features(source=str(tmp_path))
    Dinov2Model(Dinov2Config(**SIZES | {"hidden_size": 8})).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((published[1] / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"model\.safetensors does not fit .*config\.json: .* and others missing, left"):
        _ = Dinov2Features(source=str(tmp_path)).network
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match=r"config\.json is of a clip, expected a dinov2; give the published folder"):
        _ = Dinov2Features(source=str(tmp_path)).network
