"""Pretraining resumes exactly, its parts are what diffusers expects, and the shipped weights load and draw."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from scipy.stats import binom
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, T5Tokenizer

from alignbench.errors import UserError
from alignbench.miniature.candidates import scene_for, with_fault
from alignbench.miniature.captions import demand_of, parse, prompts, split_of
from alignbench.miniature.pretrain.autoencoder import SCALING_FACTOR, build_autoencoder, code
from alignbench.miniature.pretrain.data import CAPTIONS_PER_SCENE, load_data, render_data, scene_at
from alignbench.miniature.pretrain.denoisers import (
    FluxDenoiser,
    build_flux,
    build_sd3,
    build_sd3_scheduler,
    build_sd15_scheduler,
    build_sdxl,
    build_sdxl_scheduler,
    encode_for_sd3,
    encode_for_sdxl,
)
from alignbench.miniature.pretrain.evaluate import evaluate
from alignbench.miniature.pretrain.export import export
from alignbench.miniature.pretrain.loop import Muon, Plan, learning_rate_at, load_average, train
from alignbench.miniature.pretrain.rewards import normalise
from alignbench.miniature.pretrain.text_encoders import (
    answers_at,
    answers_of,
    build_clip_text_encoder,
    build_t5_encoder,
    train_text_encoder,
)
from alignbench.miniature.pretrain.tokenizers import (
    COMMON_WORDS,
    GRAMMAR_WORDS,
    T5_LENGTH,
    build_clip_tokenizer,
    build_t5_tokenizer,
)
from alignbench.miniature.pretrain.warm_start import sd3_from_flux, sdxl_from_sd15
from alignbench.miniature.scenes import COLOURS, PLACES, SHAPES, SIZES, render
from alignbench.miniature.weights import (
    CLIPS,
    FOLDER,
    PIPELINES,
    SD3_CLIP_LENGTH,
    load_clip,
    load_pipeline,
    with_projection,
)

SENTENCE = "shaded. a small blue square left of a large yellow cross, gray background"
OTHER_TEXTS = ["", "An astronaut riding a horse, 8k", "Ünïcödé 漢字 🙂\n\tit's 100%", "</s> <|endoftext|>", "x" * 500]
PLAN = Plan(num_updates=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def clip_tokenizer() -> CLIPTokenizer:
    return build_clip_tokenizer()


@pytest.fixture(scope="module")
def t5_tokenizer() -> T5Tokenizer:
    return build_t5_tokenizer()


# ---- the loop


def trained(folder: Path, *plans: Plan) -> tuple[nn.Module, dict]:
    """Run a small training under one plan after the other, as after kills."""
    for plan in plans:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))

        def loss_of(step, generator, module=module):
            inputs = torch.randn(16, 3, generator=generator)
            return (module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean(), {"step": float(step)}

        train(module, loss_of, plan, folder, "test")
    return module, torch.load(folder / "state.pt")


def leaves(state) -> list:
    """Return all values of a state in order, tensors as bytes."""
    if isinstance(state, dict):
        return [leaf for key in state for leaf in [key, *leaves(state[key])]]
    if isinstance(state, list | tuple):
        return [leaf for value in state for leaf in leaves(value)]
    return [state.numpy().tobytes() if isinstance(state, torch.Tensor) else state]


@pytest.mark.parametrize("muon", ["", "weight"])
def test_a_killed_training_ends_byte_for_byte_as_one_that_was_not(tmp_path, muon):
    plan = replace(PLAN, muon=muon)
    whole, whole_state = trained(tmp_path / "whole", plan)
    resumed, resumed_state = trained(tmp_path / "resumed", replace(plan, stop_at=2), plan)
    assert leaves(whole_state) == leaves(resumed_state)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_training_is_not_repeated(tmp_path):
    _, before = trained(tmp_path, PLAN)
    _, after = trained(tmp_path, PLAN)
    assert leaves(before) == leaves(after)


def test_the_average_can_be_read_while_a_training_runs(tmp_path):
    stopped, _ = trained(tmp_path, replace(PLAN, stop_at=3))
    other = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))
    assert load_average(other, tmp_path) == 3
    for one, same in zip(stopped.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_the_learning_rate_rises_to_its_highest_value_and_falls_to_zero():
    plan = Plan(num_updates=1000, learning_rate=1.0)
    rates = [learning_rate_at(step, plan) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 40)
    assert max(rates) == rates[39] == 1.0
    assert rates[-1] < 1e-4


def test_a_muon_update_keeps_the_directions_of_the_gradient_and_has_singular_values_near_one():
    parameter = nn.Parameter(torch.zeros(8, 24))
    parameter.grad = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(parameter.grad, full_matrices=False)
    Muon([parameter], lr=1.0).step()
    orthogonal = -parameter.detach() / (0.2 * 24**0.5)
    values = torch.linalg.svdvals(orthogonal)
    assert values.min() > 0.6
    assert values.max() < 1.25
    rotated = u.mT @ orthogonal @ v.mT  # diagonal where the singular directions are those of the gradient
    assert (rotated - torch.diag(torch.diagonal(rotated))).abs().max() < 0.02  # computed in bfloat16


def test_a_kernel_of_a_convolution_is_updated_as_the_matrix_of_its_outputs():
    kernel, matrix = nn.Parameter(torch.ones(4, 3, 2, 2)), nn.Parameter(torch.ones(4, 12))
    kernel.grad = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    matrix.grad = kernel.grad.flatten(1)
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.5).step()
    assert torch.equal(kernel.flatten(1), matrix)
    assert not torch.equal(matrix, torch.ones(4, 12))


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 3, 3, 3)])
def test_a_muon_update_has_the_size_of_one_of_adamw(shape):
    """Root mean square 0.2 times the learning rate, whatever the size of the gradient; AdamW's is 0.2 to 0.4."""
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = 1e-4 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    Muon([parameter], lr=0.5).step()
    assert (parameter * parameter.grad).sum() < 0
    assert parameter.square().mean().sqrt().item() == pytest.approx(0.2 * 0.5, rel=0.25)


# ---- the data


def test_scenes_depend_on_their_number_alone_and_never_show_held_out_content():
    for index in range(40):
        (scene, _), (again, _) = scene_at(index), scene_at(index)
        assert scene == again
        assert split_of(demand_of(scene)) == "train"


def test_data_are_rendered_once_and_captions_describe_them(tmp_path):
    render_data(tmp_path, num_scenes=12)
    written = (tmp_path / "images.npy").read_bytes()
    render_data(tmp_path, num_scenes=99)
    assert (tmp_path / "images.npy").read_bytes() == written
    data = load_data(tmp_path)
    for index, captions in enumerate(data.captions):
        scene, _ = scene_at(index)
        assert [parse(caption).style for caption in captions] == [None] * CAPTIONS_PER_SCENE + [scene.style]
        assert parse(captions[0]).background == scene.background
    assert data.pixels(torch.tensor([3, 5])).shape == (2, 3, 64, 64)


def test_an_unfinished_data_set_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="stage `data`"):
        load_data(tmp_path)


# ---- tokenizers and text encoders


@pytest.mark.parametrize("build", [build_clip_tokenizer, build_t5_tokenizer])
def test_a_saved_tokenizer_reads_any_text_as_before(build, tmp_path):
    tokenizer = build()
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again.model_max_length == tokenizer.model_max_length
    for text in [SENTENCE, *OTHER_TEXTS]:
        ids = tokenizer(text, truncation=True).input_ids
        assert ids == again(text, truncation=True).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert len(ids) <= tokenizer.model_max_length


def test_words_of_the_world_and_common_words_are_one_token(clip_tokenizer, t5_tokenizer):
    for word in [*GRAMMAR_WORDS, *COMMON_WORDS]:
        assert len(clip_tokenizer(word).input_ids) == 3, word
        assert len(t5_tokenizer(word).input_ids) == 2, word


def test_clip_loses_no_byte_and_t5_no_latin_letter(clip_tokenizer, t5_tokenizer):
    assert clip_tokenizer.decode(clip_tokenizer("漢字 🙂").input_ids, skip_special_tokens=True) == "漢字 🙂"
    assert t5_tokenizer.decode(t5_tokenizer(SENTENCE).input_ids, skip_special_tokens=True) == SENTENCE
    assert t5_tokenizer.unk_token_id not in t5_tokenizer("Ünïcödé, 100% (a-z)!").input_ids


def test_clip_pools_at_the_end_token_whatever_follows(clip_tokenizer):
    encoder = build_clip_text_encoder(clip_tokenizer).eval()
    assert encoder.config.eos_token_id == clip_tokenizer.eos_token_id == clip_tokenizer.pad_token_id != 2
    short = clip_tokenizer(SENTENCE, return_tensors="pt").input_ids
    padded = clip_tokenizer(SENTENCE, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(encoder(short).pooler_output, encoder(padded).pooler_output, atol=1e-5, rtol=1e-4)


def test_words_answer_for_their_shape_and_padding_for_its_region():
    demand = parse("a small red circle left of a blue square, gray background")
    first, second = answers_of(demand, 0), answers_of(demand, 1)
    assert (first[:3], first[3:6]) == (second[3:6], second[:3])
    assert first[:3] == [1 + SHAPES.index("circle"), 1 + list(COLOURS).index("red"), 1 + SIZES.index("small")]
    assert second[2] == 0  # the size of the square is not said
    assert answers_at(demand, "left") == first
    assert answers_at(demand, "right") == second
    assert answers_at(demand, "top")[:3] == [0, 0, 0]
    assert [PLACES[answers[-1]] for answers in (first, second)] == ["left", "right"]
    mirrored = parse("a blue square right of a small red circle, gray background")
    assert answers_at(mirrored, "left")[:6] == first[:6]


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["clip", "t5"])
def test_a_text_encoder_learns_to_say_what_is_where(name, tmp_path, clip_tokenizer, t5_tokenizer, capsys):
    render_data(tmp_path / "data", num_scenes=8)
    data, plan = load_data(tmp_path / "data"), Plan(num_updates=40, learning_rate=3e-3, ema_decay=0.5)
    tokenizer, build = {
        "clip": (clip_tokenizer, build_clip_text_encoder),
        "t5": (t5_tokenizer, build_t5_encoder),
    }[name]
    torch.manual_seed(0)
    encoder, right = build(tokenizer), []
    for part in (replace(plan, stop_at=1), plan):
        train_text_encoder(encoder, tokenizer, data, tmp_path / name, name, part)
        last = capsys.readouterr().out.splitlines()[-1]
        right.append({word: float(value) for word, value in re.findall(r"(\w+)_right ([\d.]+)", last)})
    first, second = right
    assert first.keys() == ({"words", "padding", "pooled"} if name == "clip" else {"words", "pooled"})
    assert all(second[word] > first[word] + 0.3 for word in first)


# ---- latents and networks


def test_codes_are_area_means_and_contrast():
    even = torch.full((1, 3, 64, 64), 0.3)
    half = even.clone()
    half[..., 2::4, :] = -0.3
    assert code(even).shape == (1, 4, 16, 16)
    assert code(even).std(dim=(2, 3)).max() < 1e-5
    assert (code(half)[:, 3] > code(even)[:, 3] + 1).all()


def test_flux_takes_the_arguments_of_its_pipeline(clip_tokenizer, t5_tokenizer):
    denoiser = FluxDenoiser(build_clip_text_encoder(clip_tokenizer), build_t5_encoder(t5_tokenizer))
    tokens = denoiser.pack(torch.randn(2, 4, 16, 16))
    noisy, velocity, sigmas = denoiser.noise(tokens, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noisy - sigmas[:, None, None] * velocity, tokens)
    tokenizers = (clip_tokenizer, t5_tokenizer)
    ids = [tokenizer([SENTENCE] * 2, padding="max_length", return_tensors="pt").input_ids for tokenizer in tokenizers]
    prediction = build_flux()(noisy, timestep=sigmas, guidance=torch.ones(2), **denoiser.encode(ids)).sample
    assert prediction.shape == tokens.shape


def test_sd15_has_the_noise_schedule_of_sd15():
    alphas = build_sd15_scheduler().alphas_cumprod
    assert float(alphas[0]) == pytest.approx(1 - 0.00085)
    assert float(alphas[-1]) == pytest.approx(0.0047, abs=1e-4)


# ---- SDXL and SD3


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A folder like the shipped one, with SDXL and SD3 as they are before training."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        (folder / name).symlink_to(FOLDER / name)
    torch.manual_seed(0)
    build_sdxl().save_pretrained(folder / "sdxl_mini/unet")
    build_sdxl_scheduler().save_pretrained(folder / "sdxl_mini/scheduler")
    build_sd3().save_pretrained(folder / "sd3_mini/transformer")
    build_sd3_scheduler().save_pretrained(folder / "sd3_mini/scheduler")
    return folder


def test_clip_with_projection_is_the_shared_clip_and_a_layer_that_does_nothing(clip_tokenizer):
    clip = CLIPTextModel.from_pretrained(FOLDER / "text_encoder", dtype=torch.float32)
    state = torch.get_rng_state()
    encoder = with_projection(clip)
    assert torch.equal(torch.get_rng_state(), state)
    ids = clip_tokenizer([SENTENCE, ""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        shared, projected = (network(ids, output_hidden_states=True) for network in (clip, encoder))
    assert torch.equal(projected.hidden_states[-3], shared.hidden_states[-2])
    assert torch.equal(projected.hidden_states[-2], projected.hidden_states[-1])
    assert torch.equal(projected.last_hidden_state, shared.last_hidden_state)
    assert torch.equal(projected.text_embeds, shared.pooler_output)


def test_sdxl_trains_on_the_conditioning_of_its_pipeline(untrained, clip_tokenizer):
    pipeline = load_pipeline("sdxl_mini", folder=untrained)
    embeds, empty_embeds, pooled, empty_pooled = pipeline.encode_prompt([SENTENCE, "a red circle"])
    ids = clip_tokenizer([SENTENCE, "a red circle"] * 2, padding="max_length", return_tensors="pt").input_ids
    given = encode_for_sdxl(pipeline.text_encoder_2, ids, is_empty=torch.tensor([False, False, True, True]))
    assert torch.equal(given["encoder_hidden_states"], torch.cat([embeds, empty_embeds]))
    assert torch.equal(given["added_cond_kwargs"]["text_embeds"], torch.cat([pooled, empty_pooled]))
    sizes = pipeline._get_add_time_ids((64, 64), (0, 0), (64, 64), torch.float32, text_encoder_projection_dim=64)
    assert torch.equal(given["added_cond_kwargs"]["time_ids"], sizes.repeat(4, 1))


def test_sd3_trains_on_the_conditioning_of_its_pipeline(untrained, clip_tokenizer, t5_tokenizer):
    pipeline, texts = load_pipeline("sd3_mini", folder=untrained), [SENTENCE, ""]
    embeds, _, pooled, _ = pipeline.encode_prompt(
        texts, None, None, do_classifier_free_guidance=False, max_sequence_length=t5_tokenizer.model_max_length
    )
    tokenizers = (clip_tokenizer, t5_tokenizer)
    ids = [tokenizer(texts, padding="max_length", return_tensors="pt").input_ids for tokenizer in tokenizers]
    given = encode_for_sd3(pipeline.text_encoder, pipeline.text_encoder_3, ids)
    torch.testing.assert_close(given["encoder_hidden_states"], embeds)
    torch.testing.assert_close(given["pooled_projections"], pooled)


def test_no_caption_is_cut_by_the_short_clip_of_sd3(clip_tokenizer):
    ids = clip_tokenizer(prompts("heldout", 256, seed=1)).input_ids
    assert max(map(len, ids)) <= SD3_CLIP_LENGTH - len(PLACES)  # room for padding that speaks for each region


def test_sdxl_starts_as_the_sd15_that_was_trained(untrained, clip_tokenizer):
    sd15, pipeline = load_pipeline("sd15_mini"), load_pipeline("sdxl_mini", folder=untrained)
    ids = clip_tokenizer(prompts("train", 256, seed=0), padding="max_length", return_tensors="pt").input_ids
    sdxl_from_sd15(pipeline.unet, sd15.unet, pipeline.text_encoder_2, ids.split(32))
    noisy, timesteps = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((8,), 400)
    with torch.no_grad():
        features = sd15.text_encoder(ids[:16]).last_hidden_state
        expected, others = (sd15.unet(noisy, timesteps, rows).sample for rows in features.split(8))
        given = encode_for_sdxl(pipeline.text_encoder_2, ids[:8], is_empty=torch.zeros(8, dtype=torch.bool))
        found = pipeline.unet(noisy, timesteps, **given).sample
    assert (found - expected).norm() < 0.25 * (others - expected).norm()


@pytest.mark.parametrize("num_single_layers", [0, 1])
def test_sd3_starts_as_a_flux_that_knows_no_places_and_feeds_forward_in_two_streams_alone(num_single_layers):
    torch.manual_seed(0)
    shape = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 24, "joint_attention_dim": 64}
    flux = FluxTransformer2DModel(
        in_channels=16,
        num_single_layers=num_single_layers,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(4, 10, 10),
        **shape,
    )
    sd3 = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        caption_projection_dim=96,
        pooled_projection_dim=128,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
        **(shape | {"num_layers": 2 + num_single_layers}),
    )
    with torch.no_grad():
        sd3.pos_embed.pos_embed.zero_()
        for block in flux.single_transformer_blocks:
            block.proj_out.weight[:, 96:] = 0.0  # side by side and one after the other are the same then
        for parameter in flux.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) * (parameter.ndim == 1))
    sd3_from_flux(sd3, flux)
    noisy, text, pooled = torch.randn(2, 4, 16, 16), torch.randn(2, 20, 64), torch.randn(2, 64)
    with torch.no_grad():
        expected = flux(
            FluxDenoiser.pack(noisy),
            timestep=torch.tensor([0.3, 0.9]),
            guidance=torch.ones(2),
            encoder_hidden_states=text,
            pooled_projections=pooled,
            txt_ids=torch.zeros(20, 3),
            img_ids=torch.zeros(64, 3),  # all at one place
        ).sample
        found = sd3(noisy, text, pooled.repeat(1, 2), torch.tensor([300.0, 900.0])).sample
    torch.testing.assert_close(FluxDenoiser.pack(found), expected, rtol=1e-4, atol=1e-5)


def test_what_the_work_folder_lacks_is_left_as_it_was_shipped(untrained, tmp_path, clip_tokenizer, t5_tokenizer):
    clip_tokenizer.save_pretrained(tmp_path / "work/tokenizer")
    t5_tokenizer.save_pretrained(tmp_path / "work/tokenizer_2")
    plan, target = Plan(num_updates=1, learning_rate=1e-3), tmp_path / "target"

    def loss_of(step, generator):
        return torch.zeros((), requires_grad=True), {}

    train(build_sd3(), loss_of, plan, tmp_path / "work/sd3_mini", "sd3_mini")
    (target / "vae").mkdir(parents=True)
    export(tmp_path / "work", target)
    assert sorted(path.name for path in target.iterdir()) == ["sd3_mini", "tokenizer", "tokenizer_2", "vae"]
    assert not list((target / "vae").iterdir())


# ---- what is shipped

SHIPPED = [name for name in PIPELINES if (FOLDER / name).is_dir()]


def test_shipped_files_are_small_enough():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert max(sizes) < 9e6
    assert sum(sizes) < 27e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_pipeline_loads_in_float32_survives_saving_and_draws(name, tmp_path):
    pipeline = load_pipeline(name)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    pipeline.save_pretrained(tmp_path)
    again = type(pipeline).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    arguments = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
    if name in ("flux_mini", "sd3_mini"):
        arguments["max_sequence_length"] = T5_LENGTH
    if name == "qwen_mini":
        arguments["negative_prompt"] = " "
    images = [p(SENTENCE, generator=torch.Generator().manual_seed(0), **arguments).images for p in (pipeline, again)]
    assert images[0].shape == (1, 64, 64, 3)
    assert np.isfinite(images[0]).all()
    assert np.array_equal(*images)


BAR = {1: 0.85, 2: 0.7}  # share of held-out prompts for so many shapes that are drawn as they ask, at least


@pytest.mark.matrix
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_pipeline_draws_what_held_out_prompts_ask_for(name, tmp_path):
    """The bar is for any number of prompts; of so few, weights at the bar would have fewer right in 1 of 100 draws."""
    num_prompts = 32
    figures = evaluate(name, num_prompts, tmp_path / "sheet.png")
    num_shapes = [len(parse(prompt).shapes) for prompt in prompts("heldout", num_prompts, seed=1)]
    for number, share in ((1, figures["one"]), (2, figures["two"])):
        asked = num_shapes.count(number)
        assert round(share * asked) >= binom.ppf(0.01, asked, BAR[number])


def test_the_shipped_autoencoder_gives_codes_and_brings_pixels_back():
    vae = load_pipeline("sd15_mini").vae
    assert vae.config.scaling_factor == build_autoencoder().config.scaling_factor == SCALING_FACTOR
    rendered = np.stack([render(*scene_at(index)) for index in range(16)])
    pixels = torch.from_numpy(rendered).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        decoded = vae.decode(latents).sample
    assert (latents * SCALING_FACTOR - code(pixels)).square().mean() < 0.05
    assert (decoded - pixels).abs().mean() < 0.08


@pytest.mark.parametrize("name", CLIPS)
def test_a_shipped_reward_prefers_the_right_picture(name):
    clip, tokenizer = load_clip(name)
    assert clip.config.text_config.eos_token_id == tokenizer.eos_token_id
    rng = np.random.default_rng(0)
    asked = [parse(prompt) for prompt in prompts("heldout", 24, seed=0)]
    pairs = [
        render(scene_for(demand, "flat", rng), rng) for prompt in asked for demand in (prompt, with_fault(prompt, rng))
    ]
    pixels = normalise(torch.from_numpy(np.stack(pairs)).permute(0, 3, 1, 2).float() / 127.5 - 1.0)
    ids = tokenizer([str(demand) for demand in asked], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        texts = clip.get_text_features(input_ids=ids).pooler_output
        images = F.normalize(clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1).unflatten(0, (24, 2))
    right, wrong = torch.einsum("nkd,nd->kn", images, texts)
    assert (right > wrong).float().mean() > 0.6  # 0.77 over many pairs


def test_an_unknown_name_is_answered_with_those_that_exist():
    with pytest.raises(UserError, match="flux_mini, qwen_mini, sd15_mini, sd3_mini, sdxl_mini"):
        load_pipeline("sd16_mini")
    with pytest.raises(UserError, match="restore it from the repository"):
        load_clip("shapes_clip", folder=Path("/nonexistent"))


def test_tokenizer_configurations_are_shipped_as_built(clip_tokenizer, t5_tokenizer):
    for tokenizer, folder in ((clip_tokenizer, "tokenizer"), (t5_tokenizer, "tokenizer_2")):
        shipped = json.loads((FOLDER / folder / "tokenizer.json").read_text())
        vocabulary = shipped["model"]["vocab"]
        assert len(vocabulary) == len(tokenizer)
