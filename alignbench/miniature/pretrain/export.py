"""Write what is shipped: averaged weights in half precision, where `alignbench.miniature.weights` reads them."""

import shutil
from pathlib import Path

import torch
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from alignbench.miniature.pretrain.autoencoder import build_autoencoder
from alignbench.miniature.pretrain.denoisers import (
    build_flux,
    build_flux_scheduler,
    build_sd15,
    build_sd15_scheduler,
)
from alignbench.miniature.pretrain.loop import load_average


def export(work: Path, target: Path) -> None:
    """Write every network that the work folder holds, from its latest checkpoint, over the one in `target`.

    FLUX comes from its guidance stage if that has begun, otherwise from its first stage.
    """
    CLIPTokenizer.from_pretrained(work / "tokenizer").save_pretrained(target / "tokenizer")
    T5Tokenizer.from_pretrained(work / "tokenizer_2").save_pretrained(target / "tokenizer_2")
    vae = build_autoencoder()
    print(f"export: vae after {load_average(vae, work / 'vae')} updates")
    _save(vae, target / "vae")
    _save(CLIPTextModel.from_pretrained(work / "text_encoder/model"), target / "text_encoder")
    _save(T5EncoderModel.from_pretrained(work / "text_encoder_2/model"), target / "text_encoder_2")
    stages = (work / "flux_mini_guidance", work / "flux_mini")
    flux = next((folder for folder in stages if (folder / "state.pt").exists()), None)
    if flux is not None:
        transformer = build_flux()
        print(f"export: flux_mini after {load_average(transformer, flux)} updates of {flux.name}")
        _save(transformer, target / "flux_mini/transformer")
        build_flux_scheduler().save_pretrained(target / "flux_mini/scheduler")
    if (work / "sd15_mini/state.pt").exists():
        unet = build_sd15()
        print(f"export: sd15_mini after {load_average(unet, work / 'sd15_mini')} updates")
        _save(unet, target / "sd15_mini/unet")
        build_sd15_scheduler().save_pretrained(target / "sd15_mini/scheduler")
    for name in ("shapes_clip", "shapes_preference"):
        if (work / name / "model").exists():
            _save(CLIPModel.from_pretrained(work / name / "model"), target / name)


def _save(network: torch.nn.Module, folder: Path) -> None:
    """Save a network in half precision; the folder is replaced as a whole."""
    partial = folder.with_name(folder.name + ".partial")
    network.half().to(memory_format=torch.contiguous_format).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
