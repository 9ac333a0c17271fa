"""A folder of a tiny Qwen2.5-VL with random weights, as from_pretrained reads it."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from alignbench.calibrate.official import write_qwen2_vl
from evaluators.networks.chat_model import ChatModel

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "tie_word_embeddings": False, "initializer_range": 0.3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}  # fmt: skip
VISION = {
    "depth": 1, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 14,
    "fullatt_block_indexes": [0], "window_size": 112, "initializer_range": 0.3,
}  # fmt: skip


def write_tiny_qwen(
    folder: Path, text: str, likeliest: Sequence[str] = (), message: Sequence[str | None] = (None, "a cat")
) -> None:
    """Write model, processor and tokenizer; the same text gives the same weights.

    Args:
        folder: where to; made here.
        text: whose words are single tokens, with and without a blank before them.
        likeliest: tokens that the answer to a message is made to begin with.
        message: its parts; None for an image.
    """
    write_qwen2_vl(folder, {}, text)
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    processor = {"processor_class": "Qwen2_5_VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor | processor))
    (folder / "config.json").unlink()
    ids = {one["content"]: one["id"] for one in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"vocab_size": max(ids.values()) + 1},
        vision_config=VISION,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    network = Qwen2_5_VLForConditionalGeneration(config)
    network.save_pretrained(folder)
    if likeliest:
        model = ChatModel(str(folder), None, "float32")
        inputs = model.inputs([message], [[noise(8 + number) for number in range(message.count(None))]])
        with torch.no_grad():  # their rows point to the state of the last token
            state = network.model(**inputs).last_hidden_state[0, -1]
            for token in likeliest:
                network.lm_head.weight[model.first_token(token)] += state
        network.save_pretrained(folder)


def noise(seed: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    """Return a picture of uniform noise."""
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (*size[::-1], 3), generator=generator, dtype=torch.uint8).numpy())
