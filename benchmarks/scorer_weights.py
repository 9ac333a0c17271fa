"""Random weights of the published scorers, in the sizes, layouts and files in which the real ones are published."""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from open_clip import CLIP, get_model_config
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from alignbench.calibrate.__main__ import OFFICIAL
from alignbench.calibrate.official import random_weights
from alignbench.configuration.build import conf_folder
from alignbench.evaluator import Reward
from evaluators.image_reward import RENAMED, ImageRewardNetwork
from evaluators.networks.clip import clip_config

SMALL_CLIP = OFFICIAL["hpsv2"].reduced["architecture"]
SMALL_BLIP = OFFICIAL["image_reward"].reduced
# CLIP's tokens that begin and end a prompt, in OpenCLIP and in transformers
RENAMED_TOKENS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}


@dataclass(frozen=True)
class Scorer:
    """What it takes to make up an evaluator's weights.

    Attributes:
        file: the name it is published under.
        architecture, reduced: arguments of the evaluator for the published architecture, and for a small one.
        weights: makes the content of the file.
    """

    file: str
    architecture: Mapping[str, Any]
    reduced: Mapping[str, Any]
    weights: Callable[..., dict[str, Tensor]]


def _open_clip(seed: int, architecture: str | Mapping[str, Any], half: bool = False) -> dict[str, Tensor]:
    """Return weights in the layout of OpenCLIP."""
    config = get_model_config(architecture) if isinstance(architecture, str) else dict(architecture)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CLIP(**(config or {})).state_dict().items()}
    weights = random_weights(shapes, seed) | {"logit_scale": torch.tensor(100.0).log()}
    return {name: tensor.half() for name, tensor in weights.items()} if half else weights


def _transformers(seed: int, architecture: str | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights in the layout of transformers."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CLIPModel(clip_config(architecture)).state_dict().items()}
    return random_weights(shapes, seed) | {"logit_scale": torch.tensor(100.0).log()}


def image_reward_weights(seed: int, **architecture: Any) -> dict[str, Tensor]:
    """Return weights in the layout of ImageReward.pt."""
    architecture = {"vision": {}, "text": {}} | architecture
    with torch.device("meta"):
        ours = ImageRewardNetwork(**architecture).state_dict()
    shapes = {_published(name): value.shape for name, value in ours.items()}
    unused = {}
    for tower, last in (("vision", "blip.visual_encoder.norm"), ("text", "blip.text_encoder.embeddings.LayerNorm")):
        projection, width = f"blip.{tower}_proj", shapes[f"{last}.weight"][0]
        unused |= {f"{projection}.weight": (256, width), f"{projection}.bias": (256,)}
    positions = {"blip.text_encoder.embeddings.position_ids": torch.arange(512)[None]}
    return positions | random_weights(shapes | unused, seed)


def _published(name: str) -> str:
    """Return the name of a parameter of ours in ImageReward.pt."""
    for published, here in RENAMED.items():
        name = name.replace(here, published)
    return name


SCORERS = {
    "pickscore": Scorer("model.safetensors", {"architecture": "ViT-H-14"}, {"architecture": SMALL_CLIP}, _transformers),
    "hpsv2_1": Scorer(
        "HPS_v2.1_compressed.pt", {"architecture": "ViT-H-14"}, {"architecture": SMALL_CLIP},
        partial(_open_clip, half=True),
    ),
    "image_reward": Scorer("ImageReward.pt", {}, SMALL_BLIP, image_reward_weights),
    # the shipped head fits projections of 768 numbers
    "aesthetic": Scorer(
        "model.safetensors", {"architecture": "ViT-L-14-quickgelu"},
        {"architecture": SMALL_CLIP | {"quick_gelu": True, "embed_dim": 768}}, _transformers,
    ),
    "clip_score": Scorer(
        "open_clip_pytorch_model.bin", {"architecture": "ViT-H-14"}, {"architecture": SMALL_CLIP}, _open_clip
    ),
}  # fmt: skip


def weights_file(folder: Path, name: str, reduced: bool) -> Path:
    """Return where an evaluator's weights are, or will be."""
    return Path(folder).resolve() / ("reduced" if reduced else "published") / name / SCORERS[name].file


def write_weights(folder: Path, name: str, reduced: bool = False) -> bool:
    """Write weights of an evaluator, and of PickScore the tokenizer; return False if they are there already."""
    scorer, file = SCORERS[name], weights_file(folder, name, reduced)
    if file.exists():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    if name == "pickscore":
        write_tokenizer(file.parent)
    weights = scorer.weights(list(SCORERS).index(name), **(scorer.reduced if reduced else scorer.architecture))
    temporary = file.with_name(f".{file.name}")
    if file.suffix == ".safetensors":
        save_file(weights, temporary)
    else:  # HPSv2's file holds them in an entry of a training checkpoint
        torch.save({"state_dict": weights} if name.startswith("hpsv2") else weights, temporary)
    temporary.replace(file)
    return True


def make_evaluator(folder: Path, name: str, reduced: bool, **values: Any) -> Reward:
    """Return an evaluator on the weights that `write_weights` has written."""
    scorer, source = SCORERS[name], str(weights_file(folder, name, reduced).parent)
    arguments: dict[str, Any] = {"source": source, **(scorer.reduced if reduced else scorer.architecture)}
    if name == "pickscore":
        arguments["tokenizer"] = source
    config = OmegaConf.load(conf_folder() / "evaluator" / f"{name}.yaml")
    return instantiate(config, **(arguments | values))


def write_tokenizer(folder: Path) -> None:
    """Write CLIP's tokenizer as transformers saves it, made of the merges that OpenCLIP ships."""
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    vocabulary = {RENAMED_TOKENS.get(token, token): number for token, number in SimpleTokenizer().encoder.items()}
    pairs: Any = [tuple(merge.split()) for merge in merges]
    CLIPTokenizer(vocabulary, pairs).save_pretrained(folder)
