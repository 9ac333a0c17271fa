"""HPSv3: a Qwen2-VL that reads image, instruction and prompt, trained on people's choices between images.

What the published code computes is kept, also where it differs from Qwen2-VL itself:

- Positions are 0, 1, 2, ... on all three rotary axes; image tokens get no rows and columns there.
- The network was trained with its rotary frequencies rounded to bfloat16, which turns late positions by whole radians.
  They are rounded here in every precision; in bfloat16 the angles of the image patches are rounded too.

Prompts are read whole, of any length. Tokens after the one that is scored are left out, which a causal network cannot
notice; nor can it notice padding.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding

from alignbench.errors import UserError
from alignbench.evaluator import Reward
from alignbench.files import file_digest
from alignbench.models.weights.state_dicts import read_state_dict
from alignbench.reading import read_json_object
from evaluators.networks.checkpoint import assign, bytes_on_meta, check_checkpoint, checkpoint_file
from evaluators.networks.clip import checkpoint_layers
from evaluators.networks.preprocess import QwenPixels

Precision = Literal["bfloat16", "float32"]  # in float16 Qwen2-VL overflows

FILE = "HPSv3.safetensors"
CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
AREA = 256 * 28 * 28  # pixels: HPSv3_7B.yaml, min_pixels and max_pixels
REWARD_TOKEN = "<|Reward|>"  # follows the last token of Qwen2-VL's tokenizer

# Qwen/Qwen2-VL-7B-Instruct, config.json, as far as it decides what the network weighs; and its tokens with the reward's
QWEN2_VL_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 151658, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": 3584},
}  # fmt: skip

# What Qwen2-VL's chat template puts around a user's message that begins with an image (chat_template.json).
BEFORE_IMAGE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
AFTER_IMAGE = "<|vision_end|>"
INSTRUCTION = Path(__file__).parent / "instructions" / "hpsv3.txt"

# Beginnings of a parameter's name in the published file, and here.
RENAMED = {"visual.": "trunk.visual.", "model.": "trunk.language_model.", "rm_head.": "head."}
UNUSED = {"lm_head.weight"}  # predicts the next token


class HPSv3(Reward):
    """How much people prefer the image for the prompt: mu, the mean of a normal law of preference.

    About 0 for early diffusion models, 8 to 11 for strong ones. The image is seen at about 448 x 448 pixels, in its own
    shape. About 12 TFLOP an image, forty times a CLIP ViT-H/14.

    A prompt that spells out a special token of Qwen2-VL has it read as that token, as in the published code. Two such
    cases, in which that code fails or scores the prompt's own token, are scored here: `<|image_pad|>` is a word like
    others, and of several `<|Reward|>` the instruction's own is scored.

    Args:
        source: hub id, folder that holds HPSv3.safetensors, or the file itself.
        revision: of the hub's repository.
        base: hub id, or folder that holds config.json and tokenizer.json: the Qwen2-VL it was trained from. Its weights
            are not read.
        base_revision: of that repository.
        precision: in which numbers the network computes, bfloat16 (published) or float32; the reward head always
            computes in float32.
        gradient_checkpointing: compute the layers twice instead of keeping their activations for the gradient.

    Raises:
        UserError: weights, configuration or tokenizer are not there, or the precision is unknown.

    Source: Ma et al. 2025 (HPSv3), arXiv 2508.03789; hpsv3/inference.py and hpsv3/model/qwen2vl_trainer.py of
    MizzenAI/HPSv3.
    """

    preprocess: QwenPixels
    name = "hpsv3"
    matches_prompts = True
    version = "1"

    def __init__(
        self,
        source: str = "MizzenAI/HPSv3",
        revision: str | None = None,
        base: str = "Qwen/Qwen2-VL-7B-Instruct",
        base_revision: str | None = None,
        precision: Precision = "bfloat16",
        gradient_checkpointing: bool = False,
    ) -> None:
        if precision not in get_args(Precision):
            raise UserError(f"precision={precision} is unknown to hpsv3; available: {', '.join(get_args(Precision))}")
        check_checkpoint(source, FILE, revision)
        for file in (CONFIG_FILE, TOKENIZER_FILE):
            check_checkpoint(base, file, base_revision)
        self.source, self.revision = source, revision
        self.base, self.base_revision = base, base_revision
        self.precision: Precision = precision
        self.gradient_checkpointing = gradient_checkpointing
        self.preprocess = QwenPixels(AREA, factor=28)  # patches of 14 pixels, merged two by two

    @property
    def file(self) -> Path:
        """The weights on the disk."""
        return checkpoint_file(self.source, FILE, self.revision)

    @property
    def weights(self) -> str:
        base = (checkpoint_file(self.base, file, self.base_revision) for file in (CONFIG_FILE, TOKENIZER_FILE))
        return " ".join(file_digest(file) for file in (self.file, *base))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Qwen2-VL's byte-pair tokenizer with the token of the reward."""
        tokenizer = Tokenizer.from_file(str(checkpoint_file(self.base, TOKENIZER_FILE, self.base_revision)))
        tokenizer.add_special_tokens([AddedToken(REWARD_TOKEN, special=True, normalized=False)])
        return tokenizer

    @cached_property
    def network(self) -> "HPSv3Network":
        """Qwen2-VL and the reward head, frozen.

        Raises:
            UserError: the file lacks a parameter, or holds one that is unknown or of another shape.
        """
        content = read_json_object(checkpoint_file(self.base, CONFIG_FILE, self.base_revision), "fetch it again")
        # published as resized to the tokenizer: the base's table of embeddings has spare rows
        config = Qwen2VLConfig.from_dict(content)
        config.get_text_config().vocab_size = self.tokenizer.get_vocab_size()
        network = assign(partial(HPSv3Network, config), from_published(read_state_dict(self.file)))
        network.trunk.to(getattr(torch, self.precision))
        network.head.float()
        if self.gradient_checkpointing:
            checkpoint_layers(network.trunk.visual.blocks)
            checkpoint_layers(network.trunk.language_model.layers)
        return network

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        """Return what the published network takes, whatever `base` is."""
        return bytes_on_meta(lambda: HPSv3Network(Qwen2VLConfig.from_dict(QWEN2_VL_7B)), settings["precision"])

    @cached_property
    def before_image(self) -> list[int]:
        """Token ids of what stands before the image."""
        return self.tokenizer.encode(BEFORE_IMAGE, add_special_tokens=False).ids

    @cached_property
    def instruction(self) -> str:
        """The text after the image up to the token of the reward; `{text_prompt}` stands for the prompt."""
        text = AFTER_IMAGE + INSTRUCTION.read_bytes().decode()
        return text[: text.index(REWARD_TOKEN) + len(REWARD_TOKEN)]

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return token ids of what follows the image, one list a prompt; the last id is the token of the reward."""
        texts = [self.instruction.replace("{text_prompt}", prompt) for prompt in prompts]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def image_features(self, inputs: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """Return image tokens, [H W / 784, D], of each normalised picture, [3, H, W]."""
        return self.network.image_tokens([pixels.to(self.device) for pixels in inputs])

    def score_features(self, features: Sequence[Tensor], encoded: Sequence[Sequence[int]]) -> Tensor:
        """Score image tokens against token ids, entry by entry."""
        before = torch.tensor(self.before_image, device=self.device)
        after = [torch.tensor(ids, device=self.device) for ids in encoded]
        return self.network(features, before, after)[:, 0]

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient.

        Pixels are resized as tensors by antialiased bicubic interpolation. What the network reads then differs from the
        published path by 0.004 on average and 0.06 at most, in units of the normalised pixels, for images of 512 to
        1024 pixels; the published training code, bilinear without antialiasing, differs by 0.013 to 0.03, at most 0.28.
        """
        return self.score_inputs(self.preprocess.differentiable(pixels), self.encode_prompts(prompts))


class HPSv3Network(nn.Module):
    """Qwen2-VL without its prediction of tokens, and the reward head.

    Args:
        config: of Qwen2-VL; `vocab_size` counts the token of the reward.
    """

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__()
        text: Any = config.get_text_config()
        vision: Any = config.vision_config
        self.trunk = Qwen2VLModel(config)
        self.head = nn.Sequential(
            nn.Linear(text.hidden_size, 1024), nn.ReLU(), nn.Dropout(0.05),
            nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2),
        )  # fmt: skip
        # frequencies are computed, not stored: here with memory even where the parameters have none
        with torch.device("cpu"):
            rotary: Any = Qwen2VLRotaryEmbedding(text)
            rotary.inv_freq = rounded(rotary.inv_freq)
            self.trunk.language_model.rotary_emb = rotary
            self.patch_rotary = PatchRotary(vision.embed_dim // vision.num_heads)
        del self.trunk.visual.rotary_pos_emb  # its place is taken by patch_rotary

    def image_tokens(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return the vision tower's tokens, [H W / 784, D], of each normalised picture, [3, H, W].

        The tower's own forward pass rounds its angles in another way in every version of transformers.
        """
        visual: Any = self.trunk.visual
        size, merged = visual.config.patch_size, visual.config.spatial_merge_size
        patches = [patches_of(image, size, merged, visual.config.temporal_patch_size) for image in images]
        places = torch.cat([places_of(image.shape[1] // size, image.shape[2] // size, merged) for image in images])
        lengths = torch.tensor([0] + [len(some) for some in patches])
        limits = lengths.cumsum(0, dtype=torch.int32)  # patches of one picture see each other

        hidden = visual.patch_embed(torch.cat(patches))  # in the tower's numbers
        turns = self.patch_rotary(places.to(hidden.device), hidden.dtype)
        for block in visual.blocks:
            hidden = block(hidden, cu_seqlens=limits, position_embeddings=turns)
        return list(visual.merger(hidden).split((lengths[1:] // merged**2).tolist()))

    def forward(self, image_tokens: Sequence[Tensor], before: Tensor, after: Sequence[Tensor]) -> Tensor:
        """Return mean and logarithm of the spread of people's preference, [N, 2], float32.

        Args:
            image_tokens: of each image, [T, D].
            before: token ids of what stands before the image, [B].
            after: token ids of what follows, [L] each; the last is the token of the reward.
        """
        text: Any = self.trunk.language_model
        start = text.embed_tokens(before)
        sequences = [
            torch.cat([start, tokens, text.embed_tokens(ids)]) for tokens, ids in zip(image_tokens, after, strict=True)
        ]
        # filled up at the end, where a causal network does not look
        embeddings = pad_sequence(sequences, batch_first=True)
        num, longest = embeddings.shape[:2]
        positions = torch.arange(longest, device=embeddings.device).expand(3, num, -1)
        hidden = text(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state
        last = torch.stack([states[len(sequence) - 1] for states, sequence in zip(hidden, sequences, strict=True)])
        return self.head(last.to(next(self.head.parameters()).dtype))


class PatchRotary(nn.Module):
    """By what angles the vision tower's queries and keys are turned.

    Args:
        head_dim: of its attention; a quarter of it turns by rows, a quarter by columns, and the second half repeats.
    """

    inv_freq: Tensor  # a buffer

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        half = head_dim // 2
        frequencies = 1.0 / 10000 ** (torch.arange(0, half, 2).float() / half)
        self.register_buffer("inv_freq", rounded(frequencies), persistent=False)

    def forward(self, places: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, [P, head_dim], of rows and columns, [P, 2], computed in `dtype`."""
        angles = (places[..., None].to(dtype) * self.inv_freq.to(dtype)).flatten(1).repeat(1, 2)
        return angles.cos(), angles.sin()


def rounded(frequencies: Tensor) -> Tensor:
    """Return frequencies as the published network has them, which was turned to bfloat16 with all its buffers."""
    return frequencies.bfloat16().float()


def patches_of(pixels: Tensor, size: int, merged: int, num_frames: int) -> Tensor:
    """Return the patches of a picture [3, H, W], [P, 3 * num_frames * size**2], as a still film.

    Patches that will be merged, `merged` by `merged`, follow each other.
    """
    channels, height, width = pixels.shape
    rows, columns = height // (merged * size), width // (merged * size)
    patches = pixels.reshape(channels, rows, merged, size, columns, merged, size).permute(1, 4, 2, 5, 0, 3, 6)
    return patches.unsqueeze(5).expand(*[-1] * 5, num_frames, -1, -1).reshape(rows * columns * merged**2, -1)


def places_of(num_rows: int, num_columns: int, merged: int) -> Tensor:
    """Return row and column of each patch, [P, 2], in the order of `patches_of`."""
    grid = torch.cartesian_prod(torch.arange(num_rows), torch.arange(num_columns))
    blocks = grid.reshape(num_rows // merged, merged, num_columns // merged, merged, 2)
    return blocks.transpose(1, 2).reshape(-1, 2)


def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of HPSv3.safetensors under their names here; those that are unknown keep theirs."""
    return {_renamed(name): tensor for name, tensor in state_dict.items() if name not in UNUSED}


def _renamed(name: str) -> str:
    return next((new + name.removeprefix(old) for old, new in RENAMED.items() if name.startswith(old)), name)
