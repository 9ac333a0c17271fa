"""The server of a study: the page, what a rater sees next, and the votes.

    GET  /           the page; with ?token=TOKEN where there is one, which a cookie then remembers
    GET  /state      what to show the rater whom the cookie names
    GET  /images/N   an image of the rater's, under a name that says nothing
    POST /join {"name"}   /vote {"task", "question", "answer"}   /undo {"task", "question"}   /leave {}

Answers but for page and images are JSON: the state, or {"error": sentence}. Every request may be sent twice.

What keeps others out: cookies that other sites cannot send along (SameSite=Strict) nor scripts read, JSON as the only
form of a request, which other sites may not send, and all that `alignbench.serve.http` refuses.
"""

import hashlib
import hmac
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote

from alignbench.serve import http
from alignbench.serve.http import Handler, Refusal, Server
from alignbench.study.pictures import BlindPictures
from alignbench.study.plan import Task, tasks
from alignbench.votes.ballots import MAX_NAME, Ballots, Rater, Vote
from alignbench.votes.presets import Question
from alignbench.votes.record import StudyFolder

PAGE = Path(__file__).parent / "page"
FILES = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}
HEADERS = http.HEADERS | {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}
MAX_REQUEST = 10_000  # bytes


class StudyServer(Server):
    """Shows a study to raters and stores their votes.

    Args:
        host: name or address to listen on.
        port: 0 for any that is free.
        token: what raters must bring; None for nothing.

    Raises:
        UserError: the address cannot be had, or others could reach it without a token.
    """

    def __init__(
        self, folder: StudyFolder, ballots: Ballots, host: str = "127.0.0.1", port: int = 8080, token: str | None = None
    ) -> None:
        super().__init__(StudyHandler, host, port, token, MAX_REQUEST)
        self.folder, self.ballots = folder, ballots
        self.pictures = BlindPictures(folder)
        self.tasks = lru_cache(64)(lambda rater: tasks(folder, rater))
        # cookies are shared by all ports of a machine, so those of two studies need two names
        self.cookie = f"study_{hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:12]}"

    @property
    def url(self) -> str:
        """Where raters find the study, the token included."""
        place = f"{super().url}/"
        return place if self.token is None else f"{place}?token={quote(self.token, safe='')}"

    @property
    def token_digest(self) -> str:
        """What the cookie holds of the token."""
        return hashlib.sha256((self.token or "").encode()).hexdigest()

    def state(self, rater: Rater | None) -> dict[str, Any]:
        """Return what the page shows a rater next."""
        protocol = self.folder.study.protocol
        if rater is None:
            return {"rater": None, "instructions": protocol.instructions}
        shown, answered = self.tasks(rater.rater), self.ballots.answered(rater.rater)
        places = [(task, question) for task in range(len(shown)) for question in protocol.questions]
        given = [place for place in places if (place[0], place[1].name) in answered]
        state: dict[str, Any] = {
            "rater": rater.name,
            "instructions": protocol.instructions,
            "of": len(shown),
            "last": {"task": given[-1][0], "question": given[-1][1].name} if given else None,
            "task": None,
        }
        left = next((place for place in places if (place[0], place[1].name) not in answered), None)
        if left is None:
            return state
        task, question = left
        return state | {
            "task": task,
            "prompt": self.folder.text(shown[task].prompt_id),
            "question": question.text,
            "question_name": question.name,
            "choices": [vars(choice) for choice in protocol.choices],
            "images": self._addresses(rater, task),
            "next": self._addresses(rater, task + 1) if task + 1 < len(shown) else [],
        }

    def _addresses(self, rater: Rater, task: int) -> list[str]:
        return [f"images/{_image_name(rater, task, side)}" for side in range(len(self.tasks(rater.rater)[task].images))]

    def image(self, rater: Rater, name: str) -> bytes:
        """Return the PNG file that a rater is shown under this name."""
        task, _, rest = name.partition("-")
        side = rest.partition("-")[0]
        shown = self.tasks(rater.rater)
        if not (task.isdecimal() and side.isdecimal() and len(name) < 100):
            raise Refusal(404, "there is no such image")
        if int(task) >= len(shown) or int(side) >= len(shown[int(task)].images):
            raise Refusal(404, "there is no such image")
        if not hmac.compare_digest(name.encode(), _image_name(rater, int(task), int(side)).encode()):
            raise Refusal(404, "there is no such image")
        one = shown[int(task)]
        return self.pictures.png(one.prompt_id, one.images[int(side)])

    def vote(self, rater: Rater, request: Any) -> None:
        """Store the vote that a request asks for.

        Raises:
            Refusal: it is no answer to anything that the rater is asked.
        """
        number, question = self._place(rater, request)
        answer = request.get("answer")
        if answer not in [choice.answer for choice in self.folder.study.protocol.choices]:
            raise Refusal(400, "the answer is not among the choices")
        task: Task = self.tasks(rater.rater)[number]
        left, *others = (shown.run for shown in task.images)
        right = others[0] if others else None
        passed = task.passes(question, answer)
        self.ballots.cast(
            Vote(rater.rater, number, question.name, task.prompt_id, left, right, task.check, passed, answer)
        )

    def undo(self, rater: Rater, request: Any) -> None:
        """Take back the vote that a request names, so that a repeated request takes back no other."""
        number, question = self._place(rater, request)
        self.ballots.withdraw(rater.rater, number, question.name)

    def _place(self, rater: Rater, request: Any) -> tuple[int, Question]:
        number, question = (request.get(key) if isinstance(request, dict) else None for key in ("task", "question"))
        if type(number) is not int or not 0 <= number < len(self.tasks(rater.rater)):
            raise Refusal(400, "there is no such comparison")
        asked = next((one for one in self.folder.study.protocol.questions if one.name == question), None)
        if asked is None:
            raise Refusal(400, "there is no such question")
        return number, asked


def _image_name(rater: Rater, task: int, side: int) -> str:
    """Name an image so that no two are alike: neither those of two raters, nor an image that is shown twice."""
    sign = hmac.new(rater.secret.encode(), f"{task}-{side}".encode(), "sha256").hexdigest()[:24]
    return f"{task}-{side}-{sign}"


class StudyHandler(Handler):
    """One request of a rater's browser."""

    server: StudyServer  # pyright: ignore[reportIncompatibleVariableOverride]
    headers_of_all = HEADERS

    def respond(self, url: SplitResult) -> None:
        if self.command == "GET":
            self._get(url)
        else:
            self._post(url)

    def refuse(self, refusal: Refusal) -> None:
        if self.path.partition("?")[0] == "/":  # a person reads it
            self.send(refusal.status, "text/plain", str(refusal).encode())
        else:
            super().refuse(refusal)

    def describe(self, error: Exception) -> str:
        return "the server failed; tell who sent you here"

    def _get(self, url: SplitResult) -> None:
        if url.path == "/" and self.server.token is not None:
            given = parse_qs(url.query).get("token", [""])[-1]
            if self.is_token(given, self.server.token):
                self._file("/", self._cookie("pass", self.server.token_digest))
                return
        self._check_token()
        if url.path in FILES:
            self._file(url.path)
        elif url.path == "/state":
            self.answer(200, self.server.state(self._rater()))
        elif url.path.startswith("/images/"):
            image = self.server.image(self._known_rater(), url.path.removeprefix("/images/"))
            self.send(200, "image/png", image, {"Cache-Control": "private, max-age=3600, immutable"})
        else:
            raise Refusal(404, "there is nothing here")

    def _post(self, url: SplitResult) -> None:
        self._check_token()
        request = self._request()
        if url.path == "/join":
            rater = self.server.ballots.join(_name(request))
            self.answer(200, self.server.state(rater), self._cookie("rater", rater.secret))
        elif url.path == "/leave":
            self.answer(200, self.server.state(None), self._cookie("rater", ""))
        elif url.path in ("/vote", "/undo"):
            rater = self._known_rater()
            (self.server.vote if url.path == "/vote" else self.server.undo)(rater, request)
            self.answer(200, self.server.state(rater))
        else:
            raise Refusal(404, "there is nothing here")

    # who asks

    def _check_token(self) -> None:
        given = self._cookies().get("pass", "")
        if self.server.token is not None and not self.is_token(given, self.server.token_digest):
            raise Refusal(401, "open the whole link that you were given: it ends with a token")

    def _rater(self) -> Rater | None:
        return self.server.ballots.rater(self._cookies().get("rater", ""))

    def _known_rater(self) -> Rater:
        rater = self._rater()
        if rater is None:
            raise Refusal(403, "say who you are first: reload the page")
        return rater

    def _cookies(self) -> dict[str, str]:
        """Return the cookies of this study, named without it."""
        prefix = f"{self.server.cookie}_"
        # by hand, as the standard library reads no further than the first odd cookie of another program on this machine
        pairs = (part.strip().partition("=") for part in self.headers.get("Cookie", "").split(";"))
        return {name.removeprefix(prefix): value for name, _, value in pairs if name.startswith(prefix)}

    def _cookie(self, name: str, value: str) -> dict[str, str]:
        age = 0 if not value else 90 * 24 * 3600
        text = f"{self.server.cookie}_{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict"
        return {"Set-Cookie": text}

    # what goes in and out

    def _request(self) -> Any:
        if self.headers.get_content_type() != "application/json":
            raise Refusal(415, "a request must be JSON")
        return self.json()

    def _file(self, path: str, headers: dict[str, str] | None = None) -> None:
        content = (PAGE / (path.removeprefix("/") or "index.html")).read_bytes()
        self.send(200, f"{FILES[path]}; charset=utf-8", content, {"Cache-Control": "no-cache", **(headers or {})})


def _name(request: Any) -> str:
    name = request.get("name") if isinstance(request, dict) else None
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise Refusal(400, f"give a name or code of 1 to {MAX_NAME} signs")
    return name
