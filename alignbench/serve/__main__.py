"""`python -m alignbench.serve NAME [key=value ...]`: one evaluator, asked over HTTP by any number of programs."""

import argparse
import base64
import hmac
import json
import math
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from alignbench.cli import check_neighbours
from alignbench.configuration.find_evaluator import build_evaluator, read_settings
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.images import ImageError, decoded
from alignbench.serve.access import TOKEN_VARIABLE, check_reach, checked_token
from alignbench.serve.protocol import Info

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
METHODS = {"/info": "GET", "/score": "POST"}


class Refusal(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class ScoreServer(ThreadingHTTPServer):
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

    daemon_threads = True
    request_queue_size = 128  # the processes of a run all ask at once

    def __init__(
        self,
        evaluator: Evaluator,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        batch_size: int = 16,
        max_request_mb: float = 256,
    ) -> None:
        self.token = checked_token(token)
        check_reach(host, self.token)
        if batch_size < 1 or max_request_mb <= 0:
            raise UserError(f"batch_size={batch_size} must be at least 1, max_request_mb={max_request_mb} above 0")
        self.evaluator, self.batch_size = evaluator, batch_size
        self.max_bytes = int(max_request_mb * 1e6)
        self.info = Info.of(evaluator)
        self.lock = threading.Lock()  # there is one network
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"host={host} port={port} cannot be listened on ({error}); choose others") from None

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host}:{port}"

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong; nothing did where the other end has gone."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ScoreServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        try:
            content = self._read()
            method = METHODS.get(self.path)
            if method is None:
                raise Refusal(404, f"{self.path} is unknown; available: {', '.join(METHODS)}")
            if method != self.command:
                raise Refusal(405, f"{self.path} is asked with {method}, not {self.command}")
            if self.path == "/info":
                self._answer(200, self.server.info.to_json())
            else:
                self._answer(200, {"scores": self.server.score(_json(content))})
        except Refusal as refusal:
            self._answer(refusal.status, {"error": str(refusal)})
        except UserError as error:
            self._answer(400, {"error": str(error)})
        except ConnectionError:
            raise
        except Exception as error:  # whatever fails in an evaluator, the server goes on and the asker is told
            traceback.print_exc()
            self._answer(500, {"error": f"{type(error).__name__}: {error}"})

    def _read(self) -> bytes:
        """Return the body of a request that may be answered."""
        text = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (text.isascii() and text.isdigit()):
            raise Refusal(411, "a request must say its Content-Length")
        length, most = int(text[:18]), self.server.max_bytes
        given = self.headers.get("Authorization", "").encode()
        token = self.server.token
        if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            self._discard(min(length, most))
            raise Refusal(401, f"the token is missing or wrong; set {TOKEN_VARIABLE} to that of the server")
        if length > most:
            self._discard(min(length, 4 * most))
            raise Refusal(413, f"the request has {length / 1e6:.1f} MB, at most {most / 1e6:g} are taken; send fewer")
        return self.rfile.read(length)

    def _discard(self, length: int) -> None:
        """Read on: who still sends when the connection closes never sees the answer."""
        while length > 0 and (part := self.rfile.read(min(length, 1 << 20))):
            length -= len(part)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no proper request, in JSON too."""
        self._answer(code, {"error": message or "the request is not understood"})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are many, and failures have a trace."""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Refusal(400, "the request is not JSON") from None


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
        return decoded(content)
    except ImageError as error:
        raise Refusal(400, f"{named} {error}") from None


def usable(device: str) -> str:
    """Return a device on which numbers can be kept.

    Raises:
        UserError: it is none.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without CUDA
        raise UserError(f"device={device} cannot be used ({str(error).splitlines()[0]}); give another") from None
    return device


def main() -> None:
    """Serve until a signal ends it. Exit status 2 means: the command must be changed."""
    args = arguments()
    transformers_logging.set_verbosity_error()  # long prompts would fill the screen with warnings
    transformers_logging.disable_progress_bar()
    try:
        check_neighbours()
        evaluator = build_evaluator(args.evaluator, read_settings(args.settings))
        evaluator.to(usable(args.device))
        token = args.token or os.environ.get(TOKEN_VARIABLE)
        server = ScoreServer(evaluator, args.host, args.port, token, args.batch_size, args.max_request_mb)
    except UserError as error:
        print(f"alignbench: {error}", file=sys.stderr)
        sys.exit(2)
    for number in (signal.SIGINT, signal.SIGTERM):
        # shutdown waits for the loop, which waits for the handler, so it needs a thread
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving {server.info.name}@{server.info.version} on {server.url}", flush=True)
    with server:
        server.serve_forever()
    server.lock.acquire()  # the interpreter must not end under a network at work


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(prog="python -m alignbench.serve", description=__doc__)
    parser.add_argument("evaluator", help="the name of a file in conf/evaluator")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="in place of values of that file")
    parser.add_argument("--host", default="127.0.0.1", help="any other than loopback needs a token")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--token", help=f"what requests must carry; by default that of {TOKEN_VARIABLE}, if set")
    parser.add_argument("--batch-size", type=int, default=16, help="images that go through the network at once")
    parser.add_argument("--max-request-mb", type=float, default=256, help="largest request")
    return parser.parse_intermixed_args(words)


if __name__ == "__main__":
    main()
