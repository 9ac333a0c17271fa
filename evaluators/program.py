"""A program of the user's as an evaluator: started once, and asked image by image in lines of JSON."""

import base64
import contextlib
import io
import json
import shlex
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from alignbench.errors import UserError
from evaluators.black_box import BlackBox, Version

ImageAs = Literal["base64", "path"]
MAX_ANSWER = 1 << 16  # characters of a line
PATIENCE_SECONDS = 5.0  # in which a program ends by itself once nothing more is asked


class Program(BlackBox):
    """The scores that a program answers.

    It is started when it is first asked, and asked until the command ends. For each image it reads one line from its
    input, `{"image": ..., "prompt": text}`, and writes one line to its output, `{"score": number}`. Instead of a score
    it may answer `{"error": sentence}`, as a server of scores does. What it writes to its error output is shown.

    Args:
        name, version, higher_is_better, display_scale: as for `BlackBox`.
        command: the program and its arguments, as a list or as one text that is split as a shell would; there is no
            shell.
        image_as: `base64` sends each image as a PNG file in base64, `path` the path of a PNG file that is there until
            the answer comes.
        timeout_seconds: longest wait for one answer, above 0; the first one includes the start of the program.

    Raises:
        UserError: an argument is of no use. When asked: the program ends, is silent, or answers something else.
    """

    def __init__(
        self,
        name: str,
        version: Version,
        command: str | Sequence[str],
        higher_is_better: bool = True,
        display_scale: float = 1.0,
        image_as: ImageAs = "base64",
        timeout_seconds: float = 300.0,
    ) -> None:
        super().__init__(name, version, higher_is_better, display_scale)
        self.command = _words(command)
        if not self.command or shutil.which(self.command[0]) is None:
            raise UserError(f"command={command} cannot be started: {' '.join(self.command[:1])!r} is no program here")
        if image_as not in get_args(ImageAs):
            raise UserError(f"image_as={image_as} is unknown; available: {', '.join(get_args(ImageAs))}")
        if not timeout_seconds > 0:
            raise UserError(f"timeout_seconds={timeout_seconds} must be above 0")
        self.image_as, self.timeout_seconds = image_as, timeout_seconds

    @property
    def called(self) -> str:
        return f"the program {self.name} ({shlex.join(self.command):.100})"

    @cached_property
    def _talk(self) -> "Talk":
        """The running program."""
        return Talk(self.command)

    def release(self) -> None:
        super().release()
        if (talk := vars(self).pop("_talk", None)) is not None:
            talk.end()

    def ask(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Any]:
        """Ask for one score after the other."""
        with tempfile.TemporaryDirectory() if self.image_as == "path" else contextlib.nullcontext() as folder:
            return [
                self._score({"image": self._image(image, folder), "prompt": prompt})
                for image, prompt in zip(images, prompts, strict=True)
            ]

    def _image(self, image: Image.Image, folder: str | None) -> str:
        file = io.BytesIO()
        image.save(file, format="PNG", compress_level=1)
        if folder is None:
            return base64.b64encode(file.getvalue()).decode()
        path = Path(folder) / "image.png"  # the one before has its answer
        path.write_bytes(file.getvalue())
        return str(path)

    def _score(self, request: dict[str, str]) -> Any:
        answer = self._talk.ask(json.dumps(request))
        try:
            line = answer.result(self.timeout_seconds)
        except TimeoutError:
            self._talk.end(patience_seconds=0)
            self.release()
            limit = f"{self.timeout_seconds:g} seconds"
            raise UserError(f"{self.called} gave no answer within {limit}; mend it, or raise timeout_seconds") from None
        if line is None:
            status = self._talk.end()
            self.release()
            raise UserError(f"{self.called} ended with status {status} before it answered; mend it")
        try:
            content = json.loads(line, parse_int=float)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and "error" in content:
            raise UserError(f"{self.called} says: {' '.join(str(content['error']).split()):.500}")
        if not isinstance(content, dict) or "score" not in content:
            raise UserError(
                f'{self.called} answered {line.strip()!r:.100}; expected a line with a score, {{"score": 0.5}}; what '
                "else it prints belongs to its error output"
            )
        return content["score"]


class Talk:
    """A running program that is asked in lines."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
        )
        self._thread = ThreadPoolExecutor(max_workers=1)  # pipes cannot be waited for with a limit of time
        weakref.finalize(self, _end, self.process, PATIENCE_SECONDS)  # when the command ends, too

    def ask(self, line: str) -> Future[str | None]:
        """Send a line; return the line that comes back, None if the program ends instead."""
        return self._thread.submit(_answer, self.process, line)

    def end(self, patience_seconds: float = PATIENCE_SECONDS) -> int:
        """Let the program end, and kill it if it does not within some time; return its exit status."""
        status = _end(self.process, patience_seconds)
        self._thread.shutdown()
        return status


def _answer(process: subprocess.Popen[str], line: str) -> str | None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except OSError:  # it has ended, or closed its input
        return None
    return process.stdout.readline(MAX_ANSWER) or None


def _end(process: subprocess.Popen[str], patience_seconds: float) -> int:
    """Close a program's input, which tells it to end, and kill it if it does not; without patience, kill it at once."""
    assert process.stdin is not None
    if not patience_seconds:
        process.kill()  # first: the input cannot be closed while a line waits to be read
    with contextlib.suppress(OSError):  # of a line that was never read
        process.stdin.close()
    try:
        return process.wait(patience_seconds or None)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _words(command: str | Sequence[str]) -> list[str]:
    if not isinstance(command, str):
        return [str(word) for word in command]
    try:
        return shlex.split(command)
    except ValueError:  # a quotation that does not end
        return []
