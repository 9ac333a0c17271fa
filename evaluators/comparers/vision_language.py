"""Vision-language models that transformers knows, such as Qwen2.5-VL and Qwen3-VL, as comparers."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from pydantic import Field
from torch import Tensor

from alignbench.errors import UserError
from alignbench.files import quick_sha256
from alignbench.pairwise.comparer import Verdict
from alignbench.reading import read_json_object
from alignbench.serve.protocol import is_name
from alignbench.settings.section import Count
from evaluators.comparers.instruction import INTRODUCTIONS, LABELS, VERSION, InstructedComparer
from evaluators.networks.checkpoint import check_checkpoint
from evaluators.networks.preprocess import SmallPictures

Precision = Literal["bfloat16", "float32"]
MaxSide = Annotated[int, Field(ge=64)]

CONFIG_FILE = "config.json"
FETCHED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]  # of a repository on the hub


class VisionLanguageComparer(InstructedComparer):
    """Reads the log-odds of A over B as the first token of an answer; nothing is generated.

    The logits are those of the network itself, without the penalties that a generation config may add. An answer
    whose likeliest first token is no label is a failure, so models that reason before they answer cannot be used.

    Args:
        name: as tables call it.
        source: hub id, or a folder with config.json, weights and the files of the processor.
        revision: of the hub's repository.
        precision: in which numbers the network computes; the log-odds are computed in float32.
        max_side: pixels of the longer side of an image as the model gets it; larger images are made smaller.
        batch_size: pairs that go through the network at once.

    Raises:
        UserError: the source is not there or no vision-language model, or an argument is of no use.
    """

    def __init__(
        self,
        name: str,
        source: str,
        revision: str | None = None,
        precision: Precision = "bfloat16",
        max_side: MaxSide = 768,
        batch_size: Count = 8,
    ) -> None:
        if not is_name(name):
            raise UserError(f"name={name} must consist of letters, digits and _ . + -")
        check_checkpoint(source, CONFIG_FILE, revision)
        if Path(source).is_dir():
            _refuse_other_models(Path(source))
        self.name, self.version = name, f"{VERSION}-{max_side}px"
        self.source, self.revision = source, revision
        self.precision, self.batch_size = precision, batch_size
        self.preprocess = SmallPictures(max_side)
        self._device = torch.device("cpu")

    @cached_property
    def folder(self) -> Path:
        """The model on the disk, fetched from the hub if it is not here."""
        if Path(self.source).is_dir():
            return Path(self.source)
        return Path(snapshot_download(self.source, revision=self.revision, allow_patterns=FETCHED))

    @property
    def weights(self) -> str:
        return quick_sha256(self.folder)

    @cached_property
    def network(self) -> Any:
        """The model, frozen, on the device.

        Raises:
            UserError: it is no vision-language model.
        """
        from transformers import AutoModelForImageTextToText

        _refuse_other_models(self.folder)
        settings: Any = {"dtype": getattr(torch, self.precision), "use_safetensors": True, "trust_remote_code": False}
        network: Any = AutoModelForImageTextToText.from_pretrained(self.folder, **settings)
        return network.requires_grad_(False).eval().to(self._device)

    @cached_property
    def processor(self) -> Any:
        """What turns pictures and text into the network's inputs.

        Raises:
            UserError: it has no chat template.
        """
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=False)
        if processor.chat_template is None:
            raise UserError(f"source={self.source} has no chat template, so it cannot be asked; give a chat model")
        processor.tokenizer.padding_side = "left"  # so that the next token is the last one in every row
        return processor

    @cached_property
    def label_tokens(self) -> list[list[int]]:
        """Token ids that begin an answer of each label, with and without a blank before it.

        Raises:
            UserError: a label is no single token.
        """
        found = []
        for label in LABELS:
            encoded = [self.processor.tokenizer.encode(text, add_special_tokens=False) for text in (label, f" {label}")]
            found.append(sorted({ids[0] for ids in encoded if len(ids) == 1}))
            if not found[-1]:
                raise UserError(f"source={self.source} has no token for {label}; give another model")
        return found

    def to(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        if "network" in vars(self):
            self.network.to(self._device)

    def release(self) -> None:
        vars(self).pop("network", None)

    @torch.inference_mode()
    def ask(self, first: Sequence[Image.Image], second: Sequence[Image.Image], texts: Sequence[str]) -> list[Verdict]:
        """Return the log-odds of the first image in one pass over all pairs."""
        start = time.monotonic()
        inputs = self.inputs(first, second, texts)
        logits = self.network(**inputs.to(self._device), logits_to_keep=1).logits[:, -1].float().cpu()
        odds, likeliest = label_log_odds(logits, self.label_tokens), logits.argmax(dim=-1).tolist()
        num_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = (time.monotonic() - start) / len(texts)
        verdicts = []
        for log_odds, token, read in zip(odds.tolist(), likeliest, num_tokens, strict=True):
            told = {"tokens": (read, 1), "seconds": seconds, "raw": self.processor.tokenizer.decode([token])}
            is_label = any(token in tokens for tokens in self.label_tokens)
            verdicts.append(Verdict.of_log_odds(log_odds, **told) if is_label else Verdict(None, None, **told))
        return verdicts

    def inputs(self, first: Sequence[Image.Image], second: Sequence[Image.Image], texts: Sequence[str]) -> Any:
        """Return what the network reads: for each pair one message of the user, two images and a text."""
        chats = [self.processor.apply_chat_template(_chat(self._harmless(text)), add_generation_prompt=True)
                 for text in texts]  # fmt: skip
        images = [list(pair) for pair in zip(first, second, strict=True)]
        return self.processor(text=chats, images=images, padding=True, return_tensors="pt")

    def _harmless(self, text: str) -> str:
        """Return a text in which nothing is read as a special token, which would end the message or be an image."""
        of_pictures = (getattr(self.processor, name, None) for name in ("image_token", "video_token"))
        for token in filter(None, (*self.processor.tokenizer.all_special_tokens, *of_pictures)):
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def label_log_odds(logits: Tensor, label_tokens: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-odds of the first label over the second, [N]: each has the probability of all its tokens.

    Args:
        logits: of the next token, [N, V], float32.
        label_tokens: token ids of both labels.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    first, second = (log_probabilities[:, list(tokens)].logsumexp(dim=-1) for tokens in label_tokens)
    return first - second


def _chat(text: str) -> list[dict[str, Any]]:
    content = [part for told in INTRODUCTIONS for part in ({"type": "text", "text": told}, {"type": "image"})]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _refuse_other_models(folder: Path) -> None:
    """Refuse a folder of a model that transformers does not know as one that reads images and writes text.

    Raises:
        UserError: naming what it is.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind = read_json_object(folder / CONFIG_FILE).get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UserError(
            f"source={folder} holds a model of type {kind}; expected one that reads images and writes text, such as "
            "Qwen3-VL"
        )
