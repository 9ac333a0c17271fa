"""A folder of a tiny CLIP-FlanT5 with random weights, in the layout of the published one."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, T5Config, T5ForConditionalGeneration

from tests.evaluators.conftest import randomise

VISION: dict[str, Any] = {
    "image_size": 28, "patch_size": 14, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "model_type": "clip_t5", "architectures": ["CLIPT5ForConditionalGeneration"], "d_model": 24, "d_kv": 8, "d_ff": 32,
    "num_layers": 2, "num_decoder_layers": 2, "num_heads": 3, "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.1, "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0,
    "eos_token_id": 1, "mm_hidden_size": 16, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch", "mm_vision_tower": "openai/clip-vit-large-patch14-336",
}  # fmt: skip
LETTERS = [*"abcdefghijklmnopqrstuvwxyzACDEHNRSTUY.,?:'\"{}<>/-_"]
WORDS = [
    "Yes",
    "No",
    "USER",
    "ASSISTANT",
    "Does",
    "this",
    "figure",
    "show",
    "please",
    "answer",
    "yes",
    "or",
    "no",
    "cat",
]


def write_tiny_tokenizer(folder: Path) -> int:
    """Write tokenizer.json of the kind of T5's; return the number of its tokens."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS, *(f"\u2581{word}" for word in WORDS)]
    vocabulary = [(piece, 0.0 if number < 3 else -1.0 - number / 10) for number, piece in enumerate(pieces)]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_tiny_flant5(folder: Path, seed: int = 0, shards: str = "bin") -> None:
    """Write config.json, weights and tokenizer.json.

    Args:
        folder: where to; made here.
        seed: of the weights.
        shards: `bin` for two files of torch with their index, as published; `safetensors` for one file.
    """
    folder.mkdir(parents=True)
    size = write_tiny_tokenizer(folder) + 4  # published tables have spare rows, too
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": size}))
    tensors = published_tensors(size, seed)
    if shards == "safetensors":
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
        return
    names = sorted(tensors)
    index = {}
    for number, some in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: tensors[name] for name in some}, folder / file)
        index |= dict.fromkeys(some, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def published_tensors(size: int, seed: int) -> dict[str, torch.Tensor]:
    """Return random tensors under the names of the published checkpoint, the table of words under all of its four."""
    torch.manual_seed(seed)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).vision_model
    flan = T5ForConditionalGeneration(T5Config(**t5_values(), vocab_size=size))
    flan.lm_head.weight = torch.nn.Parameter(torch.empty_like(flan.lm_head.weight))
    projector = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.GELU(), torch.nn.Linear(24, 24))
    for number, module in enumerate((tower, flan, projector)):
        randomise(module, seed=3 * seed + number)
    found = dict(flan.state_dict()) | {"embed_tokens.weight": flan.shared.weight.data}
    found |= dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), flan.shared.weight.data)
    found |= {f"mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    found |= {f"vision_tower.vision_tower.vision_model.{name}": tensor for name, tensor in tower.state_dict().items()}
    positions = torch.arange((VISION["image_size"] // VISION["patch_size"]) ** 2 + 1)[None]
    return found | {"vision_tower.vision_tower.vision_model.embeddings.position_ids": positions}


def t5_values() -> dict[str, Any]:
    """Return the entries of config.json that are Flan-T5's."""
    others = ("model_type", "architectures")
    return {name: value for name, value in CONFIG.items() if not name.startswith("mm_") and name not in others}
