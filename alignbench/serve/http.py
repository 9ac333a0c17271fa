"""The base of the HTTP servers of this program: who may ask, how much may be sent, and how errors are answered.

Whoever is refused gets {"error": sentence} with a 4xx status, and 5xx says that the server failed; it goes on. Without
a token a server answers to the names of this machine alone and to no page of another site, so that no site can point
its own name here or let a visitor's browser ask.
"""

import hmac
import json
import signal
import socket
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from alignbench.errors import UserError
from alignbench.serve.access import check_reach, checked_token, is_loopback

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refusal(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class GoneError(Exception):
    """The other end has left, or has sent nothing for too long; there is nobody to answer."""


class Server(ThreadingHTTPServer):
    """Listens on an address, each request in a thread.

    Args:
        handler: what answers a request.
        host: name or address to listen on.
        port: 0 for any that is free.
        token: what requests must carry; None for nothing.
        max_bytes: largest body of a request.

    Raises:
        UserError: the address cannot be had, or others could reach it without a token.
    """

    daemon_threads = True
    request_queue_size = 1024  # the processes of a run all ask at once, or a class of voters

    def __init__(self, handler: "type[Handler]", host: str, port: int, token: str | None, max_bytes: int) -> None:
        self.token = checked_token(token)
        check_reach(host, self.token)
        self.max_bytes = max_bytes
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"host={host} port={port} cannot be listened on ({error}); choose others") from None

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host}:{port}"

    def run(self, *announcement: str) -> None:
        """Print some lines and serve until a signal ends it."""
        for number in (signal.SIGINT, signal.SIGTERM):
            # shutdown waits for the loop, which waits for the handler, so it needs a thread
            signal.signal(number, lambda *_: threading.Thread(target=self.shutdown).start())
        print(*announcement, sep="\n", flush=True)
        with self:
            self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong; nothing did where the other end has gone."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler, ABC):
    """One request. A subclass says in `respond` how it is answered."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "alignbench", ""
    timeout = 60  # seconds without a byte
    headers_of_all: ClassVar[dict[str, str]] = HEADERS

    @abstractmethod
    def respond(self, url: SplitResult) -> None:
        """Answer a request whose sender may ask this machine.

        Raises:
            Refusal: it is answered with an error.
        """

    def describe(self, error: Exception) -> str:
        """Return what the asker is told of a failure."""
        return f"{type(error).__name__}: {error}"

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        self._num_unread = 0
        try:
            try:
                self._num_unread = self._content_length()
                self._check_asker()
                self.respond(_split(self.path))
            except Refusal as refusal:
                self.refuse(refusal)
            except GoneError:
                raise
            except Exception as error:  # whatever fails, the server goes on and the asker is told
                traceback.print_exc()
                self.refuse(Refusal(500, self.describe(error)))
        except GoneError:
            self.close_connection = True

    # ---- who asks

    def _check_asker(self) -> None:
        """Refuse names that other sites gave this machine, and pages of other sites."""
        if self.command == "POST" and self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refusal(403, "pages of other sites may not ask this server")  # whatever proxy the request came by
        if self.server.token is not None:
            return
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not is_loopback(_split(f"//{host}").hostname or ""):
            raise Refusal(403, "this server is for its own machine alone")
        if origin is not None and _split(origin).netloc != host:
            raise Refusal(403, "pages of other sites may not ask this server")

    def is_token(self, given: str, expected: str) -> bool:
        """Say whether text equals a secret, in a time that tells nothing of it."""
        return hmac.compare_digest(given.encode(), expected.encode())

    # ---- what goes in

    def _content_length(self) -> int:
        text, *others = self.headers.get_all("Content-Length", ["0"])
        if others or "Transfer-Encoding" in self.headers or not (text.isascii() and text.isdigit()):
            raise Refusal(411, "a request must say its Content-Length")
        return int(text[:18])

    def json(self) -> Any:
        """Return the body of a request.

        Raises:
            Refusal: it is too large, or is not JSON.
        """
        length, most = self._num_unread, self.server.max_bytes
        if length > most:
            raise Refusal(413, f"the request has {length / 1e6:.1f} MB, at most {most / 1e6:g} are taken; send fewer")
        try:
            content = self.rfile.read(length)
        except OSError:
            raise GoneError from None
        if len(content) < length:
            raise GoneError
        self._num_unread = 0
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise Refusal(400, "the request is not JSON") from None

    def _discard(self) -> None:
        """Read what is left of a body: who still sends when the connection closes never sees the answer."""
        left = min(self._num_unread, 4 * self.server.max_bytes)
        self._num_unread = 0
        try:
            while left > 0 and (part := self.rfile.read(min(left, 1 << 20))):
                left -= len(part)
        except OSError:
            raise GoneError from None

    # ---- what goes out

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error."""
        self.answer(refusal.status, {"error": str(refusal)})

    def answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self.send(status, "application/json", json.dumps(content, allow_nan=False).encode(), headers)

    def send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer with a body of some media type."""
        self._discard()
        own = {"Content-Type": kind, "Content-Length": str(len(body))}
        try:
            self.send_response(status)
            for name, value in {**self.headers_of_all, **(headers or {}), **own}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            raise GoneError from None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no proper request, in JSON too."""
        self._num_unread = 0  # its headers may not have been read
        try:
            self.answer(code, {"error": message or "the request is not understood"})
        except GoneError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are many, addresses of people are nobody's business, and failures have a trace."""


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise Refusal(400, "the address is not understood") from None
