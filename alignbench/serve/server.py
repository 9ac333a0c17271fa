"""The server of one evaluator's scores; `alignbench.serve.protocol` says what is asked and answered."""

import base64
import math
import threading
from typing import Any
from urllib.parse import SplitResult

from PIL import Image

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.images import ImageError, scorable
from alignbench.serve.access import TOKEN_VARIABLE
from alignbench.serve.http import Handler, Refusal, Server
from alignbench.serve.protocol import Info

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
METHODS = {"/info": "GET", "/score": "POST"}


class ScoreServer(Server):
    """Answers requests for the scores of one evaluator, one at a time; see `alignbench.serve.protocol`.

    Args:
        evaluator: on its device already.
        host: name or address to listen on.
        port: 0 for any that is free.
        token: what requests must carry; None for nothing.
        batch_size: images that go through the network at once.
        max_request_mb: largest request, in 10^6 bytes.

    Raises:
        UserError: the address cannot be had, others could reach it without a token, or a number is of no use.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        batch_size: int = 16,
        max_request_mb: float = 256,
    ) -> None:
        if batch_size < 1 or max_request_mb <= 0:
            raise UserError(f"batch_size={batch_size} must be at least 1, max_request_mb={max_request_mb} above 0")
        super().__init__(ScoreHandler, host, port, token, int(max_request_mb * 1e6))
        self.evaluator, self.batch_size = evaluator, batch_size
        self.info = Info.of(evaluator)
        self.lock = threading.Lock()  # there is one network

    def score(self, request: Any) -> list[float]:
        """Return the scores that a request asks for.

        Raises:
            Refusal: the request is malformed, or the evaluator cannot score what it holds.
        """
        prompts, images = _lists_of_text(request)
        if refusal := self.evaluator.supports(prompts):
            raise Refusal(400, refusal)
        scores: list[float] = []
        with self.lock:
            for start in range(0, len(images), self.batch_size):  # small files may hold large pictures: a batch at once
                batch = range(start, min(start + self.batch_size, len(images)))
                pictures = [_picture(images[i], f"images[{i}]") for i in batch]
                scores += self.evaluator.score(pictures, prompts[start : batch.stop], self.batch_size).tolist()
        if len(scores) != len(prompts) or not all(map(math.isfinite, scores)):
            raise Refusal(500, f"{self.info.name} gave scores that are not one finite number an image")
        return scores


class ScoreHandler(Handler):
    """One request for scores, or for what they are."""

    server: ScoreServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def respond(self, url: SplitResult) -> None:
        token = self.server.token
        if token is not None and not self.is_token(self.headers.get("Authorization", ""), f"Bearer {token}"):
            raise Refusal(401, f"the token is missing or wrong; set {TOKEN_VARIABLE} to that of the server")
        method = METHODS.get(self.path)
        if method is None:
            raise Refusal(404, f"{self.path} is unknown; available: {', '.join(METHODS)}")
        if method != self.command:
            raise Refusal(405, f"{self.path} is asked with {method}, not {self.command}")
        if self.path == "/info":
            self.answer(200, self.server.info.to_json())
            return
        try:
            self.answer(200, {"scores": self.server.score(self.json())})
        except UserError as error:
            raise Refusal(400, str(error)) from None


def _lists_of_text(request: Any) -> tuple[list[str], list[str]]:
    lists = []
    for key in ("prompts", "images"):
        value = request.get(key) if isinstance(request, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise Refusal(400, f"the request must be an object with {key}, a list of text")
        lists.append(value)
    prompts, images = lists
    if len(prompts) != len(images):
        raise Refusal(400, f"{len(images)} images and {len(prompts)} prompts; give one prompt an image")
    return prompts, images


def _picture(text: str, named: str) -> Image.Image:
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refusal(400, f"{named} is not base64") from None
    if not content.startswith((PNG, JPEG)):
        raise Refusal(400, f"{named} is neither PNG nor JPEG")
    try:
        return scorable(content)
    except ImageError as error:
        raise Refusal(400, f"{named} {error}") from None
