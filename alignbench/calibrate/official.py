"""Score images by the official packages: the program that runs inside an isolated environment.

`python official.py JOB` reads a job (JSON) and writes official.json beside it. The package is used as it is installed;
what it would fetch from the hub is laid out beside the job, where it looks first. Imports nothing of alignbench.
"""

import importlib
import json
import shutil
import sys
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def random_weights(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Return random parameters, float32, that depend on seed, name and shape alone.

    Matrices keep the size of what they multiply and norms stay near one, so that scores differ between images; what
    tokens start as is small, so that the epsilon of the first norm counts. The draws come from numpy's RandomState,
    whose numbers are frozen for good.
    """
    weights = {}
    for name, shape in shapes.items():
        draws = np.random.RandomState([seed, zlib.crc32(name.encode())]).random_sample(tuple(shape))
        values = np.asarray(2.0 * draws - 1.0)
        if len(shape) in (2, 4):
            values *= (3.0 / np.prod(shape[1:])) ** 0.5
        elif len(shape) == 1 and name.endswith("weight"):
            values = 1.0 + 0.1 * values
        else:
            values *= 0.1
        if len(shape) > 2 or "patch" in name:
            values *= 0.1
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def image_reward(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Score by `ImageReward.load` and `ImageReward.score`; also return the token ids of each prompt."""
    package = importlib.import_module("ImageReward")
    module = importlib.import_module("ImageReward.ImageReward")
    blip, vit = (importlib.import_module(f"ImageReward.models.BLIP.{name}") for name in ("blip_pretrain", "vit"))

    tokenizer = folder / "bert-base-uncased"
    tokenizer.mkdir()
    shutil.copyfile(job["vocabulary"], tokenizer / "vocab.txt")
    (tokenizer / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    bert = {
        "model_type": "bert", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "vocab_size": 30524, "max_position_embeddings": 512, "type_vocab_size": 2,
        "pad_token_id": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "add_cross_attention": True,
    }  # fmt: skip
    config = folder / "med_config.json"

    if job["architecture"]:  # the package fixes the size of the vision tower and of the head's input
        vision, text = job["architecture"]["vision"], job["architecture"]["text"]
        bert |= text
        head = module.MLP
        tower = vit.VisionTransformer(
            embed_dim=vision["hidden_size"],
            depth=vision["num_hidden_layers"],
            num_heads=vision["num_attention_heads"],
            mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
        )
        vars(blip)["create_vit"] = lambda *_: (tower, vision["hidden_size"])
        vars(module)["MLP"] = lambda _: head(text["hidden_size"])

    config.write_text(json.dumps(bert))
    weights = job["weights"]
    if weights is None:
        model = module.ImageReward(med_config=str(config), device="cpu")
        weights = str(folder / "ImageReward.pt")
        torch.save(_randomised(model, job["seed"]), weights)

    model = package.load(weights, device="cpu", med_config=str(config))
    scores, ids = [], []
    for name, prompt in zip(job["images"], job["prompts"], strict=True):
        with Image.open(folder / name) as picture, torch.no_grad():
            scores.append(model.score(prompt, picture))
        ids.append(model.blip.tokenizer(prompt, padding="max_length", truncation=True, max_length=35).input_ids)
    return {"weights": weights, "scores": scores, "token_ids": ids}


def hpsv2(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Score by `hpsv2.img_score.score` with the checkpoint given; on the CPU it computes in float32."""
    # the package lacks its vocabulary, which is the same file in open_clip
    vocabulary = Path("bpe_simple_vocab_16e6.txt.gz")
    shutil.copyfile(_folder_of("open_clip") / vocabulary, _folder_of("hpsv2") / "src" / "open_clip" / vocabulary)
    # and imports a name that it does not use from a module that needs a window system
    sys.modules["turtle"] = ModuleType("turtle")
    vars(sys.modules["turtle"])["forward"] = None
    scoring = importlib.import_module("hpsv2.img_score")
    factory = importlib.import_module("hpsv2.src.open_clip.factory")

    name = "ViT-H-14"
    if job["architecture"]:
        name = "reduced"
        (folder / f"{name}.json").write_text(json.dumps(job["architecture"]["architecture"]))
        factory.add_model_config(folder / f"{name}.json")
    # as the package makes it, but for the weights that it fetches before it takes those of the checkpoint
    model, _, preprocess = factory.create_model_and_transforms(
        name, precision="amp", device="cpu", light_augmentation=True, output_dict=True
    )
    scoring.model_dict.update(model=model, preprocess_val=preprocess)

    weights = job["weights"]
    if weights is None:
        weights = str(folder / "HPS_v2.1_compressed.pt")
        torch.save({"state_dict": _randomised(model, job["seed"])}, weights)
    scores = []
    for name, prompt in zip(job["images"], job["prompts"], strict=True):
        with Image.open(folder / name) as picture:  # more than three channels would stop the package
            scores.append(float(scoring.score(picture.convert("RGB"), prompt, cp=weights, hps_version="v2.1")[0]))
    return {"weights": weights, "scores": scores}


def _randomised(model: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    state = model.state_dict()
    return state | random_weights(
        {name: value.shape for name, value in state.items() if value.is_floating_point()}, seed
    )


def _folder_of(package: str) -> Path:
    """Return where a package is installed, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {package} is not installed here")
    return Path(spec.origin).parent


def main() -> None:
    """Run the job named on the command line."""
    path = Path(sys.argv[1]).resolve()
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    result = {"image_reward": image_reward, "hpsv2": hpsv2}[job["official"]](job, path.parent)
    result["packages"] = {name: version(name) for name in job["packages"]}
    (path.parent / "official.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
