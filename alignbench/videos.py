"""Which frames of a video are read, and how the frames of a generated one are stored.

A generated video is an animated WebP without loss. Training videos are animated WebP, GIF, PNG or AVIF, which PIL
reads, or films (`FILMS`), which need PyAV. All frames of a video have one size.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from PIL import Image

from alignbench.errors import UserError
from alignbench.files import replacing
from alignbench.images import Header, ImageError, damage_as_error, decoded, rgb_frame, scorable, with_usable_shape

if TYPE_CHECKING:
    import numpy as np

FILMS = (".mp4", ".webm", ".mov")  # the suffixes of files that PyAV reads
ANIMATED = ("WEBP", "GIF", "PNG", "AVIF")  # formats of PIL whose frames follow each other in time
UNTOLD = 100  # milliseconds of a frame whose file tells none, as in browsers

# Why a file is refused where videos are trained on, in the words that count files.
STILL = "a picture in place of a video"
TOO_SHORT = "video too short"
FAULTS = (STILL, TOO_SHORT)

T = TypeVar("T")


@dataclass(frozen=True)
class FrameSpec:
    """The frames of a video that a model sees or makes: its first `num_frames`, at `fps` frames a second."""

    num_frames: int
    fps: float

    @property
    def name(self) -> str:
        """A name that tells specifications apart."""
        return f"{self.num_frames}@{self.fps:g}"

    def choose(self, frames: Iterable[tuple[float, T]]) -> list[T]:
        """Return what a video shows in the middle of the time of each frame; fewer frames where it ends before.

        Args:
            frames: in their order, each with the second at which it ends. They are read as far as they are needed.
        """
        chosen: list[T] = []
        for end, frame in frames:
            while len(chosen) < self.num_frames and (len(chosen) + 0.5) / self.fps < end:
                chosen.append(frame)
            if len(chosen) == self.num_frames:
                break
        return chosen

    def __str__(self) -> str:
        return f"{self.num_frames} frames at {self.fps:g} a second"


def frame_spec(num_frames: int, fps: float | None) -> FrameSpec | None:
    """Return the frames of a model's videos; None with one frame, which is an image."""
    if num_frames == 1:
        return None
    if fps is None:
        raise UserError(f"num_frames={num_frames} are frames of a video, and fps is not set: how many are in a second")
    return FrameSpec(num_frames, float(fps))


# ---- generated videos


def write_video(path: Path, frames: "np.ndarray", fps: float) -> None:
    """Write a video atomically; equal frames give equal bytes. A frame that equals the one before only prolongs it.

    Args:
        frames: uint8, [T, H, W, 3].
    """
    starts = [round(1000 * number / fps) for number in range(len(frames) + 1)]
    first, *others = map(Image.fromarray, frames)
    with replacing(path) as temporary:
        first.save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=others,
            duration=[end - start for start, end in pairwise(starts)],
            loop=0,
            lossless=True,
            method=0,  # a sixth larger than by default, and ten times as fast
        )


def read_frames(content: bytes, spec: FrameSpec | None) -> list[Image.Image]:
    """Return the frames that a file holds in RGB, if they can be scored.

    Args:
        content: of a generated video, or of a picture.
        spec: its frames; None for a picture, whose only frame is returned.

    Raises:
        ImageError: they cannot; the message is the end of a sentence that begins with the name of the file.
    """
    if spec is None:
        return [scorable(content)]
    with damage_as_error(), Image.open(io.BytesIO(content)) as image:
        # a video whose frames are all alike is stored as one
        frames = spec.choose(_animation(image)) if _num_frames(image) > 1 else [rgb_frame(image)] * spec.num_frames
    _refuse_short(frames, spec)
    return [with_usable_shape(frame) for frame in frames]


def still(content: bytes) -> Image.Image:
    """Return the picture that a file holds in RGB, of any shape; of a video its middle frame.

    Raises:
        ImageError: as `alignbench.images.decoded`.
    """
    with damage_as_error(), Image.open(io.BytesIO(content)) as image:
        if image.format not in ANIMATED or _num_frames(image) == 1:
            return decoded(content)
        image.seek(_num_frames(image) // 2)
        return rgb_frame(image)


def read_still(file: Path) -> Image.Image:
    """Return `still` of a file.

    Raises:
        ImageError: the file is refused; the message names it.
    """
    try:
        return still(file.read_bytes())
    except ImageError as error:
        raise ImageError(f"{file} {error}", error.fault) from None


# ---- training videos


def check_films(names: Iterable[str]) -> None:
    """Refuse films where PyAV is not installed.

    Raises:
        UserError: naming one of them.
    """
    film = next((name for name in names if is_film(name)), None)
    if film is not None and find_spec("av") is None:
        raise UserError(
            f"{film} is a film, which the package av reads, and it is not installed: "
            'pip install "alignbench[video]", or in the clone: uv sync --extra video; animated WebP and GIF need no '
            "package"
        )


def is_film(name: str) -> bool:
    """Say whether a file is read by PyAV, by its name."""
    return name.lower().endswith(FILMS)


def read_video(file: BinaryIO, name: str, spec: FrameSpec) -> "np.ndarray":
    """Return the frames of a training video, uint8, [T, H, W, 3].

    Args:
        name: of the file, whose suffix tells who reads it.

    Raises:
        ImageError: it is damaged, no video, or too short; the message is the end of a sentence that begins with the
            name of the file.
    """
    import numpy as np

    if is_film(name):
        with _film_damage_as_error():
            frames = [_upright(frame) for frame in spec.choose(_film(file))]
    else:
        with damage_as_error(), Image.open(file) as image:
            if image.format not in ANIMATED or _num_frames(image) == 1:
                raise ImageError("is a picture, and the model is trained on videos", STILL)
            frames = [np.asarray(frame) for frame in spec.choose(_animation(image))]
    _refuse_short(frames, spec)
    return np.stack(frames)


def read_video_header(file: BinaryIO, name: str, spec: FrameSpec) -> Header:
    """Return the size of a training video that can be used, which is read for that.

    Raises:
        ImageError: as `read_video`.
    """
    _, height, width, _ = read_video(file, name, spec).shape
    return Header(height, width, converted=False)


def _refuse_short(frames: Sequence[Any], spec: FrameSpec) -> None:
    if len(frames) < spec.num_frames:
        raise ImageError(f"is too short for {spec}", TOO_SHORT)


def _num_frames(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1)


def _animation(image: Image.Image) -> Iterator[tuple[float, Image.Image]]:
    """Yield the frames of an animated picture in RGB, each with the second at which it ends."""
    milliseconds = 0.0
    for number in range(_num_frames(image)):
        image.seek(number)
        frame = rgb_frame(image)  # decoding makes the duration known
        milliseconds += image.info.get("duration") or UNTOLD
        yield milliseconds / 1000, frame


def _film(file: BinaryIO) -> Iterator[tuple[float, Any]]:
    """Yield the frames of a film as PyAV has them, each with the second at which it ends, counted from the first."""
    import av

    with av.open(file, "r") as container:
        if not container.streams.video:
            raise ImageError("has no pictures")
        stream = container.streams.video[0]
        length = float(1 / (stream.average_rate or 1000 / UNTOLD))
        times: list[float] = []
        before: Any = None
        for frame in container.decode(stream):
            times.append(length * len(times) if frame.time is None else frame.time)
            if before is not None:
                yield times[-1] - times[0], before
            before = frame
        if before is not None:
            yield times[-1] + length - times[0], before


def _upright(frame: Any) -> "np.ndarray":
    """Return a frame of PyAV as it is to be shown, uint8, [H, W, 3]: phones write films that are to be turned."""
    import numpy as np

    return np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))


@contextmanager
def _film_damage_as_error() -> Iterator[None]:
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise ImageError(f"is damaged ({error.strerror})") from None
