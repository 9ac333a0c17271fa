"""Z-Image: guidance counted in its own sense, prompts without padding, and the few steps of Turbo."""

import pytest
import torch

from alignbench.configuration.compose import composed
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.tiny_random import tiny_adapter
from tests.of_the_pipeline import images_of, levels_of

PROMPTS = ["a red circle", "", "a far longer caption that asks for a blue square left of a green cross"]
KEYS = [("p0", 0), ("p1", 0), ("p2", 0)]


def noise_for(model):
    return torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def test_prompts_are_left_as_they_are():
    prompts = list(PROMPTS)
    tiny_adapter("z_image").encode_prompts(prompts)
    assert prompts == PROMPTS


def test_features_are_those_of_a_prompts_own_tokens():
    model = tiny_adapter("z_image")
    lengths = [len(model.encode_prompts([prompt]).prompt_embeds[0]) for prompt in PROMPTS]
    together = model.encode_prompts(PROMPTS)
    assert [len(row) for row in together.text_rows] == lengths
    assert lengths[0] - lengths[1] == len(PROMPTS[0])  # and the chat template


def test_a_scale_adds_so_much_of_the_difference_to_the_conditional_prediction():
    model = tiny_adapter("z_image")
    conditional, unconditional = torch.tensor([[3.0]]), torch.tensor([[1.0]])
    for scale, expected in ((0.0, 3.0), (0.5, 4.0), (4.0, 11.0)):
        assert model.guide(conditional, unconditional, model.guidance_weight(scale)).item() == expected
        assert model.is_guided(scale) == (scale > 0)


# ---- Turbo


@pytest.fixture
def turbo():
    return tiny_adapter("z_image", shift=3.0)


@pytest.fixture(scope="module")
def few():
    """How the file of the model samples weights of few steps: their number and the guidance scale."""
    cfg = composed(["method=base", "model=z_image"]).model
    return cfg.steps.few, cfg.guidance.few


def test_few_steps_of_turbo_give_the_images_of_the_pipeline(turbo, few):
    num_steps, scale = few
    noise, conditioning = noise_for(turbo), turbo.encode_prompts(PROMPTS)
    assert turbo.unconditional(scale, conditioning) is None
    latents = turbo.sample(noise, conditioning, turbo.noise_levels(num_steps), scale).latents
    assert turbo.network_passes == num_steps * len(PROMPTS)
    arguments = turbo.generation_arguments(len(PROMPTS), scale)
    theirs = images_of(turbo, PROMPTS, noise, num_inference_steps=num_steps, **arguments)
    ours = turbo.decode_latents(latents).permute(0, 2, 3, 1).detach().numpy()
    assert abs(ours - theirs).max() < 5e-6
    shown = Sampler(turbo, num_steps, scale)(KEYS, PROMPTS, noise)
    expected = levels_of(turbo, PROMPTS, noise, num_inference_steps=num_steps, **arguments)
    assert [picture.tobytes() for picture in shown] == [picture.tobytes() for picture in expected]


def test_the_noise_levels_of_turbo_are_shifted_by_3_whatever_the_resolution(turbo, few):
    num_steps, _ = few
    even = torch.arange(num_steps, 0, -1, dtype=torch.float64) / num_steps  # 1, 8/9 ... 1/9
    expected = torch.cat([3 * even / (1 + 2 * even), torch.zeros(1)])
    for resolution in (turbo.resolution, 8 * turbo.resolution):
        turbo.resolution = resolution
        levels = turbo.noise_levels(num_steps)
        torch.testing.assert_close(levels.level.sigma, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(levels.timesteps, 1000 * expected[:-1], rtol=1e-6, atol=1e-4)
