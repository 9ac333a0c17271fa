"""Write finished images in threads while the next batch is sampled."""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from alignbench.files import write_png
from alignbench.videos import FrameSpec, write_video

MAX_THREADS = 8
MAX_BYTES = 2**28  # of images that wait or are being written: 85 of 1024 x 1024 pixels


class ImageWriter:
    """Writes each image as PNG and each video as animated WebP, whole or not at all.

    Compression and the disk release the interpreter lock, so they take no time from the sampling. Leaving the context
    waits for all files, also where an error or a signal ends the sampling: what was sampled is kept.

    Args:
        frames: of each video; None for images.
    """

    def __init__(self, frames: FrameSpec | None) -> None:
        self.frames = frames
        self._threads = ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0))))
        self._pending: deque[tuple[Future[None], int]] = deque()  # with the bytes of each image
        self._num_bytes = 0

    def write(self, path: Path, picture: np.ndarray) -> None:
        """Write an image [H, W, 3] or a video [T, H, W, 3], uint8. Returns at once, unless `MAX_BYTES` are pending.

        Raises:
            OSError: an earlier image could not be stored.
        """
        while self._pending and (self._pending[0][0].done() or self._num_bytes + picture.nbytes > MAX_BYTES):
            self._finish_first()
        self._pending.append((self._threads.submit(self._store, path, picture), picture.nbytes))
        self._num_bytes += picture.nbytes

    def _store(self, path: Path, picture: np.ndarray) -> None:
        if self.frames is None:
            write_png(path, Image.fromarray(picture))
        else:
            write_video(path, picture, self.frames.fps)

    def _finish_first(self) -> None:
        """Wait for the image that is pending longest; raise what its thread raised."""
        written, num_bytes = self._pending.popleft()
        self._num_bytes -= num_bytes
        written.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        while error is None and self._pending:
            self._finish_first()
