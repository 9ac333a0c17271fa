"""Under a ControlNet, images are those of diffusers' own pipeline on the networks of the model."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.context import keyed_generator
from alignbench.errors import UserError
from alignbench.generation.control.controlnet import ControlNetSampler, load_controlnet
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import tiny_adapter, tiny_controlnet

CONTROLLED = [name for name, family in FAMILIES.items() if family.controlnet is not None]
PROMPTS = ["a red circle", "a blue square"]
KEYS = [("p0", 0), ("p1", 0)]
MAPS = {
    name: Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for seed, name in enumerate(("p0", "p1"))
}
CALL: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0}


def noise_for(model) -> torch.Tensor:
    return torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


def by_hand(model, network, noise, **arguments) -> np.ndarray:
    """Build the pipeline from its parts and call it, as a user of diffusers would."""
    pipeline = model.pipeline
    parts = {"vae": pipeline.vae, "controlnet": network, "scheduler": pipeline.scheduler}
    parts |= {name: getattr(pipeline, name) for name in ("text_encoder", "tokenizer", model.denoiser_name)}
    if type(pipeline).__name__ == "StableDiffusionPipeline":
        made = diffusers.StableDiffusionControlNetPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        image = "image"
    else:
        parts |= {name: getattr(pipeline, name) for name in ("text_encoder_2", "tokenizer_2")}
        xl = "XL" in type(pipeline).__name__
        kind = diffusers.StableDiffusionXLControlNetPipeline if xl else diffusers.FluxControlNetPipeline
        made, image = kind(**parts), "image" if xl else "control_image"
    if model.denoiser_name == "transformer":
        arguments["max_sequence_length"] = 32
    return levels(
        made(
            prompt=PROMPTS,
            latents=model.pack(noise),
            height=32,
            width=32,
            generator=[keyed_generator("control", name) for name, _ in KEYS],
            **{image: list(MAPS.values())},
            **CALL,
            **arguments,
        ).images
    )


@pytest.mark.parametrize("family", CONTROLLED)
def test_images_are_those_of_the_pipeline_and_follow_the_map(family: str):
    model = tiny_adapter(family)
    network, noise = tiny_controlnet(model), noise_for(model)
    sampler = ControlNetSampler(model, network, 0.7, MAPS.__getitem__, **CALL)
    ours = levels(sampler(KEYS, PROMPTS, noise))
    assert np.array_equal(ours, by_hand(model, network, noise, controlnet_conditioning_scale=0.7))
    assert not np.array_equal(ours, levels(Sampler(model, **CALL)(KEYS, PROMPTS, noise)))
    swapped = ControlNetSampler(model, network, 0.7, lambda name: MAPS["p1" if name == "p0" else "p0"], **CALL)
    assert not np.array_equal(ours, levels(swapped(KEYS, PROMPTS, noise)))


@pytest.mark.parametrize("family", CONTROLLED)
def test_the_aligned_weights_are_what_samples(family: str):
    model = tiny_adapter(family)
    network, noise = tiny_controlnet(model), noise_for(model)
    before = levels(ControlNetSampler(model, network, 1.0, MAPS.__getitem__, **CALL)(KEYS, PROMPTS, noise))
    torch.manual_seed(0)  # of the other half of the adapters
    model.prepare_training("lora", rank=2, alpha=2)
    for name, parameter in model.denoiser.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0, generator=torch.Generator().manual_seed(len(name)))
    after = levels(ControlNetSampler(model, network, 1.0, MAPS.__getitem__, **CALL)(KEYS, PROMPTS, noise))
    assert np.abs(after.astype(int) - before).max() > 2
    with model.reference():  # adapters off: the start again
        again = levels(ControlNetSampler(model, network, 1.0, MAPS.__getitem__, **CALL)(KEYS, PROMPTS, noise))
    assert np.abs(again.astype(int) - before).max() <= 1


@pytest.mark.parametrize("family", CONTROLLED)
def test_each_image_is_the_same_whatever_else_is_in_the_batch(family: str):
    model = tiny_adapter(family)
    sampler = ControlNetSampler(model, tiny_controlnet(model), 1.0, MAPS.__getitem__, **CALL)
    noise = noise_for(model)
    together = levels(sampler(KEYS, PROMPTS, noise))
    alone = levels(sampler(KEYS[1:], PROMPTS[1:], noise[1:]))
    assert np.abs(together[1:].astype(int) - alone).max() <= 1


@pytest.mark.parametrize("family", CONTROLLED)
def test_a_half_precision_network_works_beside_the_float32_vae(family: str):
    model = tiny_adapter(family)
    model.pipeline.to(torch.bfloat16)
    model.pipeline.vae.float()
    network = tiny_controlnet(model).to(torch.bfloat16)
    sampler = ControlNetSampler(model, network, 1.0, MAPS.__getitem__, **CALL)
    assert levels(sampler(KEYS, PROMPTS, noise_for(model))).std() > 1
    parts = {name: part.dtype for name, part in model.pipeline.components.items() if isinstance(part, torch.nn.Module)}
    assert parts.pop("vae") == torch.float32
    assert set(parts.values()) == {torch.bfloat16}


def test_other_schedulers_and_sizes_and_negative_prompts_combine_with_control():
    model = tiny_adapter("stable_diffusion")
    call = CALL | {"scheduler": "UniPCMultistep", "negative_prompt": "dull", "resolution": 48}
    sampler = ControlNetSampler(model, tiny_controlnet(model), 1.0, MAPS.__getitem__, **call)
    assert type(sampler.pipeline.scheduler).__name__ == "UniPCMultistepScheduler"
    noise = torch.randn(2, *sampler.latent_shape, generator=torch.Generator().manual_seed(0))
    assert sampler(KEYS, PROMPTS, noise)[0].shape == (48, 48, 3)
    assert type(model.pipeline.scheduler).__name__ == "DDIMScheduler"


def test_a_controlnet_of_another_model_is_refused(tmp_path):
    tiny_controlnet(tiny_adapter("stable_diffusion")).save_pretrained(tmp_path)
    loaded = load_controlnet(str(tmp_path), tiny_adapter("stable_diffusion"))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(UserError, match="another model: its cross_attention_dim is 16, but that of the unet is 32"):
        load_controlnet(str(tmp_path), tiny_adapter("stable_diffusion_xl"))
