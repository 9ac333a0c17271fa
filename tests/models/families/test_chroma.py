"""Chroma: padding of prompts under the mask that diffusers adds, in training with and without checkpoints."""

from dataclasses import replace

import pytest
import torch

from alignbench.models.families.chroma import Chroma
from alignbench.models.tiny_random import tiny_adapter

PROMPTS = ["a red circle", "", "a far longer caption that asks for a blue square left of a green cross"]
TIMESTEPS = torch.tensor([900.0, 500.0, 20.0])


@pytest.fixture
def model() -> Chroma:
    adapter = tiny_adapter("chroma")
    assert isinstance(adapter, Chroma)
    return adapter


def noise_for(model):
    return torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def test_features_keep_their_padding_and_the_mask_lets_one_token_of_it_in(model):
    embeds, _, mask, negative, _, negative_mask = model.pipeline.encode_prompt(
        PROMPTS, device="cpu", max_sequence_length=32
    )
    conditioning = model.encode_prompts(PROMPTS)
    assert torch.equal(conditioning.prompt_embeds, embeds)
    assert torch.equal(conditioning.known_mask, mask.bool())
    lengths = [len(tokens) for tokens in model.pipeline.tokenizer(PROMPTS)["input_ids"]]
    assert conditioning.known_mask.sum(1).tolist() == [min(length + 1, 32) for length in lengths]
    without = model.encode_no_prompt()
    assert torch.equal(without.prompt_embeds[0], negative[0])
    assert torch.equal(without.known_mask[0], negative_mask[0].bool())


def test_the_mask_is_added_to_the_scores_as_diffusers_does_and_the_head_says_so(model):
    """A mask of 1 and 0 alone: what one of 2 and 1 adds to every score alike changes nothing."""
    conditioning = model.encode_prompts(PROMPTS)
    nothing = replace(conditioning, text_mask=torch.zeros_like(conditioning.known_mask))
    with torch.no_grad():
        added, unmasked = (model.predict(noise_for(model), TIMESTEPS, rows) for rows in (conditioning, nothing))
        seen = []
        model.denoiser.register_forward_pre_hook(
            lambda network, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
        model.predict(noise_for(model), TIMESTEPS, conditioning)
    assert not torch.allclose(added, unmasked)
    (mask,) = seen
    assert mask.dtype == torch.float32  # a mask of bools would leave padding out
    assert torch.equal(mask[:, :32].bool(), conditioning.known_mask)
    assert (mask[:, 32:] == 1).all()
    assert "adds 1 to the scores" in model.remarks[-1]


def test_padding_is_attended_to(model):
    conditioning = model.encode_prompts(PROMPTS[:1] * 3)
    changed = conditioning.prompt_embeds.clone()
    changed[:, -1] += 1.0
    with torch.no_grad():
        ours, other = (
            model.predict(noise_for(model), TIMESTEPS, rows)
            for rows in (conditioning, replace(conditioning, prompt_embeds=changed))
        )
    assert not torch.allclose(ours, other)


def test_checkpoints_keep_the_mask_of_their_own_call(model):
    """Single blocks lose it in diffusers; a later call with another mask must not reach back."""
    model.prepare_training("full", 0, 0)
    rows, others = model.encode_prompts(PROMPTS), model.encode_prompts(PROMPTS[::-1])

    def gradients():
        model.denoiser.zero_grad()
        first = model.predict(noise_for(model), TIMESTEPS, rows)
        second = model.predict(noise_for(model), TIMESTEPS, others)
        (first.square().mean() + 2 * second.square().mean()).backward()
        return [parameter.grad.clone() for parameter in model.denoiser.parameters() if parameter.grad is not None]

    plain = gradients()
    model.denoiser.enable_gradient_checkpointing()
    forgotten = gradients()
    model.enable_checkpointing(network=True, decoder=False)
    torch.testing.assert_close(gradients(), plain, rtol=1e-5, atol=1e-8)
    assert any(not torch.allclose(one, other, rtol=1e-2) for one, other in zip(forgotten, plain, strict=True))


def test_guidance_is_the_usual_formula(model):
    conditional, unconditional = torch.randn(2, 3, *model.latent_shape)
    expected = unconditional + 5.0 * (conditional - unconditional)
    assert torch.equal(model.guide(conditional, unconditional, 5.0), expected)
