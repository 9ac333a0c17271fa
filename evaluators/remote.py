"""An evaluator that runs in another program, anywhere, and is asked over HTTP (see `alignbench.serve.protocol`)."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import CalibrationImages, Evaluator, Preprocess
from alignbench.serve.access import TOKEN_VARIABLE
from alignbench.serve.protocol import Info, is_name
from evaluators.json_client import PASSING, JsonClient, checked_url
from evaluators.networks.preprocess import rgb

INFO_TIMEOUT_SECONDS = 10.0  # answered without the network


@dataclass(frozen=True, eq=False)
class PngFiles(Preprocess):
    """Hands pictures over without loss; the server does the published preprocessing, whose key this carries."""

    served_key: str

    @property
    def key(self) -> str:
        return self.served_key

    @property
    def output(self) -> str:
        return "png_files"

    def __call__(self, images: Sequence[Image.Image]) -> list[bytes]:
        """Return each picture in RGB as a PNG file."""
        return [png_file(rgb(image)) for image in images]


class Remote(Evaluator):
    """The scores of an evaluator that another program serves; tables cannot tell them from those made here.

    Nothing is asked before it is needed. Name, version, preprocessing and all else that a table says come from the
    server; if it serves something else later, scoring stops. Where it has a token, the environment variable
    ALIGNBENCH_TOKEN must hold it: a configuration is stored with results.

    Args:
        url: where it is served, such as http://127.0.0.1:8000.
        name: under which scores are kept; None for the one the server gives.
        images_per_request: most images of one request.
        timeout_seconds: longest wait for an answer.
        num_retries: how often a request is sent again that was not answered, or with 502, 503 or 504.
        pause_seconds: before the first of these; each further pause is twice as long.

    Raises:
        UserError: an argument is of no use. When asked: the server does not answer, refuses, or answers what is
            against the protocol.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        images_per_request: int = 16,
        timeout_seconds: float = 300.0,
        num_retries: int = 3,
        pause_seconds: float = 1.0,
    ) -> None:
        self.url = checked_url(url, TOKEN_VARIABLE)
        if name is not None and not is_name(name):
            raise UserError(f"name={name} must consist of letters, digits and _ . + -")
        if images_per_request < 1 or num_retries < 0 or timeout_seconds <= 0 or pause_seconds < 0:
            raise UserError(
                f"images_per_request={images_per_request} must be at least 1, num_retries={num_retries} and "
                f"pause_seconds={pause_seconds} at least 0, timeout_seconds={timeout_seconds} above 0"
            )
        self._name = name
        self.images_per_request, self.num_retries = images_per_request, num_retries
        self.timeout_seconds, self.pause_seconds = timeout_seconds, pause_seconds

    # ---- what the server says of itself

    @cached_property
    def info(self) -> Info:
        """What the server said when it was first asked."""
        return self._ask_info()

    @property
    def name(self) -> str:
        return self._name or self.info.name

    @property
    def version(self) -> str:
        return self.info.version

    @property
    def higher_is_better(self) -> bool:
        return self.info.higher_is_better

    @property
    def range(self) -> tuple[float, float]:
        return self.info.range

    @property
    def precision(self) -> str:
        return self.info.precision

    @property
    def display_scale(self) -> float:
        return self.info.display_scale

    @property
    def weights(self) -> str:
        return self.info.weights

    @property
    def calibrated_on(self) -> CalibrationImages:
        return self.info.calibrated_on

    @property
    def matches_prompts(self) -> bool:
        return self.info.matches_prompts

    @cached_property
    def preprocess(self) -> PngFiles:
        return PngFiles(self.info.preprocess)

    # ---- scores

    def supports(self, prompts: Sequence[str]) -> str | None:
        """Return None; which prompts it can score, the server says when they come. Asks whether there is a server."""
        _ = self.info  # early, before hours of work that would be lost on it
        return None

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts; the server encodes them."""
        return list(prompts)

    def score_features(self, features: Sequence[bytes], encoded: Sequence[str]) -> Tensor:
        """Ask for the scores of PNG files."""
        found = self._ask_info()
        if found != self.info:
            raise UserError(f"{self.url} serves {found} now, and served {self.info} before; start it as it was")
        scores = [torch.zeros(0)]
        for start in range(0, len(features), self.images_per_request):
            part = slice(start, start + self.images_per_request)
            files = [base64.b64encode(file).decode() for file in features[part]]
            answer = self._client.ask("/score", {"prompts": list(encoded[part]), "images": files}, self.timeout_seconds)
            scores.append(self._scores(answer, len(files)))
        return torch.cat(scores)

    def _scores(self, answer: Any, num: int) -> Tensor:
        values = answer.get("scores") if isinstance(answer, dict) else None
        # numbers are read as floats, so a bool is none
        if not isinstance(values, list) or not all(isinstance(value, float) for value in values):
            raise UserError(f"{self.url}/score gave no list of numbers called scores; correct the server")
        scores = torch.tensor(values, dtype=torch.float64).float()
        if len(scores) != num or not scores.isfinite().all():
            raise UserError(
                f"{self.url}/score gave {int(scores.isfinite().sum())} finite scores for {num} images; "
                "correct the server"
            )
        return scores

    # ---- requests

    def _ask_info(self) -> Info:
        answer = self._client.ask("/info", None, min(INFO_TIMEOUT_SECONDS, self.timeout_seconds))
        try:
            return Info.from_json(answer)
        except ValueError as error:
            raise UserError(f"{self.url} is no server for this program: {error}; correct url or the server") from None

    @cached_property
    def _client(self) -> JsonClient:
        token = partial(os.environ.get, TOKEN_VARIABLE)
        return JsonClient(self.url, self.num_retries, self.pause_seconds, PASSING, token)


def png_file(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)  # a fifth larger than by default, and several times as fast
    return file.getvalue()
