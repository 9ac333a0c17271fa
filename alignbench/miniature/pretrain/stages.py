"""The stages of pretraining, and what each reads from the work folder and writes to it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alignbench.miniature.pretrain.data import load_data, render_data
from alignbench.miniature.pretrain.loop import Plan, load_average


def _plan(plan: Plan, updates: int | None) -> Plan:
    return plan if updates is None else replace(plan, num_updates=updates)


def make_data(work: Path, updates: int | None) -> None:
    render_data(work / "data")


def make_tokenizers(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.tokenizers import build_clip_tokenizer, build_qwen_tokenizer, build_t5_tokenizer

    build_clip_tokenizer().save_pretrained(work / "tokenizer")
    build_t5_tokenizer().save_pretrained(work / "tokenizer_2")
    build_qwen_tokenizer().save_pretrained(work / "qwen_tokenizer")


def make_vae(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.autoencoder import PLAN, train_autoencoder

    train_autoencoder(load_data(work / "data"), work / "vae", _plan(PLAN, updates)).save_pretrained(work / "vae/model")


def make_qwen_vae(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.autoencoder import QWEN_PLAN, train_qwen_autoencoder

    train_qwen_autoencoder(load_data(work / "data"), work / "qwen_vae", _plan(QWEN_PLAN, updates))


def make_text(work: Path, updates: int | None) -> None:
    from transformers import CLIPTokenizer, T5Tokenizer

    from alignbench.miniature.pretrain.text_encoders import (
        PLAN,
        build_clip_text_encoder,
        build_t5_encoder,
        train_text_encoder,
    )

    data, plan = load_data(work / "data"), _plan(PLAN, updates)
    for name, tokenizer_class, folder, build in (
        ("text_encoder", CLIPTokenizer, "tokenizer", build_clip_text_encoder),
        ("text_encoder_2", T5Tokenizer, "tokenizer_2", build_t5_encoder),
    ):
        tokenizer = tokenizer_class.from_pretrained(work / folder)
        encoder = train_text_encoder(build(tokenizer), tokenizer, data, work / name, name, plan)
        encoder.save_pretrained(work / name / "model")


def make_qwen_text(work: Path, updates: int | None) -> None:
    from transformers import Qwen2Tokenizer

    from alignbench.miniature.pretrain.text_encoders import QWEN_PLAN, build_qwen_text_encoder, train_text_encoder

    tokenizer = Qwen2Tokenizer.from_pretrained(work / "qwen_tokenizer")
    torch.manual_seed(8)
    encoder, data = build_qwen_text_encoder(tokenizer), load_data(work / "data")
    train_text_encoder(encoder, tokenizer, data, work / "qwen_text", "qwen_text", _plan(QWEN_PLAN, updates))
    encoder.save_pretrained(work / "qwen_text/model")


def make_latents(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.latents import encode_scenes

    encode_scenes(load_data(work / "data"), work / "latents.npy")


def _text_components(work: Path):
    """Return the tokenizers, and the text encoders of this work folder or, if it has none, the shipped ones."""
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    from alignbench.miniature.weights import FOLDER

    tokenizers = [CLIPTokenizer.from_pretrained(work / "tokenizer"), T5Tokenizer.from_pretrained(work / "tokenizer_2")]
    folders = [
        own if (own := work / name / "model").exists() else FOLDER / name for name in ("text_encoder", "text_encoder_2")
    ]
    clip = CLIPTextModel.from_pretrained(folders[0], dtype=torch.float32)
    t5 = T5EncoderModel.from_pretrained(folders[1], dtype=torch.float32)
    return tokenizers, clip, t5


def make_flux_mini(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.denoisers import FLUX_PLAN, FluxDenoiser, build_flux, train_flux
    from alignbench.miniature.pretrain.latents import load_latents

    tokenizers, clip, t5 = _text_components(work)
    data = load_latents(work / "latents.npy", load_data(work / "data"), tokenizers)
    torch.manual_seed(1)
    transformer = build_flux()
    transformer.compile()  # 1.4 times as fast on a CPU
    train_flux(transformer, FluxDenoiser(clip, t5), data, work / "flux_mini", _plan(FLUX_PLAN, updates))


def make_flux_mini_guidance(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.denoisers import GUIDANCE_PLAN, FluxDenoiser, build_flux, distil_guidance
    from alignbench.miniature.pretrain.latents import load_latents

    tokenizers, clip, t5 = _text_components(work)
    data = load_latents(work / "latents.npy", load_data(work / "data"), tokenizers)
    teacher, student = build_flux(), build_flux()
    load_average(teacher, work / "flux_mini")
    load_average(student, work / "flux_mini")
    teacher.compile()
    student.compile()
    plan = _plan(GUIDANCE_PLAN, updates)
    distil_guidance(student, teacher, FluxDenoiser(clip, t5), data, work / "flux_mini_guidance", plan)


def make_sd15_mini(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.denoisers import SD15_PLAN, build_sd15, train_sd15
    from alignbench.miniature.pretrain.latents import load_latents

    tokenizers, clip, _ = _text_components(work)
    data = load_latents(work / "latents.npy", load_data(work / "data"), tokenizers[:1])
    torch.manual_seed(3)
    unet = build_sd15()
    unet.compile()
    train_sd15(unet, clip, data, work / "sd15_mini", _plan(SD15_PLAN, updates))


def _trained(network: Any, stage: Path, shipped: Path) -> Any:
    """Return a network with the weights of an earlier stage or, if that stage was not run, with the shipped weights."""
    if (stage / "state.pt").exists():
        load_average(network, stage)
        return network
    return type(network).from_pretrained(shipped, torch_dtype=torch.float32)


def make_sdxl_mini(work: Path, updates: int | None) -> None:

    from alignbench.miniature.pretrain.denoisers import SDXL_PLAN, build_sd15, build_sdxl, train_sdxl
    from alignbench.miniature.pretrain.latents import load_latents
    from alignbench.miniature.pretrain.warm_start import sdxl_from_sd15
    from alignbench.miniature.weights import FOLDER, with_projection

    tokenizers, clip, _ = _text_components(work)
    data, clip = load_latents(work / "latents.npy", load_data(work / "data"), tokenizers[:1]), with_projection(clip)
    sd15 = _trained(build_sd15(), work / "sd15_mini", FOLDER / "sd15_mini/unet")
    torch.manual_seed(4)
    unet = build_sdxl()
    sdxl_from_sd15(unet, sd15, clip, data.ids[0][:1024].long().split(64))
    unet.compile()
    train_sdxl(unet, clip, data, work / "sdxl_mini", _plan(SDXL_PLAN, updates))


def make_sd3_mini(work: Path, updates: int | None) -> None:

    from alignbench.miniature.pretrain.denoisers import SD3_PLAN, build_flux, build_sd3, train_sd3
    from alignbench.miniature.pretrain.latents import load_latents
    from alignbench.miniature.pretrain.warm_start import sd3_from_flux
    from alignbench.miniature.weights import FOLDER, with_projection

    tokenizers, clip, t5 = _text_components(work)
    data = load_latents(work / "latents.npy", load_data(work / "data"), tokenizers)
    flux = _trained(build_flux(), work / "flux_mini_guidance", FOLDER / "flux_mini/transformer")
    torch.manual_seed(6)
    transformer = build_sd3()
    sd3_from_flux(transformer, flux)
    transformer.compile()
    train_sd3(transformer, with_projection(clip), t5, data, work / "sd3_mini", _plan(SD3_PLAN, updates))


def make_qwen_mini(work: Path, updates: int | None) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

    from alignbench.miniature.pretrain.data import tokenise
    from alignbench.miniature.pretrain.denoisers import QWEN_PLAN, build_flux, build_qwen, train_qwen
    from alignbench.miniature.pretrain.latents import load_latents
    from alignbench.miniature.pretrain.text_encoders import chat_head, read_chats, same_in_t5
    from alignbench.miniature.pretrain.warm_start import qwen_from_flux
    from alignbench.miniature.weights import FOLDER

    tokenizers, clip, t5 = _text_components(work)
    tokenizer = Qwen2Tokenizer.from_pretrained(work / "qwen_tokenizer")
    own = work / "qwen_text/model"
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        own if own.exists() else FOLDER / "qwen_mini/text_encoder", dtype=torch.float32
    )
    data, head = load_latents(work / "latents.npy", load_data(work / "data"), [tokenizer]), chat_head(tokenizer)
    captions = [scene[0] for scene in data.scenes.captions[:1024]]
    rows, positions, t5_positions = torch.tensor(
        [(row, *pair) for row, caption in enumerate(captions) for pair in same_in_t5(caption)]
    ).T
    with torch.no_grad():
        pooled = clip(tokenise(captions, tokenizers[0])).pooler_output
        text = read_chats(encoder, head, tokenise(captions, tokenizer))[rows, positions]
        t5_text = t5(tokenise(captions, tokenizers[1])).last_hidden_state[rows, t5_positions]
    torch.manual_seed(10)
    transformer = build_qwen()
    flux = _trained(build_flux(), work / "flux_mini_guidance", FOLDER / "flux_mini/transformer")
    qwen_from_flux(transformer, flux, pooled, text, t5_text)
    transformer.compile()
    train_qwen(transformer, encoder, head, data, work / "qwen_mini", _plan(QWEN_PLAN, updates))


def make_shapes_clip(work: Path, updates: int | None) -> None:
    from transformers import CLIPTokenizer

    from alignbench.miniature.pretrain.rewards import CLIP_PLAN, build_clip, train_clip

    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    torch.manual_seed(5)
    clip, data = build_clip(tokenizer), load_data(work / "data")
    train_clip(clip, tokenizer, data, work / "shapes_clip", _plan(CLIP_PLAN, updates))
    clip.save_pretrained(work / "shapes_clip/model")


def make_shapes_preference(work: Path, updates: int | None) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    from alignbench.miniature.pretrain.rewards import PREFERENCE_PLAN, make_pairs, train_preference

    make_pairs(work / "pairs.npz")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    clip = CLIPModel.from_pretrained(work / "shapes_clip/model")
    train_preference(clip, tokenizer, work / "pairs.npz", work / "shapes_preference", _plan(PREFERENCE_PLAN, updates))
    clip.save_pretrained(work / "shapes_preference/model")


def make_shapes_matching(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.matching import PLAN, build_matching, build_tokenizer, train_matching
    from alignbench.miniature.pretrain.tokenizers import build_wordpiece_vocabulary

    folder = work / "shapes_matching"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocabulary.txt").write_text("".join(f"{piece}\n" for piece in build_wordpiece_vocabulary()))
    tokenizer = build_tokenizer(folder / "vocabulary.txt")
    torch.manual_seed(7)
    network = build_matching(tokenizer)
    network.vision.compile()
    network.text.compile(dynamic=True)
    train_matching(network, tokenizer, folder, _plan(PLAN, updates))


def make_export(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.export import export
    from alignbench.miniature.weights import FOLDER

    export(work, FOLDER)


def make_evaluation(work: Path, updates: int | None) -> None:
    from alignbench.miniature.pretrain.evaluate import evaluate_all

    evaluate_all(256, work)


STAGES = {
    "data": make_data,
    "tokenizers": make_tokenizers,
    "vae": make_vae,
    "qwen_vae": make_qwen_vae,
    "text": make_text,
    "qwen_text": make_qwen_text,
    "latents": make_latents,
    "flux_mini": make_flux_mini,
    "flux_mini_guidance": make_flux_mini_guidance,
    "sd15_mini": make_sd15_mini,
    "sdxl_mini": make_sdxl_mini,
    "sd3_mini": make_sd3_mini,
    "qwen_mini": make_qwen_mini,
    "shapes_clip": make_shapes_clip,
    "shapes_preference": make_shapes_preference,
    "shapes_matching": make_shapes_matching,
    "export": make_export,
    "evaluate": make_evaluation,
}
