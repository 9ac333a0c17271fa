"""What the tests of published evaluators share: tiny checkpoints in the published layouts, and pictures with detail."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from alignbench.scoring.calibration import IMAGES

TINY = {  # an open_clip configuration
    "embed_dim": 16,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "head_width": 16, "patch_size": 56},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TINY_QUICK = TINY | {"quick_gelu": True}  # OpenAI's activation


@pytest.fixture(scope="session")
def architecture() -> dict[str, Any]:
    """A tiny architecture, laid out as open_clip's model configurations."""
    return TINY


def randomise(module: nn.Module, seed: int) -> None:
    """Move all parameters away from their initial values, so that outputs differ between inputs."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name != "logit_scale":
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            shift = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.data = shift + scale * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="session")
def tiny_open_clip() -> nn.Module:
    """A random OpenCLIP network of the architecture TINY."""
    from open_clip import CLIP

    network = CLIP(**TINY).eval()
    randomise(network, seed=0)
    return network.half().float()  # HPSv2 is published in half precision


@pytest.fixture(scope="session")
def tiny_openai_clip() -> nn.Module:
    """A random CLIP of transformers with OpenAI's activation, of the architecture TINY_QUICK."""
    from transformers import CLIPModel

    from evaluators.networks.clip import clip_config

    network = CLIPModel(clip_config(TINY_QUICK)).eval()
    randomise(network, seed=1)
    return network


@pytest.fixture(scope="session")
def tiny_pickscore() -> nn.Module:
    """A random CLIP of transformers with exact GELU, of the architecture TINY."""
    from transformers import CLIPModel

    from evaluators.networks.clip import clip_config

    network = CLIPModel(clip_config(TINY)).eval()
    randomise(network, seed=2)
    return network


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    """CLIP's tokenizer as transformers saves it."""
    from benchmarks.scorer_weights import write_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory, tiny_open_clip, tiny_openai_clip, tiny_pickscore) -> dict[str, str]:
    """A folder an evaluator, with tiny weights under the published file name and in its layout."""
    root = tmp_path_factory.mktemp("weights")
    names = ("pickscore", "hpsv2_0", "hpsv2_1", "clip_score", "clip_score_l14")
    for name in names:
        (root / name).mkdir()
    open_clip_weights = tiny_open_clip.state_dict()
    half = {key: tensor.half() for key, tensor in open_clip_weights.items()}
    torch.save({"state_dict": half}, root / "hpsv2_0" / "HPS_v2_compressed.pt")
    torch.save({"state_dict": half}, root / "hpsv2_1" / "HPS_v2.1_compressed.pt")
    torch.save(open_clip_weights, root / "clip_score" / "open_clip_pytorch_model.bin")
    tiny_pickscore.save_pretrained(root / "pickscore")
    tiny_openai_clip.save_pretrained(root / "clip_score_l14")
    return {name: str(root / name) for name in names}


@pytest.fixture(scope="session")
def photos() -> Callable[[int, int], list[Image.Image]]:
    """Pictures with detail at every scale, as photographs have: number, side -> pictures."""

    @cache
    def make(number: int, side: int) -> list[Image.Image]:
        rng = np.random.default_rng(side)
        sizes = [size for size in (8, 32, 128) if size < side]
        detail = torch.zeros(number, 3, side, side)
        for size in [*sizes, side]:
            noise = torch.from_numpy(rng.normal(size=(number, 3, size, size)).astype(np.float32))
            detail += F.interpolate(noise, size=(side, side), mode="bicubic") / size**0.5
        values = (detail / detail.std() * 0.25 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray((value * 255).astype(np.uint8)) for value in values]

    return make


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """The photographs that evaluators are calibrated with: what the training path is held to the published one on."""
    samples = json.loads((IMAGES / "samples.json").read_text())["photos"]
    return [Image.open(IMAGES / sample["file"]).convert("RGB") for sample in samples]


@pytest.fixture(scope="session")
def pixels_of() -> Callable[[list[Image.Image]], Tensor]:
    """Pictures of one size as pixels [N, 3, H, W] in 0..1."""

    def convert(images: list[Image.Image]) -> Tensor:
        return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0 for image in images])

    return convert


@pytest.fixture(scope="session")
def flant5(tmp_path_factory) -> Path:
    """A folder of a tiny CLIP-FlanT5 with its tokenizer."""
    from tests.evaluators.tiny_flant5 import write_tiny_flant5  # it imports this module

    folder = tmp_path_factory.mktemp("flant5") / "clip-flant5"
    write_tiny_flant5(folder)
    return folder
