"""ImageReward v1.0: a BLIP whose text tower reads the image, trained on rankings of generated images."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from alignbench.evaluator import Reward
from alignbench.files import file_digest
from alignbench.models.weights.state_dicts import read_state_dict
from evaluators.networks.checkpoint import assign, bytes_on_meta, check_checkpoint, checkpoint_file
from evaluators.networks.clip import Precision, check_precision, checkpoint_layers
from evaluators.networks.preprocess import ClipPixels

FILE = "ImageReward.pt"
VOCABULARY = Path(__file__).parent / "vocabulary" / "bert-base-uncased.txt"
MAX_LENGTH = 35  # tokens with [CLS] and [SEP]; the model saw no longer prompts in training
PAD = 0
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # ImageReward.py: of the head's outputs on the training images

VISION = {
    "image_size": 224, "patch_size": 16, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "layer_norm_eps": 1e-6,
}  # fmt: skip
TEXT = {
    "vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 512, "layer_norm_eps": 1e-12,
}  # fmt: skip

# Parts of a parameter's name in the published file, and here.
RENAMED = {
    "blip.visual_encoder.patch_embed.proj.": "vision.embeddings.patch_embedding.",
    "blip.visual_encoder.cls_token": "vision.embeddings.class_embedding",
    "blip.visual_encoder.pos_embed": "vision.embeddings.position_embedding",
    "blip.visual_encoder.blocks.": "vision.encoder.layers.",
    "blip.visual_encoder.norm.": "vision.post_layernorm.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    "blip.text_encoder.": "text.",
    "mlp.layers.": "head.",
}
# In the file, but not in the score: position numbers, and the projections of BLIP's contrastive training.
UNUSED = {"blip.text_encoder.embeddings.position_ids"} | {
    f"blip.{tower}_proj.{kind}" for tower in ("vision", "text") for kind in ("weight", "bias")
}


class ImageReward(Reward):
    """How much people prefer the image for the prompt: in units of the standard deviation of the training images.

    Prompts are read up to 35 tokens; what follows is invisible to the score. Images that are not RGB become so before
    they are resized, where the published code does it after.

    Args:
        source: hub id, folder that holds ImageReward.pt, or the file itself.
        revision: of the hub's repository.
        precision: in which numbers the two towers compute; the reward head always computes in float32.
        gradient_checkpointing: compute the vision layers twice instead of keeping their activations for the gradient.
        vision, text: values of BlipVisionConfig and BlipTextConfig that differ from the published architecture.

    Raises:
        UserError: the weights are not there, or the precision is unknown.

    Attributes:
        vocabulary: file of the pieces that prompts are cut into.

    Source: Xu et al. 2023 (ImageReward), arXiv 2304.05977; ImageReward/ImageReward.py of THUDM/ImageReward.
    """

    preprocess: ClipPixels
    vocabulary: Path = VOCABULARY
    name = "image_reward"
    matches_prompts = True
    version = "1"
    range = (float("-inf"), float("inf"))  # of images people make: about -2.3 to 2

    def __init__(
        self,
        source: str = "THUDM/ImageReward",
        revision: str | None = None,
        precision: Precision = "float32",
        gradient_checkpointing: bool = False,
        vision: Mapping[str, Any] | None = None,
        text: Mapping[str, Any] | None = None,
    ) -> None:
        check_precision(precision)
        check_checkpoint(source, FILE, revision)
        self.source, self.revision, self.precision = source, revision, precision
        self.gradient_checkpointing = gradient_checkpointing
        self.architecture = {"vision": dict(vision or {}), "text": dict(text or {})}
        self.preprocess = ClipPixels((VISION | self.architecture["vision"])["image_size"])
        self._ids: dict[str, Tensor] = {}  # token ids, on the CPU

    @property
    def file(self) -> Path:
        """The weights on the disk."""
        return checkpoint_file(self.source, FILE, self.revision)

    @property
    def weights(self) -> str:
        return file_digest(self.file)

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        def make() -> ImageRewardNetwork:
            return ImageRewardNetwork(settings["vision"] or {}, settings["text"] or {})

        return sum(
            bytes_on_meta(lambda part=part: getattr(make(), part), precision)
            for part, precision in (
                ("vision", settings["precision"]),
                ("text", settings["precision"]),
                ("head", "float32"),
            )
        )

    @cached_property
    def network(self) -> "ImageRewardNetwork":
        """The two towers and the head, frozen.

        Raises:
            UserError: the file lacks a parameter, or holds one that is unknown or of another shape.
        """
        make = partial(ImageRewardNetwork, **self.architecture)
        network = assign(make, from_published(read_state_dict(self.file)))
        dtype = getattr(torch, self.precision)
        network.vision.to(dtype)
        network.text.to(dtype)
        network.head.float()
        if self.gradient_checkpointing:
            checkpoint_layers(network.vision.encoder.layers)
        return network

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        """Uncased WordPiece with BLIP's two extra tokens."""
        return bert_tokenizer(self.vocabulary)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, [N, 35], padded with 0; each prompt is encoded once."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._ids]
        if missing:
            self._ids |= dict(zip(missing, token_ids(self.tokenizer, missing), strict=True))
        return torch.stack([self._ids[prompt] for prompt in prompts])

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return what the text tower reads of normalised pixels [N, 3, 224, 224]: tokens, [N, 197, 1024]."""
        return self.network.vision(pixel_values=inputs.to(self.device)).last_hidden_state

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        """Score image tokens [N, 197, 1024] against token ids [N, 35]."""
        return self.network(features, encoded.to(features.device))

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient through what the text tower reads of the image."""
        return self.score_inputs(self.preprocess.differentiable(pixels), self.encode_prompts(prompts))


class ImageRewardNetwork(nn.Module):
    """BLIP's vision tower, its text tower that reads all image tokens in every layer, and the reward head.

    Args:
        vision, text: values of BlipVisionConfig and BlipTextConfig that differ from the published architecture.
    """

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
        super().__init__()
        vision_config = BlipVisionConfig(**(VISION | dict(vision)))
        # a decoder by its configuration, which alone gives the layers their cross-attention
        cross_attention = {"encoder_hidden_size": vision_config.hidden_size, "is_decoder": True}
        text_config = BlipTextConfig(**(TEXT | dict(text) | cross_attention))
        self.vision = BlipVisionModel(vision_config)
        self.text = BlipTextModel(text_config, add_pooling_layer=False)
        self.head = nn.Sequential(
            nn.Linear(text_config.hidden_size, 1024), nn.Dropout(0.2),
            nn.Linear(1024, 128), nn.Dropout(0.2),
            nn.Linear(128, 64), nn.Dropout(0.1),
            nn.Linear(64, 16), nn.Linear(16, 1),
        )  # fmt: skip

    def forward(self, image_tokens: Tensor, ids: Tensor) -> Tensor:
        """Return standardised rewards, [N], of what the vision tower saw, [N, T, D], and padded token ids [N, L]."""
        return self.scored(self.read(image_tokens, ids))

    def scored(self, read: Tensor) -> Tensor:
        """Return standardised rewards, [N], of what `read` gave: the first token speaks for all."""
        return (self.head(read[:, 0].to(next(self.head.parameters()).dtype)).squeeze(-1) - MEAN) / STD

    def read(self, image_tokens: Tensor, ids: Tensor) -> Tensor:
        """Return what the tokens of prompts know of the images, up to the longest prompt, [N, <= L, E]."""
        # up to the last token that is no padding; a prompt may spell "[PAD]" and mean it
        mask = ids.ne(PAD).flip(-1).cumsum(-1).flip(-1).gt(0).long()
        longest = int(mask.sum(-1).max())
        return self.text(
            input_ids=ids[:, :longest],
            attention_mask=mask[:, :longest],
            encoder_hidden_states=image_tokens,
            is_decoder=False,  # an encoder by its mask: every token sees every other
        ).last_hidden_state


def bert_tokenizer(vocabulary: Path = VOCABULARY) -> BertTokenizer:
    """Return uncased WordPiece, BERT's by default, with BLIP's two extra tokens, which prompts do not start with."""
    # as a keyword, the vocabulary would be ignored without a word
    tokenizer = BertTokenizer(str(vocabulary), do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "extra_special_tokens": ["[ENC]"]})
    return tokenizer


def token_ids(tokenizer: BertTokenizer, prompts: Sequence[str]) -> Tensor:
    """Return token ids of prompts, [N, 35], padded with 0."""
    return tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    ).input_ids


def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of ImageReward.pt under their names here; those that are unknown keep theirs."""
    return {_renamed(name): tensor for name, tensor in state_dict.items() if name not in UNUSED}


def _renamed(name: str) -> str:
    for published, here in RENAMED.items():
        name = name.replace(published, here)
    return name
