"""Score images by the official packages: the program that runs inside an isolated environment.

`python official.py JOB` reads a job (JSON) and writes official.json beside it. The package is used as it is installed;
what it would fetch from the hub is laid out beside the job, where it looks first. Imports nothing of alignbench.
"""

import importlib
import json
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
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

    start = time.perf_counter()
    model = package.load(weights, device=_device(job), med_config=str(config))
    loading = time.perf_counter() - start
    scores, seconds, ids = [], [], []
    for name, prompt in zip(job["images"], job["prompts"], strict=True):
        start = time.perf_counter()
        with Image.open(folder / name) as picture, torch.no_grad():
            scores.append(model.score(prompt, picture))
        seconds.append(time.perf_counter() - start)
        ids.append(model.blip.tokenizer(prompt, padding="max_length", truncation=True, max_length=35).input_ids)
    times = {"loading": loading, "calls": seconds, "rereading": [0.0] * len(seconds)}
    return {"weights": weights, "scores": scores, "token_ids": ids, "seconds": times}


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
    start = time.perf_counter()
    model, _, preprocess = factory.create_model_and_transforms(
        name, precision="amp", device=_device(job), light_augmentation=True, output_dict=True
    )
    scoring.model_dict.update(model=model, preprocess_val=preprocess)
    loading = time.perf_counter() - start

    weights = job["weights"]
    if weights is None:
        weights = str(folder / "HPS_v2.1_compressed.pt")
        torch.save({"state_dict": _randomised(model, job["seed"])}, weights)
    reading: list[float] = []  # seconds of what every call begins with: reading the checkpoint, and copying it
    vars(model)["load_state_dict"] = _timed(model.load_state_dict, reading)
    vars(scoring)["torch"] = _Replaced(torch, load=_timed(torch.load, reading))
    scores, seconds, rereading = [], [], []
    for name, prompt in zip(job["images"], job["prompts"], strict=True):
        reading.clear()
        start = time.perf_counter()
        with Image.open(folder / name) as picture:  # more than three channels would stop the package
            scores.append(float(scoring.score(picture.convert("RGB"), prompt, cp=weights, hps_version="v2.1")[0]))
        rereading.append(sum(reading))
        seconds.append(time.perf_counter() - start - rereading[-1])
    times = {"loading": loading, "calls": seconds, "rereading": rereading}
    return {"weights": weights, "scores": scores, "seconds": times}


def hpsv3(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Score by `HPSv3RewardInferencer.reward`, all images in one batch; also return the ids of what follows the image.

    The package makes the network as it is configured, in bfloat16, and scores; then the same network scores in float32.
    Its bfloat16 scores are recorded beside.
    """
    inference = importlib.import_module("hpsv3.inference")
    instruction = importlib.import_module("hpsv3.dataset.data_collator_qwen").INSTRUCTION
    parser = importlib.import_module("hpsv3.utils.parser")
    omegaconf, transformers, safetensors = (
        importlib.import_module(name) for name in ("omegaconf", "transformers", "safetensors.torch")
    )

    settings = omegaconf.OmegaConf.load(_folder_of("hpsv3") / "config" / "HPSv3_7B.yaml")
    if job["architecture"]:
        base = folder / "base"
        write_qwen2_vl(base, job["architecture"], instruction)
        config = transformers.AutoConfig.from_pretrained(base)
        transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(base)  # to be overwritten
        settings.model_name_or_path = str(base)
    omegaconf.OmegaConf.save(settings, folder / "hpsv3.yaml")

    weights = job["weights"]
    if weights is None:
        weights = str(folder / "HPSv3.safetensors")
        classes = (parser.DataConfig, parser.TrainingConfig, parser.ModelConfig, parser.PEFTLoraConfig)
        (_, training, model, lora), _ = parser.parse_args_with_yaml(classes, str(folder / "hpsv3.yaml"), is_train=False)
        state = _randomised(inference.create_model_and_processor(model, lora, training)[0], job["seed"])
        safetensors.save_file({name: value.bfloat16().contiguous() for name, value in state.items()}, weights)
    official = inference.HPSv3RewardInferencer(str(folder / "hpsv3.yaml"), weights, device="cpu")

    # on CUDA its autocast region does this; elsewhere there is none
    official.model.rm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))

    images = [str(folder / name) for name in job["images"]]
    ids = [
        official.prepare_batch([image], [prompt]).input_ids[0].tolist()
        for image, prompt in zip(images, job["prompts"], strict=True)
    ]
    image_token, (reward_token,) = official.model.config.image_token_id, official.model.special_token_ids
    num_image_tokens = [row.count(image_token) for row in ids]
    starts = [row.index(image_token) for row in ids]
    with torch.no_grad():
        bfloat16 = official.reward(images, job["prompts"])[:, 0].tolist()
        official.model.float()
        scores = official.reward(images, job["prompts"])[:, 0].tolist()
    return {
        "weights": weights,
        "scores": scores,
        "token_ids": [
            row[start + num : row.index(reward_token) + 1]
            for row, start, num in zip(ids, starts, num_image_tokens, strict=True)
        ],
        "recorded": {
            "bfloat16": bfloat16, "num_image_tokens": num_image_tokens, "before_image": ids[0][: starts[0]],
        },
        "arguments": {"base": settings.model_name_or_path},
    }  # fmt: skip


QWEN2_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
# tokenizer.json of Qwen/Qwen2-VL-7B-Instruct: how text is cut before pairs are merged
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# chat_template.json of the same
QWEN2_VL_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_qwen2_vl(folder: Path, architecture: Mapping[str, Any], text: str) -> None:
    """Write what Qwen/Qwen2-VL-7B-Instruct has beside its weights, for a small network with a small vocabulary.

    Args:
        folder: where to; made here.
        architecture: values of config.json that differ, those of `vision_config` among them.
        text: whose words become single tokens; all others are read letter by letter.
    """
    folder.mkdir()
    # bytes as printable characters: those that are keep their place, the others follow Latin-1
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    words = ["".join(letters[byte] for byte in word.encode()) for word in sorted(set(re.findall(" ?[A-Za-z]+", text)))]
    merges = list(dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word))))
    vocabulary = list(dict.fromkeys([*letters.values(), *("".join(pair) for pair in merges)]))
    ids = {token: len(vocabulary) + number for number, token in enumerate(QWEN2_TOKENS)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": False}
    files: dict[str, Any] = {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": number, "content": token} | flags for token, number in ids.items()],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": byte_level,
            "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                "vocab": {token: number for number, token in enumerate(vocabulary)},
                "merges": [" ".join(pair) for pair in merges],
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>",
            "bos_token": None, "unk_token": None, "padding_side": "left", "model_max_length": 32768,
            "added_tokens_decoder": {str(number): {"content": token} | flags for token, number in ids.items()},
            "additional_special_tokens": QWEN2_TOKENS[1:],
        },
        "chat_template.json": {"chat_template": QWEN2_VL_CHAT},
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
            "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        "config.json": {
            "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
            "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
            "vision_token_id": ids["<|vision_pad|>"], "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"], "hidden_act": "silu", "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0, "max_position_embeddings": 32768, "sliding_window": 32768,
            "use_sliding_window": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "attention_dropout": 0.0, "vocab_size": len(vocabulary) + len(ids) + 7,  # spare rows, as published
            **architecture,
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def _randomised(model: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    state = model.state_dict()
    return state | random_weights(
        {name: value.shape for name, value in state.items() if value.is_floating_point()}, seed
    )


def _device(job: dict[str, Any]) -> str:
    return job.get("device", "cpu")


def _timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return the function, adding to a list how long each call takes."""

    def call(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments, **named)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        return result

    return call


class _Replaced:
    """A module some names of which mean something else."""

    def __init__(self, module: ModuleType, **replaced: Any) -> None:
        vars(self).update(replaced)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


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
    torch.set_num_threads(job.get("threads", 1))
    result = {"image_reward": image_reward, "hpsv2": hpsv2, "hpsv3": hpsv3}[job["official"]](job, path.parent)
    result["packages"] = {name: version(name) for name in job["packages"]}
    (path.parent / "official.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
