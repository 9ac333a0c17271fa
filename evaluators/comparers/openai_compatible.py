"""Vision-language models behind an address that speaks OpenAI's chat protocol, such as vLLM's, as comparers."""

import base64
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from alignbench.errors import UserError
from alignbench.pairwise.comparer import Verdict
from alignbench.serve.access import is_loopback
from alignbench.serve.protocol import is_name
from alignbench.settings.section import Count, CountOrZero, NotNegative, Positive
from evaluators.comparers.instruction import INTRODUCTIONS, LABELS, VERSION, InstructedComparer, won_by_word
from evaluators.comparers.vision_language import MaxSide
from evaluators.json_client import PASSING, JsonClient, RefusedError, checked_url
from evaluators.networks.preprocess import SmallPictures
from evaluators.remote import png_file

AnswerKind = Literal["log_odds", "word"]

PATH = "/chat/completions"
RETRIED = PASSING | {429, 500}  # too many requests, and a server that failed once
FILTERED = ("content_filter", "content_policy_violation")  # codes of requests that a server will not answer
TOP_LOGPROBS = 20  # most that the protocol allows
MAX_TOKENS: Mapping[AnswerKind, int] = {"log_odds": 1, "word": 1024}


class OpenAICompatibleComparer(InstructedComparer):
    """Asks a server about each pair, and takes the log-odds of its first token, or its word.

    Where a server gives no log-probabilities, its word counts. A refusal to look at a pair is a failure of that pair.

    Args:
        name: as tables call it.
        base_url: address of the protocol, with its version, such as http://127.0.0.1:8000/v1.
        model: as the server calls it.
        key_variable: environment variable that holds the key; null for a server without keys. The key itself is in no
            file, log or configuration.
        answer: `log_odds` reads the probabilities of the first token, `word` the last line of a longer answer, for
            models that reason.
        max_side: pixels of the longer side of an image as it is sent; larger images are made smaller.
        options: further fields of each request; null takes a field away.
        num_parallel: requests that are under way at once.
        timeout_seconds: longest wait for an answer.
        num_retries: how often a request is sent again that was not answered, or with 429, 500, 502, 503 or 504.
        pause_seconds: before the first of these; each further pause is twice as long.

    Raises:
        UserError: an argument is of no use, or the variable is not set. When asked: the server does not answer, refuses
            the key, or answers what is against the protocol.
    """

    precision = ""  # is the server's own
    can_change = True

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        key_variable: str | None = "OPENAI_API_KEY",
        answer: AnswerKind = "log_odds",
        max_side: MaxSide = 768,
        options: dict[str, Any] | None = None,
        num_parallel: Count = 4,
        timeout_seconds: Positive = 120.0,
        num_retries: CountOrZero = 5,
        pause_seconds: NotNegative = 1.0,
    ) -> None:
        if not is_name(name):
            raise UserError(f"name={name} must consist of letters, digits and _ . + -")
        self.base_url = checked_url(base_url, key_variable or "key_variable", "base_url")
        if key_variable is not None:
            _check_key(key_variable, self.base_url)
        self.name, self.version = name, f"{VERSION}-{max_side}px"
        self.model, self.key_variable = model, key_variable
        self.answer: AnswerKind = answer
        self.preprocess = SmallPictures(max_side)
        self.options: dict[str, Any] = _plain(options or {})
        self.batch_size = num_parallel
        self.timeout_seconds, self.num_retries, self.pause_seconds = timeout_seconds, num_retries, pause_seconds

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        return 0

    @property
    def weights(self) -> str:
        options = json.dumps(self.options, sort_keys=True) if self.options else ""
        return " ".join(filter(None, (self.model, self.answer, options)))

    def ask(self, first: Sequence[Image.Image], second: Sequence[Image.Image], texts: Sequence[str]) -> list[Verdict]:
        """Send one request a pair, several at once."""
        with ThreadPoolExecutor(self.batch_size) as pool:
            return list(pool.map(self._ask, first, second, texts))

    def _ask(self, first: Image.Image, second: Image.Image, text: str) -> Verdict:
        start = time.monotonic()
        try:
            answer = self._client.ask(PATH, self.request(first, second, text), self.timeout_seconds)
        except RefusedError as error:
            if not any(code.encode() in error.body for code in FILTERED):
                raise
            return Verdict(None, None, seconds=time.monotonic() - start, raw=_text(str(error)))
        return read_answer(answer, seconds=time.monotonic() - start)

    def request(self, first: Image.Image, second: Image.Image, text: str) -> dict[str, Any]:
        """Return the body of a request: greedy, with the images before the text."""
        content: list[dict[str, Any]] = []
        for told, image in zip(INTRODUCTIONS, (first, second), strict=True):
            url = f"data:image/png;base64,{base64.b64encode(png_file(image)).decode()}"
            content += [{"type": "text", "text": told}, {"type": "image_url", "image_url": {"url": url}}]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
            "temperature": 0,
            "seed": 0,
            "max_tokens": MAX_TOKENS[self.answer],
        }
        if self.answer == "log_odds":
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return {key: value for key, value in (body | self.options).items() if value is not None}

    @cached_property
    def _client(self) -> JsonClient:
        return JsonClient(self.base_url, self.num_retries, self.pause_seconds, RETRIED, self._key)

    def _key(self) -> str | None:
        return None if self.key_variable is None else os.environ[self.key_variable]


def read_answer(answer: Any, seconds: float) -> Verdict:
    """Return the verdict in an answer of the chat protocol; without `won` where it has none.

    The numbers of the answer are floats.
    """
    text = _entry(answer, "choices", 0, "message", "content")
    told: dict[str, Any] = {
        "tokens": tuple(_count(_entry(answer, "usage", name)) for name in ("prompt_tokens", "completion_tokens")),
        "seconds": seconds,
        "raw": _text(text) if isinstance(text, str) else json.dumps(answer)[:1000],
        "answered_by": _text(_entry(answer, "model")),
        "fingerprint": _text(_entry(answer, "system_fingerprint")),
    }
    tops = _top_logprobs(answer)
    if tops is None:
        return Verdict(None, won_by_word(_text(text)), **told)
    log_odds = listed_log_odds(tops)
    return Verdict(None, None, **told) if log_odds is None else Verdict.of_log_odds(log_odds, **told)


def listed_log_odds(tops: Mapping[str, float]) -> float | None:
    """Return the log-odds of the first label over the second from the likeliest first tokens of an answer.

    A label that is not listed is taken to be as likely as the least likely token that is, or as all that are not listed
    together if that is less. None where the likeliest token is no label.

    Args:
        tops: tokens and their log-probabilities.
    """
    if max(tops, key=tops.__getitem__).strip() not in LABELS:
        return None
    left = 1 - sum(map(math.exp, tops.values()))
    bound = min(*tops.values(), math.log(left) if left > 0 else 0.0)
    found = []
    for label in LABELS:
        same = [value for token, value in tops.items() if token.strip() == label]
        found.append(math.log(sum(map(math.exp, same))) if same else bound)
    return found[0] - found[1]


def _top_logprobs(answer: Any) -> dict[str, float] | None:
    """Return the likeliest first tokens with their log-probabilities; None where a server gives none."""
    listed = _entry(answer, "choices", 0, "logprobs", "content", 0, "top_logprobs")
    pairs = [(_entry(one, "token"), _entry(one, "logprob")) for one in listed] if isinstance(listed, list) else []
    return {
        token: value
        for token, value in pairs
        if isinstance(token, str) and isinstance(value, float) and abs(value) < 700  # whose exponential is a number
    } or None


def _entry(value: Any, *keys: str | int) -> Any:
    """Return what lies at the end of a path in JSON; None where there is no such path."""
    for key in keys:
        if isinstance(key, str):
            value = value.get(key) if isinstance(value, dict) else None
        else:
            value = value[key] if isinstance(value, list) and key < len(value) else None
    return value


def _check_key(variable: str, base_url: str) -> None:
    """Refuse to begin without the key, or to send it where others can read it.

    Raises:
        UserError: naming the variable.
    """
    if not os.environ.get(variable):
        raise UserError(
            f"key_variable={variable}: this environment variable is not set; export {variable}=KEY, or set "
            "key_variable=null for a server without keys"
        )
    parts = urlsplit(base_url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise UserError(f"base_url={base_url} would carry the key unencrypted; use https, or set key_variable=null")


def _plain(value: Any) -> Any:
    """Return a value of a configuration, which may hold others, as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _count(value: Any) -> int:
    return int(value) if isinstance(value, float) and math.isfinite(value) and value >= 0 else 0


def _text(value: Any) -> str:
    """Return a text that can be written to a file, which half a surrogate pair cannot; empty for all else."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""
