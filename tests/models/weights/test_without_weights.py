"""Networks without weights: the pipeline knows what they are, and nobody takes them for networks that work."""

import pytest
import torch

from alignbench.errors import UserError
from alignbench.miniature.weights import PIPELINES
from alignbench.miniature.weights import load_pipeline as load_miniature
from alignbench.models.families.stable_diffusion_xl import StableDiffusionXL
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.tiny_random.stable_diffusion_xl import tiny_stable_diffusion_xl
from alignbench.models.weights import loading
from alignbench.models.weights.loading import load_pipeline
from alignbench.models.weights.without_weights import drop, is_without_weights, weights_digest


def test_a_dropped_network_keeps_its_configuration_and_its_digest():
    vae = tiny_adapter("flux").pipeline.vae
    digest, scaling = weights_digest(vae), vae.config.scaling_factor
    drop(vae)
    assert is_without_weights(vae)
    assert all(p.is_meta for p in vae.parameters())
    assert (weights_digest(vae), vae.config.scaling_factor) == (digest, scaling)


def test_a_model_does_without_what_was_dropped():
    model = tiny_adapter("stable_diffusion_3")
    shape = model.latent_shape
    for part in model.frozen_networks:
        drop(part)
    assert not model.frozen_networks
    assert model.latent_shape == shape
    assert model.device.type == "cpu"
    assert not model.encodes_prompts
    assert not model.encodes_pixels
    with pytest.raises(RuntimeError, match=r"AutoencoderKL was left out .* sets reads_pixels"):
        model.decode_latents(torch.zeros(1, *shape))
    with pytest.raises(RuntimeError, match="was left out"):
        model.encode_posterior(torch.zeros(1, 3, 32, 32))


def test_a_model_without_its_denoiser_encodes_as_before():
    model, other = tiny_adapter("flux"), tiny_adapter("flux")
    drop(model.denoiser)
    assert model.device.type == "cpu"
    features, expected = model.encode_prompts(["a circle"]), other.encode_prompts(["a circle"])
    assert torch.equal(features.prompt_embeds, expected.prompt_embeds)
    pixels = torch.rand(1, 3, 32, 32)
    assert all(map(torch.equal, model.encode_posterior(pixels), other.encode_posterior(pixels)))


def test_weights_that_are_left_out_are_never_read(tmp_path, monkeypatch):
    tiny_stable_diffusion_xl().save_pretrained(tmp_path)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        for file in (tmp_path / part).glob("*.safetensors"):
            file.write_bytes(b"not weights")
    monkeypatch.setattr(loading, "check_weights", lambda *_: loading._index(str(tmp_path), None, ""))
    pipeline = load_pipeline(str(tmp_path), without=["vae", "text_encoder", "text_encoder_2"])
    model = StableDiffusionXL(pipeline, 32, ["to_q"])
    assert not model.frozen_networks
    assert not is_without_weights(model.denoiser)
    with pytest.raises(Exception, match="eader"):
        load_pipeline(str(tmp_path), without=["vae", "text_encoder"])


@pytest.mark.parametrize("name", PIPELINES)
def test_miniatures_can_do_without_and_are_the_same_each_time(name):
    whole, without = load_miniature(name), load_miniature(name, without=["text_encoder", "vae"])
    for part in ("text_encoder", "vae"):
        assert is_without_weights(getattr(without, part))
        assert weights_digest(getattr(without, part)) == weights_digest(getattr(whole, part))


def test_a_network_that_was_left_out_without_files_cannot_be_told_apart():
    vae = tiny_adapter("flux").pipeline.vae
    drop(torch.nn.Module.to(vae, "meta"))
    with pytest.raises(UserError, match="its files are not here"):
        weights_digest(vae)
