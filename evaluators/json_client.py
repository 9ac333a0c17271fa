"""Requests of JSON over HTTP, sent again with growing pauses while no answer comes."""

import contextlib
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from alignbench.errors import UserError
from alignbench.serve.access import checked_token, is_loopback

PASSING = frozenset({502, 503, 504})  # what a proxy answers for a server that is being started again
MAX_ANSWER_BYTES = 1 << 24
MIN_SECRET = 8  # characters of a token that is one
MAX_PAUSE_SECONDS = 60.0  # that a server can ask for


class RefusedError(UserError):
    """An answer with another status than 200 that another attempt would not change.

    Attributes:
        body: what came with it.
    """

    def __init__(self, message: str, status: int, body: bytes) -> None:
        super().__init__(message)
        self.status, self.body = status, body


@dataclass(frozen=True)
class Answer:
    """What came back: a status, a body, and for how long the server asks to be left alone."""

    status: int
    body: bytes
    pause_seconds: float = 0.0


@dataclass(frozen=True)
class JsonClient:
    """Asks one server.

    Attributes:
        url: as `checked_url` returns it.
        num_retries: how often a request is sent again that was not answered, or with one of `retried`.
        pause_seconds: before the first of these; each further pause is twice as long.
        retried: statuses that pass.
        token: returns what goes into the header Authorization, None for nothing. It is asked for at each request and
            is in no message, whatever a server sends back.
    """

    url: str
    num_retries: int
    pause_seconds: float
    retried: Collection[int]
    token: Callable[[], str | None]

    def ask(self, path: str, content: dict[str, Any] | None, timeout_seconds: float) -> Any:
        """Return the JSON answer to a request; all its numbers are floats.

        Raises:
            RefusedError: the server answers with a status that does not pass.
            UserError: there is no answer, or none in JSON.
        """
        cause, pause = "", 0.0
        for attempt in range(self.num_retries + 1):
            if attempt:
                time.sleep(max(self.pause_seconds * 2 ** (attempt - 1), pause))
            try:
                answer = self._send(path, content, timeout_seconds)
            except (OSError, HTTPException) as error:
                cause = str(error.reason if isinstance(error, URLError) else error) or type(error).__name__
                continue
            if answer.status == 200:
                return self._json(path, answer.body)
            told = f"{answer.status}: {sentence(answer.body)}"
            if answer.status not in self.retried:
                raise RefusedError(f"{self.url}{path} answers {told}", answer.status, answer.body)
            cause, pause = told, answer.pause_seconds
        raise UserError(
            f"{self.url}{path} does not answer after {self.num_retries + 1} attempts ({cause}); start the server, or "
            "correct url"
        )

    def _send(self, path: str, content: dict[str, Any] | None, timeout_seconds: float) -> Answer:
        data = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token := checked_token(self.token()):
            headers["Authorization"] = f"Bearer {token}"
        try:
            with self._opener.open(Request(self.url + path, data, headers), timeout=timeout_seconds) as response:
                return Answer(response.status, _without(token, response.read(MAX_ANSWER_BYTES)))
        except HTTPError as error:
            with error:
                pause = 0.0
                with contextlib.suppress(ValueError):  # a date, which some servers give
                    pause = min(float(error.headers.get("Retry-After", 0)), MAX_PAUSE_SECONDS)
                return Answer(error.code, _without(token, error.read(MAX_ANSWER_BYTES)), pause)

    def _json(self, path: str, body: bytes) -> Any:
        try:
            return json.loads(body, parse_int=float)  # of a number with thousands of digits, infinity
        except (ValueError, RecursionError):
            raise UserError(f"{self.url}{path} gave what is not JSON; correct url or the server") from None

    @cached_property
    def _opener(self) -> OpenerDirector:
        loopback = is_loopback(urlsplit(self.url).hostname or "")
        return build_opener(_Stay, *([ProxyHandler({})] if loopback else []))


class _Stay(HTTPRedirectHandler):
    """Follows no redirection, which would carry the token elsewhere."""

    def redirect_request(self, *args: Any) -> None:
        return None


def checked_url(url: str, variable: str, key: str = "url") -> str:
    """Return the address of a server without a slash at its end.

    Args:
        variable: of the environment, where a password belongs.
        key: of the setting.

    Raises:
        UserError: it is no address, or holds a password.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        fits = False
    else:
        fits = fits and not (parts.query or parts.fragment)
        if parts.username is not None:
            raise UserError(f"{key} must hold no password, for it is stored; set {variable} instead")
    if not fits:
        raise UserError(f"{key}={url} is not understood; expected something like http://127.0.0.1:8000")
    return url.rstrip("/")


def sentence(body: bytes) -> str:
    """Return the sentence of an error, or the beginning of whatever else came."""
    try:
        error = json.loads(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError, RecursionError):
        text = body.decode(errors="replace")
    return " ".join(text.split())[:500] or "no reason given"


def _without(token: str | None, body: bytes) -> bytes:
    """Return a body in which a server does not repeat the token; short ones are words that sentences may have."""
    return body.replace(token.encode(), b"***") if token and len(token) >= MIN_SECRET else body
