"""Lumina-Image 2.0: a system prompt before each prompt but the empty one, rescaled guidance, reversed time."""

from dataclasses import replace

import pytest
import torch

from alignbench.models.families.lumina2 import Lumina2
from alignbench.models.tiny_random import tiny_adapter

PROMPTS = ["a red circle", "", "a far longer caption that asks for a blue square left of a green cross"]
TIMESTEPS = torch.tensor([900.0, 500.0, 20.0])


@pytest.fixture
def model() -> Lumina2:
    adapter = tiny_adapter("lumina2")
    assert isinstance(adapter, Lumina2)
    return adapter


def noise_for(model):
    return torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def test_prompts_follow_the_system_prompt_and_no_prompt_follows_nothing(model):
    embeds, mask, negative, negative_mask = model.pipeline.encode_prompt(PROMPTS, device="cpu")
    conditioning = model.encode_prompts(PROMPTS)
    before = len(model.pipeline.system_prompt) + len(" <Prompt Start> ") + 1
    assert conditioning.known_mask.sum(1).tolist() == [min(before + len(prompt), 256) for prompt in PROMPTS]
    for row, theirs, real in zip(conditioning.text_rows, embeds, mask.bool(), strict=True):
        assert torch.equal(row, theirs[real])
    without = model.encode_no_prompt()
    assert torch.equal(without.prompt_embeds[0], negative[1][negative_mask[1].bool()])
    assert without.prompt_embeds.shape[1] == 1  # the mark of the beginning alone


def test_a_prompt_for_which_there_is_room_is_not_cut(model):
    longest = "a" * (model.prompt_limits["tokenizer"] - 1)  # and the mark of the beginning
    rows = model.encode_prompts([longest[1:], longest, longest + "a"]).text_rows
    assert [len(row) for row in rows] == [255, 256, 256]
    assert torch.equal(rows[1], rows[2])
    assert model.cut_prompts([longest, longest + "a"])["Gemma"].cut == 1


def test_padding_is_not_attended_to(model):
    conditioning = model.encode_prompts(PROMPTS)
    with torch.no_grad():
        masked, unmasked = (
            model.predict(noise_for(model), TIMESTEPS, rows)
            for rows in (conditioning, replace(conditioning, text_mask=None))
        )
    assert (masked[2] - unmasked[2]).abs().max() < 1e-6  # which has no padding
    assert (masked[:2] - unmasked[:2]).abs().amax((1, 2, 3)).min() > 1e-5


def test_each_row_of_a_guided_prediction_is_as_long_as_that_of_the_conditional_one(model):
    conditional = torch.tensor([[[[3.0, 4.0], [1.0, 0.0]]]])
    unconditional = torch.tensor([[[[3.0, 0.0], [0.0, 1.0]]]])
    guided = model.guide(conditional, unconditional, 2.0)
    # the usual formula gives (3, 8), as long as sqrt(73), and (2, -1), as long as sqrt(5)
    expected = torch.tensor([[[[15 / 73**0.5, 40 / 73**0.5], [2 / 5**0.5, -1 / 5**0.5]]]])
    torch.testing.assert_close(guided, expected)
    torch.testing.assert_close(model.guide(conditional, unconditional, 1.0), conditional)


def test_time_and_prediction_run_from_noise_to_images_in_the_network(model):
    seen = []
    model.denoiser.register_forward_hook(
        lambda network, args, kwargs, output: seen.append((kwargs["timestep"], output[0])), with_kwargs=True
    )
    with torch.no_grad():
        prediction = model.predict(noise_for(model), TIMESTEPS, model.encode_prompts(PROMPTS))
    ((time, output),) = seen
    torch.testing.assert_close(time, torch.tensor([0.1, 0.5, 0.98]))
    assert torch.equal(prediction, -output)


def test_the_longest_side_is_that_of_the_positions(model):
    assert model.longest_side == 64 * 2 * 8
