"""The miniature of Qwen-Image: its chat template, an autoencoder with frames, the start from FLUX, what is shipped."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, QwenImagePipeline, QwenImageTransformer2DModel
from transformers import Qwen2Tokenizer

from alignbench.miniature.captions import prompts
from alignbench.miniature.pretrain.autoencoder import build_qwen_autoencoder, code, convolve_one_frame
from alignbench.miniature.pretrain.data import scene_at, tokenise
from alignbench.miniature.pretrain.denoisers import FluxDenoiser, build_qwen_scheduler, encode_for_qwen
from alignbench.miniature.pretrain.latents import empty_prompt
from alignbench.miniature.pretrain.text_encoders import chat_head, same_in_t5
from alignbench.miniature.pretrain.tokenizers import (
    CHAT_HEAD_LENGTH,
    CHAT_LENGTH,
    CHAT_TAIL_LENGTH,
    CHAT_TEMPLATE,
    COMMON_WORDS,
    GRAMMAR_WORDS,
    build_qwen_tokenizer,
)
from alignbench.miniature.pretrain.warm_start import qwen_from_flux
from alignbench.miniature.scenes import PLACES, render
from alignbench.miniature.weights import load_pipeline
from alignbench.models.families.qwen_image import QwenImage
from tests.of_the_pipeline import images_of

SENTENCE = "shaded. a small blue square left of a large yellow cross, gray background"
OTHER_TEXTS = ["", "An astronaut riding a horse, 8k", "Ünïcödé 漢字 🙂\n\tit's 100%", "x" * 500]


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return build_qwen_tokenizer()


@pytest.fixture(scope="module")
def pipeline() -> QwenImagePipeline:
    pipeline = load_pipeline("qwen_mini")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def model(pipeline) -> QwenImage:
    return QwenImage(pipeline, resolution=64, max_sequence_length=32, lora_targets=["to_q"])


# ---- the chat template


def test_a_prompt_begins_where_the_pipeline_expects_it(tokenizer, pipeline):
    assert pipeline.prompt_template_encode == CHAT_TEMPLATE
    assert pipeline.prompt_template_encode_start_idx == CHAT_HEAD_LENGTH
    for text in (SENTENCE, "a red circle", " ", *OTHER_TEXTS):
        ids = tokenizer(CHAT_TEMPLATE.format(text)).input_ids
        tail = [*tokenizer.convert_tokens_to_ids(["<|im_end|>", "Ċ", "<|im_start|>", "assistant", "Ċ"])]
        assert tokenizer.decode(ids[CHAT_HEAD_LENGTH:-CHAT_TAIL_LENGTH]) == text
        assert ids[-CHAT_TAIL_LENGTH:] == tail


def test_one_token_speaks_for_each_region():
    assert len(PLACES) == CHAT_TAIL_LENGTH


@pytest.mark.parametrize("before", ["", "of "])
def test_each_listed_word_is_one_token_at_the_start_of_a_prompt_and_within_it(tokenizer, before):
    words = [*GRAMMAR_WORDS, *COMMON_WORDS]
    lengths = {len(ids) for ids in tokenizer([before + word for word in words]).input_ids}
    assert lengths == {1 + bool(before)}


def test_the_tokenizer_is_shipped_as_built(tokenizer, pipeline):
    assert pipeline.tokenizer.get_vocab() == tokenizer.get_vocab()
    texts = [CHAT_TEMPLATE.format(text) for text in (SENTENCE, *OTHER_TEXTS)]
    assert pipeline.tokenizer(texts).input_ids == tokenizer(texts).input_ids


def test_no_caption_is_cut(tokenizer):
    ids = tokenise([*prompts("heldout", 256, seed=1), SENTENCE], tokenizer)
    assert ids.shape == (257, CHAT_LENGTH)
    assert (ids == tokenizer.convert_tokens_to_ids("<|im_start|>")).sum(dim=1).eq(1).all()


def test_words_and_regions_are_matched_with_what_says_the_same_in_t5():
    caption = "a red circle below a blue square, gray background"
    top, bottom = (10 + PLACES.index(region) for region in ("top", "bottom"))
    assert same_in_t5(caption) == [*zip(range(10), range(10), strict=True), (bottom, 2), (top, 6)]


def test_training_reads_prompts_as_the_pipeline_does(tokenizer, pipeline):
    texts = [SENTENCE, "a red circle in the center, white background", empty_prompt(tokenizer)]
    embeds, mask = pipeline.encode_prompt(texts)
    given = encode_for_qwen(pipeline.text_encoder, chat_head(tokenizer), tokenise(texts, tokenizer))
    assert mask.sum(dim=1).tolist() == [20, 14, 6]
    assert torch.equal(given["encoder_hidden_states_mask"], mask.bool())
    torch.testing.assert_close(given["encoder_hidden_states"][mask.bool()], embeds[mask.bool()])


# ---- the autoencoder


def test_one_frame_is_convolved_as_by_the_network_itself():
    torch.manual_seed(0)
    vae, pixels = build_qwen_autoencoder(), torch.rand(2, 3, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # earlier frames would count now
        codes = vae.encode(pixels).latent_dist.mean
        decoded = vae.decode(codes).sample
        for module in vae.modules():
            if hasattr(module, "_padding"):
                module.forward = partial(convolve_one_frame, module)
        torch.testing.assert_close(vae.encode(pixels).latent_dist.mean, codes)
        torch.testing.assert_close(vae.decode(codes).sample, decoded)


def test_the_shipped_autoencoder_gives_latents_of_the_other_families_and_brings_pixels_back(model):
    rendered = np.stack([render(*scene_at(index)) for index in range(16)])
    pixels = torch.from_numpy(rendered).permute(0, 3, 1, 2).float() / 255
    mean, deviation = model.encode_posterior(pixels)
    latents = model.latents_of(mean)
    assert (latents - code(pixels * 2 - 1)).square().mean() < 0.05
    spread = (model.latents_of(mean + deviation) - latents).mean(dim=(0, 2, 3))
    assert ((spread > 0.003) & (spread < 0.01)).all()  # of latents with a deviation of 1
    with torch.no_grad():
        assert (model.decode_latents(latents) - pixels).abs().mean() < 0.04


# ---- the transformer


class NoRotation(torch.nn.Module):
    """Puts all tokens at one place."""

    def forward(self, img_shapes, max_txt_seq_len, device):
        return torch.ones(64, 12, dtype=torch.complex64), torch.ones(max_txt_seq_len, 12, dtype=torch.complex64)


@pytest.mark.parametrize("num_single_layers", [0, 1])
def test_it_starts_as_a_flux_that_knows_no_places_and_has_one_pooled_vector(num_single_layers):
    torch.manual_seed(0)
    shape = {"num_attention_heads": 4, "attention_head_dim": 24, "joint_attention_dim": 64}
    flux = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=num_single_layers,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(4, 10, 10),
        **shape,
    )
    qwen = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2 + num_single_layers, axes_dims_rope=(4, 10, 10), **shape
    )
    qwen.pos_embed = NoRotation()
    with torch.no_grad():
        for block in flux.single_transformer_blocks:
            block.proj_out.weight[:, 96:] = 0.0  # side by side and one after the other are the same then
        for parameter in flux.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) * (parameter.ndim == 1))
    text, pooled, noisy = torch.randn(2, 70, 64), torch.randn(1, 64), torch.randn(2, 4, 16, 16)
    text = text / text.square().mean(dim=-1, keepdim=True).sqrt()
    t5_text = text @ torch.randn(64, 64) / 8 + 1.0
    qwen_from_flux(qwen, flux, pooled, text.flatten(0, 1), t5_text.flatten(0, 1))
    with torch.no_grad():
        expected = flux(
            FluxDenoiser.pack(noisy),
            timestep=torch.tensor([0.3, 0.9]),
            guidance=torch.ones(2),
            encoder_hidden_states=t5_text,
            pooled_projections=pooled.expand(2, -1),
            txt_ids=torch.zeros(70, 3),
            img_ids=torch.zeros(64, 3),  # all at one place
        ).sample
        found = qwen(
            FluxDenoiser.pack(noisy), text, timestep=torch.tensor([0.3, 0.9]), img_shapes=[[(1, 8, 8)]] * 2
        ).sample
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_shift_at_these_images_is_that_of_flux_mini_and_the_last_level_is_not_zero(pipeline):
    for scheduler in (pipeline.scheduler, build_qwen_scheduler()):
        scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.5)
        assert scheduler.sigmas[:1].tolist() == [1.0]
        assert scheduler.sigmas[-2].item() == pytest.approx(0.02)
        assert scheduler.config.base_image_seq_len == 64


def test_texts_of_unlike_length_are_guided_as_by_the_pipeline(model):
    texts = [SENTENCE, "a red circle in the center, white background"]
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    conditioning = model.encode_prompts(texts)
    assert conditioning.text_mask is not None
    levels, unconditional = model.noise_levels(2), model.unconditional(4.0, conditioning)
    latents = model.sample(noise, conditioning, levels, guidance_scale=4.0, unconditional=unconditional).latents
    ours = model.decode_latents(latents).permute(0, 2, 3, 1).detach().numpy()
    arguments = model.generation_arguments(2, 4.0)
    assert abs(ours - images_of(model, texts, noise, num_inference_steps=2, **arguments)).max() < 1e-4
