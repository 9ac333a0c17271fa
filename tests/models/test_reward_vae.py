"""A tiny VAE decodes for losses alone, by its own scale, and generation keeps the full one."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from alignbench.configuration.build import recipe, run_name
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.find_families import FAMILIES
from alignbench.models.reward_vae import load_reward_vae, reward_vae_skeleton
from alignbench.models.tiny_random import tiny_adapter
from alignbench.training.memory_estimate import estimate
from tests.families import marked

CPU_COMMAND = ["model=sd15_mini", "method=srpo", "data=shapes"]


def tiny_vae(channels=4, levels=3):
    """A random one that makes a latent pixel 2 ** (levels - 1) pixels wide, as the tiny models do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=(8,) * levels,
            decoder_block_out_channels=(8,) * levels,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=(1,) * levels,
        )


@pytest.fixture
def folder(tmp_path):
    tiny_vae().save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("family", marked(name for name, family in FAMILIES.items() if not family.takes_reward_vae))
def test_latents_that_no_tiny_vae_decodes_are_refused(family, folder):
    with pytest.raises(UserError, match="is for another model: no tiny VAE of diffusers decodes the latents of a"):
        load_reward_vae(folder, tiny_adapter(family))


@pytest.mark.parametrize("family", marked(name for name, family in FAMILIES.items() if family.takes_reward_vae))
def test_losses_see_the_pixels_of_the_tiny_vae_on_latents_as_they_are(family, tmp_path):
    """TAESD was trained on latents after scaling and shifting, so neither of the full VAE's may be undone."""
    model = tiny_adapter(family)
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    full = model.decode_latents(latents)
    tiny_vae(levels=model.latent_factor.bit_length()).save_pretrained(tmp_path)
    model.reward_vae = load_reward_vae(str(tmp_path), model)
    pixels = model.decode_latents(latents)
    expected = (model.reward_vae.decoder(latents) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(pixels, expected)
    assert pixels.shape == full.shape
    assert not torch.allclose(pixels, full)
    pixels.mean().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.reward_vae.parameters())
    assert model.reward_vae in model.frozen_networks


def test_pictures_are_still_those_of_the_full_vae(folder):
    model = tiny_adapter("stable_diffusion")
    noise = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    before = Sampler(model, 2, 2.0)([("a", 0)], ["a circle"], noise)
    model.reward_vae = load_reward_vae(folder, model)
    after = Sampler(model, 2, 2.0)([("a", 0)], ["a circle"], noise)
    assert np.array_equal(np.asarray(before[0]), np.asarray(after[0]))


def test_its_gradient_is_the_same_when_activations_are_computed_again(folder):
    model = tiny_adapter("flux")
    model.reward_vae = load_reward_vae(folder, model)
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    gradients = []
    for checkpointing in (False, True):
        model.enable_checkpointing(network=False, decoder=checkpointing)
        (gradient,) = torch.autograd.grad(model.decode_latents(latents).square().mean(), latents)
        gradients.append(gradient)
    assert model.reward_vae.decoder.gradient_checkpointing
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("channels", "levels"), [(16, 3), (4, 4)])
def test_a_tiny_vae_of_another_model_is_refused(channels, levels, tmp_path):
    tiny_vae(channels, levels).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"train.reward_vae=.* is for another model: of 4 x 8 x 8 latents"):
        load_reward_vae(str(tmp_path), tiny_adapter("stable_diffusion"))


def test_it_is_part_of_a_runs_name_only_where_it_is_set(folder):
    plain, tiny = composed(CPU_COMMAND), composed([*CPU_COMMAND, f"train.reward_vae={folder}"])
    assert run_name(plain) != run_name(tiny)
    assert "reward_vae" not in recipe(plain)["train"]  # as before there was one


def test_it_is_checked_before_anything_loads(folder, tmp_path):
    check_command_line([*CPU_COMMAND, f"train.reward_vae={folder}"], False)
    for command, message in (
        (["method=dpo", f"train.reward_vae={folder}"], "reads none; leave it out"),
        ([f"train.reward_vae={tmp_path / 'none'}"], "train.reward_vae=.* weights of the class AutoencoderTiny"),
    ):
        with pytest.raises(UserError, match=message):
            check_command_line([*CPU_COMMAND, *command], False)


def test_the_estimate_counts_it_and_its_smaller_decoder(folder):
    def parts(*more):
        return {part.name: part.num_bytes for part in estimate(composed([*CPU_COMMAND, *more]))}

    plain, tiny = parts(), parts(f"train.reward_vae={folder}")
    assert tiny["reward VAE"] == sum(p.nbytes for p in tiny_vae().parameters())
    assert plain["reward VAE"] == 0
    assert 0 < tiny["VAE decode"] < plain["VAE decode"]
    assert parts(f"train.reward_vae={folder}", "train.offload=true")["VAE"] == 0 < plain["VAE"]


def test_the_skeleton_of_one_on_the_hub_has_the_weights_of_the_published_ones():
    model = tiny_adapter("stable_diffusion")
    skeleton = reward_vae_skeleton("madebyollin/taesd", model)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    assert sum(parameter.numel() for parameter in skeleton.decoder.parameters()) == 1_222_531  # taesd_decoder.pth
