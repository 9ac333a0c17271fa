"""Write the shipped weights: averages in half precision, where `alignbench.miniature.weights` reads them."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from alignbench.files import replacing_folder, write_json
from alignbench.miniature.pretrain.autoencoder import build_autoencoder, build_qwen_autoencoder
from alignbench.miniature.pretrain.denoisers import (
    build_flux,
    build_flux_scheduler,
    build_qwen,
    build_qwen_scheduler,
    build_sd3,
    build_sd3_scheduler,
    build_sd15,
    build_sd15_scheduler,
    build_sdxl,
    build_sdxl_scheduler,
)
from alignbench.miniature.pretrain.loop import load_average
from alignbench.miniature.pretrain.matching import (
    MatchingTraining,
    architecture_for,
    build_matching,
    build_tokenizer,
)


def export(work: Path, target: Path) -> None:
    """Write the latest checkpoint of every network in the work folder to `target`, replacing the one there.

    FLUX is taken from its guidance stage if that has begun, otherwise from its first stage.
    """
    for stage, tokenizer_class, folder in (
        ("tokenizer", CLIPTokenizer, "tokenizer"),
        ("tokenizer_2", T5Tokenizer, "tokenizer_2"),
        ("qwen_tokenizer", Qwen2Tokenizer, "qwen_mini/tokenizer"),
    ):
        if (work / stage).exists():
            tokenizer_class.from_pretrained(work / stage).save_pretrained(target / folder)
    for stage, build, folder in (
        ("vae", build_autoencoder, "vae"),
        ("qwen_vae", build_qwen_autoencoder, "qwen_mini/vae"),
    ):
        if (work / stage / "state.pt").exists():
            vae = build()
            print(f"export: {stage} after {load_average(vae, work / stage)} updates")
            _save(vae, target / folder)
    for stage, encoder_class, folder in (
        ("text_encoder", CLIPTextModel, "text_encoder"),
        ("text_encoder_2", T5EncoderModel, "text_encoder_2"),
        ("qwen_text", Qwen2_5_VLForConditionalGeneration, "qwen_mini/text_encoder"),
    ):
        if (work / stage / "model").exists():
            _save(encoder_class.from_pretrained(work / stage / "model", dtype=torch.float32), target / folder)
    for name, component, build, build_scheduler in (
        ("flux_mini", "transformer", build_flux, build_flux_scheduler),
        ("sd15_mini", "unet", build_sd15, build_sd15_scheduler),
        ("sdxl_mini", "unet", build_sdxl, build_sdxl_scheduler),
        ("sd3_mini", "transformer", build_sd3, build_sd3_scheduler),
        ("qwen_mini", "transformer", build_qwen, build_qwen_scheduler),
    ):
        stages = [folder for folder in (work / f"{name}_guidance", work / name) if (folder / "state.pt").exists()]
        if stages:
            denoiser = build()
            print(f"export: {name} after {load_average(denoiser, stages[0])} updates of {stages[0].name}")
            _save(denoiser, target / name / component)
            build_scheduler().save_pretrained(target / name / "scheduler")
    for name in ("shapes_clip", "shapes_preference"):
        if (work / name / "model").exists():
            _save(CLIPModel.from_pretrained(work / name / "model"), target / name)
    if (work / "shapes_matching/state.pt").exists():
        export_matching(work / "shapes_matching", target / "shapes_matching")


def export_matching(stage: Path, target: Path) -> None:
    """Write the network that `evaluators.shapes_matching` reads, without the heads that only training uses."""
    tokenizer = build_tokenizer(stage / "vocabulary.txt")
    training = MatchingTraining(build_matching(tokenizer))
    print(f"export: shapes_matching after {load_average(training, stage)} updates")
    weights = {name: tensor.contiguous() for name, tensor in training.network.half().state_dict().items()}
    with replacing_folder(target) as unfinished:
        save_file(weights, unfinished / "model.safetensors")
        write_json(unfinished / "config.json", architecture_for(tokenizer))
        shutil.copyfile(stage / "vocabulary.txt", unfinished / "vocabulary.txt")


def _save(network: torch.nn.Module, folder: Path) -> None:
    """Save a network in half precision; the folder is replaced as a whole."""
    partial = folder.with_name(folder.name + ".partial")
    network.half().to(memory_format=torch.contiguous_format).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
