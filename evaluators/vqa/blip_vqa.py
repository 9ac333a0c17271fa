"""BLIP-VQA of T2I-CompBench: how probable is "yes" to each noun phrase of the prompt, as a question?

Source: Huang et al. 2023 (T2I-CompBench), arXiv 2307.06350; BLIPvqa_eval of Karine-Huang/T2I-CompBench (MIT); Li et al.
2022 (BLIP), salesforce/BLIP (BSD-3-Clause).
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

from alignbench.data.storage.text_tables import read_rows
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Summary
from alignbench.files import file_digest
from alignbench.models.weights.state_dicts import read_state_dict
from evaluators.annotations import PromptTable
from evaluators.image_reward import TEXT, VOCABULARY, bert_tokenizer
from evaluators.networks.checkpoint import assign, bytes_on_meta, check_checkpoint, checkpoint_file
from evaluators.networks.clip import Precision, check_precision
from evaluators.networks.preprocess import BlipPixels
from evaluators.vqa.asking import CALIBRATION
from evaluators.vqa.tables import texts

PUBLISHED_FILE, HUB_FILE = "model_base_vqa_capfilt_large.pth", "model.safetensors"
MAX_LENGTH = 35  # tokens of a question, with the first and the last
MAX_WORDS = 50  # of a question
NOT_READ = re.compile(r'[.!"()*#:;~]')  # characters that are taken out of questions
NUM_CHUNKS = 8  # noun phrases that count; others are not asked about

VISION = {  # ViT-B/16
    "patch_size": 16, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "layer_norm_eps": 1e-6,
}  # fmt: skip

# Parts of a parameter's name in the published file, and here.
RENAMED = {
    "visual_encoder.patch_embed.proj.": "vision_model.embeddings.patch_embedding.",
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
    "visual_encoder.blocks.": "vision_model.encoder.layers.",
    "visual_encoder.norm.": "vision_model.post_layernorm.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
}
# What predicts words is the table of words once more; files need not hold it twice.
HEAD = "text_decoder.cls.predictions."
TIED = {
    f"{HEAD}decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    f"{HEAD}decoder.bias": f"{HEAD}bias",
}


class BlipVqa(Evaluator):
    """The product over the noun phrases of the prompt of P(yes) / (P(yes) + P(no)), 0..1.

    Each factor and the product are rounded to four decimals, as published.

    Args:
        source: model_base_vqa_capfilt_large.pth of salesforce/BLIP, or its folder.
        revision: of a hub's repository, where `source` is the id of one.
        table: the noun phrases: .jsonl with `prompt` and the list `chunks`, or .csv or .tsv with a | between them.
        precision: in which numbers the network computes; published is float32.
        vision, text: values of BlipVisionConfig and BlipTextConfig that differ from the published architecture.

    Raises:
        UserError: the weights or the table are not there, a row is of no use, or the precision is unknown.
    """

    version = "1"
    range = (0.0, 1.0)
    summary: ClassVar[Summary] = "mean"
    calibration_samples: ClassVar[Path | None] = CALIBRATION / "photographs.json"
    size: ClassVar[int] = 480
    filename: ClassVar[str] = PUBLISHED_FILE
    name = "blip_vqa"

    def __init__(
        self,
        source: str,
        revision: str | None,
        table: str,
        precision: Precision,
        vision: Mapping[str, Any] | None = None,
        text: Mapping[str, Any] | None = None,
    ) -> None:
        check_precision(precision)
        check_checkpoint(source, self.filename, revision)
        self.source, self.revision, self.precision = source, revision, precision
        self._config = blip_config(self.size, vision, text)
        self.preprocess = BlipPixels(self._config.vision_config.image_size)
        self.table = read_chunks(Path(table))
        self._samples = read_chunks(CALIBRATION / "chunks.jsonl")

    @property
    def file(self) -> Path:
        """The weights on the disk."""
        return checkpoint_file(self.source, self.filename, self.revision)

    @property
    def weights(self) -> str:
        return f"{file_digest(self.file)} {self.table.digest}"

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        config = blip_config(cls.size, settings["vision"], settings["text"])
        return bytes_on_meta(lambda: BlipForQuestionAnswering(config), settings["precision"])

    @cached_property
    def network(self) -> BlipForQuestionAnswering:
        """The vision tower, the text tower that reads the image, and the decoder of answers, frozen.

        Raises:
            UserError: the file lacks a parameter, or holds one that is unknown or of another shape.
        """
        network = assign(lambda: BlipForQuestionAnswering(self._config), from_published(read_state_dict(self.file)))
        return network.to(getattr(torch, self.precision))

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        """Uncased WordPiece with BLIP's two extra tokens."""
        return bert_tokenizer(VOCABULARY)

    def supports(self, prompts: Sequence[str]) -> str | None:
        lacking = self.table.lacking(prompts)
        return lacking and f"{self.name} needs the noun phrases of each prompt, and {lacking}"

    def encode_prompts(self, prompts: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the noun phrases that are asked about."""
        if refusal := self.supports([prompt for prompt in prompts if prompt not in self._samples]):
            raise UserError(refusal)
        found = [self.table[prompt] if prompt in self.table else self._samples[prompt] for prompt in prompts]
        return [chunks[:NUM_CHUNKS] for chunks in found]

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return image tokens, [N, T, D], of normalised pixels [N, 3, H, W]."""
        return self.network.vision_model(inputs.to(self.device, self.network.dtype)).last_hidden_state

    def score_features(self, features: Tensor, encoded: Sequence[Sequence[str]]) -> Tensor:
        """Ask about each noun phrase of each image."""
        return self.explain(features, encoded)[0]

    def explain(self, features: Tensor, encoded: Sequence[Sequence[str]]) -> tuple[Tensor, list[dict[str, Any]]]:
        """Ask about each noun phrase of each image; also return all questions and answers."""
        scores, evidence = [], []
        for tokens, chunks in zip(features, encoded, strict=True):
            questions = [question(chunk) for chunk in chunks]
            factors = [round(self.yes_share(tokens, text), 4) for text in questions]
            scores.append(round(math.prod(factors), 4))
            told = [{"question": text, "probability": one} for text, one in zip(questions, factors, strict=True)]
            evidence.append({"questions": told})
        return torch.tensor(scores, dtype=torch.float32), evidence

    @torch.no_grad()
    def yes_share(self, tokens: Tensor, text: str) -> float:
        """Return P(yes) / (P(yes) + P(no)) of the first word of the answer to a question.

        Questions are asked one by one, without padding: the decoder of transformers reads the padding, too.

        Args:
            tokens: of one image, [T, D].
            text: a question about it.
        """
        ids = self.tokenizer([text], truncation=True, max_length=MAX_LENGTH, return_tensors="pt").input_ids
        ids[:, 0] = self.tokenizer.convert_tokens_to_ids("[ENC]")
        states = self.network.text_encoder(ids.to(tokens.device), encoder_hidden_states=tokens[None]).last_hidden_state
        start = torch.tensor([[self._config.text_config.bos_token_id]], device=tokens.device)
        logits = self.network.text_decoder(start, encoder_hidden_states=states).logits[0, 0].float()
        yes, no = (logits[self.tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
        return float((yes - no).sigmoid())


class BlipVqaTransformers(BlipVqa):
    """The same with Salesforce/blip-vqa-base, whose weights were brought to images of 384 pixels.

    Args:
        source: hub id, folder that holds model.safetensors, or the file itself.
        revision, table, precision, vision, text: see `BlipVqa`.

    Raises:
        UserError: as `BlipVqa`.
    """

    size = 384
    filename = HUB_FILE
    name = "blip_vqa_384"


def blip_config(size: int, vision: Mapping[str, Any] | None, text: Mapping[str, Any] | None) -> Any:
    """Return the architecture for images of `size` pixels, some values replaced."""
    towers: dict[str, Any] = {
        "vision_config": VISION | {"image_size": size} | dict(vision or {}),
        "text_config": TEXT | dict(text or {}),
    }
    return BlipConfig(**towers)


def from_published(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the parameters of either file under their names here; those that are unknown keep theirs."""
    found: dict[str, Tensor] = {}
    for name, tensor in state_dict.get("model", state_dict).items():  # the published file has them in "model"
        for published, here in RENAMED.items():
            name = name.replace(published, here)
        found[name] = tensor
    return {name: found[source] for name, source in TIED.items() if source in found} | found


def question(chunk: str) -> str:
    """Return the question about a noun phrase, as BLIP reads it.

    >>> question("A red (shiny) Apple.")
    'a red shiny apple?'
    """
    words = NOT_READ.sub("", f"{chunk}?".lower()).rstrip(" ").split(" ")
    return " ".join(words[:MAX_WORDS])


def read_chunks(file: Path) -> PromptTable:
    """Return the noun phrases of each prompt, as tuples of texts.

    Raises:
        UserError: the file cannot be read, a prompt has none, or is there with two lists.
    """
    if file.suffix not in (".jsonl", ".csv", ".tsv"):
        raise UserError(f"table={file} must be a file .jsonl, .csv or .tsv with the columns prompt and chunks")
    found: dict[str, tuple[str, ...]] = {}
    for row in read_rows(file):
        prompt, chunks = row.prompt("prompt"), texts(row, "chunks")
        if not any(chunk.strip() for chunk in chunks):
            raise UserError(f'{row.location} has no noun phrase in "chunks"')
        if found.setdefault(prompt, chunks) != chunks:
            raise UserError(f"{row.location} is a second list of the noun phrases of {prompt!r}; keep one of the two")
    return PromptTable(file, found)
