"""Is the text that the prompt asks for in the image? Read by RapidOCR, whose weights come with its package.

Source: OcrScorer in flow_grpo/ocr.py of yifan123/flow_grpo (MIT) for the text that is asked for and for `reward`. It
reads by PaddleOCR's English model, which is another one, so scores of the two are not comparable. `exact` and
`similarity` are ours.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.files import quick_sha256
from evaluators.networks.preprocess import Pictures

Score = Literal["reward", "exact", "similarity"]

PACKAGE = "rapidocr_onnxruntime"
QUOTE = '"'


@dataclass(frozen=True)
class Line:
    """A line of text in a picture.

    Attributes:
        text: as read.
        confidence: mean probability of its characters; the reader leaves out lines below 0.5.
    """

    text: str
    confidence: float


# ---- scores of what was read


def reward(text: str, target: str) -> float:
    """Return 1 if the target is part of the text, otherwise 1 minus the edit distance by the target's length, 0..1.

    Capitals and spaces do not count. Further text costs nothing where the target is whole.

    Args:
        text: all lines that were read, one after the other.
        target: what should be there; not blank.
    """
    text, target = (one.replace(" ", "").lower() for one in (text, target))
    if target in text:
        return 1.0
    return 1 - min(edit_distance(text, target), len(target)) / len(target)


def exact(text: str, target: str) -> float:
    """Return 1 if the text is the target and nothing else, otherwise 0; arguments as for `reward`.

    White space, capitals and compatible forms of a character (NFKC) do not count.
    """
    return float(_comparable(text) == _comparable(target))


def similarity(text: str, target: str) -> float:
    """Return 1 minus the edit distance by the length of the longer one, 0..1; arguments as for `reward`.

    Missing text costs as much as further text. What does not count is as for `exact`.
    """
    text, target = _comparable(text), _comparable(target)
    return 1 - edit_distance(text, target) / max(len(text), len(target))


FORMULAS: Mapping[Score, Callable[[str, str], float]] = {"reward": reward, "exact": exact, "similarity": similarity}


def edit_distance(a: str, b: str) -> int:
    """Return how many characters have to be inserted, deleted or replaced to turn a text into another (Levenshtein)."""
    distances = list(range(len(b) + 1))  # from what was read of `a` so far to each beginning of `b`
    for row, char in enumerate(a, start=1):
        diagonal, distances[0] = distances[0], row
        for column, other in enumerate(b, start=1):
            replaced = diagonal + (char != other)
            diagonal = distances[column]
            distances[column] = min(replaced, diagonal + 1, distances[column - 1] + 1)
    return distances[-1]


def _comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


# ---- the evaluator


class RapidOcr(Evaluator):
    """How well the text in an image agrees with the text between the first two double quotes of its prompt, 0..1.

    Args:
        score: `reward`: whether all of the target is there; `exact`: whether nothing else is; `similarity`: both, in
            degrees. See the functions of these names.

    Raises:
        UserError: RapidOCR is not installed. When scoring: a prompt has no target, or RapidOCR cannot be imported.
    """

    version = "1"
    range = (0.0, 1.0)
    preprocess = Pictures()
    calibrated_on = "words"
    matches_prompts = True

    def __init__(self, score: Score) -> None:
        if score not in get_args(Score):
            raise ValueError(f"score={score} is unknown; available: {', '.join(get_args(Score))}")
        self.name = "ocr_rapid" if score == "reward" else f"ocr_rapid_{score}"
        self._formula = FORMULAS[score]
        package = find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise UserError(
                f"{self.name} needs the package {PACKAGE}, which is not installed: "
                'pip install "alignbench[ocr]", or in the clone: uv sync --extra ocr; it needs Python 3.12 or older'
            )
        self._models = Path(package.origin).with_name("models")

    @property
    def weights(self) -> str:
        """Digest of the three networks that find, turn and read lines of text."""
        return quick_sha256(self._models)

    @property
    def shared_pass(self) -> str:
        return PACKAGE

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        """Return 0: the networks work on the CPU."""
        return 0

    def supports(self, prompts: Sequence[str]) -> str | None:
        without = [prompt for prompt in prompts if not _comparable(_quoted(prompt))]
        if not without:
            return None
        return (
            f"{self.name} looks for the text between the first two double quotes of a prompt, and {len(without)} of "
            f"{len(prompts)} prompts have none, such as {without[0]!r}"
        )

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the text that each prompt asks for."""
        if refusal := self.supports(prompts):
            raise UserError(refusal)
        return [_quoted(prompt) for prompt in prompts]

    def image_features(self, inputs: Sequence[Image.Image]) -> list[tuple[Line, ...]]:
        """Read each picture."""
        return [read(image) for image in inputs]

    def score_features(self, features: Sequence[Sequence[Line]], encoded: Sequence[str]) -> Tensor:
        """Compare the lines of each picture, joined in their order, with the text that its prompt asks for."""
        texts = ["".join(line.text for line in lines) for lines in features]
        return torch.tensor([self._formula(*pair) for pair in zip(texts, encoded, strict=True)], dtype=torch.float32)


def _quoted(prompt: str) -> str:
    """Return what stands between the first two double quotes; nothing if there are no two."""
    parts = prompt.split(QUOTE)
    return parts[1] if len(parts) > 2 else ""


# ---- reading


def read(image: Image.Image) -> tuple[Line, ...]:
    """Return the lines of text in an RGB picture, from top to bottom, and from left to right where heights are equal.

    Raises:
        UserError: RapidOCR cannot be imported.
    """
    return _lines(image.size, image.tobytes())


@lru_cache(maxsize=8)  # calibration shows all evaluators the same few pictures, with several prompts each
def _lines(size: tuple[int, int], pixels: bytes) -> tuple[Line, ...]:
    width, height = size
    bgr = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)[..., ::-1]  # the order of the package's own files
    found, _ = _engine()(np.ascontiguousarray(bgr))
    return tuple(Line(text, float(confidence)) for _, text, confidence in found or ())  # None where there is no text


@cache
def _engine() -> Callable[[np.ndarray], Any]:
    """Return the reader. It works with as many threads as torch does."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:  # of a library that its dependencies load
        raise UserError(
            f"{PACKAGE} cannot be imported ({error}); if a shared library is missing, install it, such as libGL with "
            "apt-get install libgl1"
        ) from error
    return RapidOCR(intra_op_num_threads=torch.get_num_threads(), inter_op_num_threads=1)
