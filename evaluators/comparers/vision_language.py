"""Vision-language models that transformers knows, such as Qwen2.5-VL and Qwen3-VL, as comparers."""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from alignbench.errors import UserError
from alignbench.pairwise.comparer import Verdict
from alignbench.serve.protocol import is_name
from alignbench.settings.section import Count
from evaluators.comparers.instruction import INTRODUCTIONS, LABELS, VERSION, InstructedComparer
from evaluators.networks.chat_model import chat_model, chat_model_bytes
from evaluators.networks.model_folder import Precision
from evaluators.networks.preprocess import SmallPictures

MaxSide = Annotated[int, Field(ge=64)]


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
        self.model = chat_model(source, revision, precision)
        self.name, self.version = name, f"{VERSION}-{max_side}px"
        self.precision, self.batch_size = precision, batch_size
        self.preprocess = SmallPictures(max_side)

    @property
    def network(self) -> Any:
        return self.model.network

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        return chat_model_bytes(settings)

    @property
    def weights(self) -> str:
        return self.model.weights

    @cached_property
    def label_tokens(self) -> list[list[int]]:
        """Token ids that begin an answer of each label, with and without a blank before it.

        Raises:
            UserError: a label is no single token.
        """
        found = []
        for label in LABELS:
            tokens = {token for text in (label, f" {label}") if (token := self.model.token(text)) is not None}
            if not tokens:
                raise UserError(f"source={self.model.source} has no token for {label}; give another model")
            found.append(sorted(tokens))
        return found

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)

    def release(self) -> None:
        self.model.release()

    @torch.inference_mode()
    def ask(self, first: Sequence[Image.Image], second: Sequence[Image.Image], texts: Sequence[str]) -> list[Verdict]:
        """Return the log-odds of the first image in one pass over all pairs."""
        start = time.monotonic()
        messages = [[part for told in INTRODUCTIONS for part in (told, None)] + [text] for text in texts]
        inputs = self.model.inputs(messages, list(zip(first, second, strict=True)))
        logits = self.model.next_logits(inputs).cpu()
        odds, likeliest = label_log_odds(logits, self.label_tokens), logits.argmax(dim=-1).tolist()
        num_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = (time.monotonic() - start) / len(texts)
        verdicts = []
        for log_odds, token, read in zip(odds.tolist(), likeliest, num_tokens, strict=True):
            told = {"tokens": (read, 1), "seconds": seconds, "raw": self.model.text_of(token)}
            is_label = any(token in tokens for tokens in self.label_tokens)
            verdicts.append(Verdict.of_log_odds(log_odds, **told) if is_label else Verdict(None, None, **told))
        return verdicts


def label_log_odds(logits: Tensor, label_tokens: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-odds of the first label over the second, [N]: each has the probability of all its tokens.

    Args:
        logits: of the next token, [N, V], float32.
        label_tokens: token ids of both labels.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    first, second = (log_probabilities[:, list(tokens)].logsumexp(dim=-1) for tokens in label_tokens)
    return first - second
