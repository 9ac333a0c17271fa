"""Images as evaluators read them: read, decoded and preprocessed in threads while the networks are at those before."""

import math
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from alignbench.evaluator import Preprocess
from alignbench.images import SHAPE, ImageError
from alignbench.store.image_records import ImageKey, ImageSet
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import digest_of, digest_of_content
from alignbench.videos import read_frames

CHUNK = 512  # images or frames that are kept preprocessed for one network after another: about 600 MB
TASK = 8  # images or frames that a thread prepares at a time, or one video
MAX_THREADS = 8
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"

Pass = TypeVar("Pass")


@dataclass(frozen=True)
class ImageToScore:
    """One image to be scored."""

    key: ImageKey
    prompt: str
    path: Path


def images_to_score(folder: RunFolder, images: ImageSet) -> list[ImageToScore]:
    """Return the images of a set in their order."""
    image_folder = folder.images(images.prompt_set, images.sampling_hash)
    return [
        ImageToScore(
            (record.prompt_id, number), record.prompt, image_folder / name
        )  # a path that is absolute stays as it is
        for record in images.records
        for number, name in enumerate(record.images)
    ]


def digests_of(pictures: Sequence[ImageToScore]) -> dict[ImageToScore, str | None]:
    """Return the digests of image files; None for one that is gone."""

    def digest(picture: ImageToScore) -> str | None:
        return digest_of(picture.path) if picture.path.exists() else None

    with ThreadPoolExecutor() as pool:
        return dict(zip(pictures, pool.map(digest, pictures), strict=True))


@dataclass(frozen=True)
class Prepared:
    """Some images as the evaluators read them. Each frame of a video is one row, and the frames of one follow in order.

    Attributes:
        pictures: those that can be scored, by row.
        digests: of their files, by row.
        inputs: what each preprocessing made of them, by row; empty without pictures.
        faults: what is wrong with the others, a sentence each.
    """

    pictures: Sequence[ImageToScore]
    digests: Sequence[str]
    inputs: dict[Preprocess, Any]
    faults: Sequence[str] = ()

    def rows(self, start: int, stop: int) -> "Prepared":
        """Return some rows that follow each other."""
        part = slice(start, stop)
        inputs = {preprocess: values[part] for preprocess, values in self.inputs.items()}
        return Prepared(self.pictures[part], self.digests[part], inputs)

    def where(self, mask: Sequence[bool]) -> "Prepared":
        """Return the rows of which `mask` is true; where all are, the same object."""
        if all(mask):
            return self
        rows = [row for row, is_chosen in enumerate(mask) if is_chosen]
        inputs = {preprocess: take(values, rows) for preprocess, values in self.inputs.items()}
        return Prepared([self.pictures[row] for row in rows], [self.digests[row] for row in rows], inputs)


class Chunk:
    """Batches that several networks see one after the other: the first waits for each, the others find them here.

    Attributes:
        faults: of its images, as far as they were prepared.
    """

    def __init__(self, coming: deque[Future[Prepared]], batch_size: int) -> None:
        self.faults: list[str] = []
        self._known: list[Prepared] = []
        self._coming = self._batches(coming, batch_size)

    def __iter__(self) -> Iterator[Prepared]:
        yield from self._known
        for batch in self._coming:
            self._known.append(batch)
            yield batch

    def _batches(self, coming: deque[Future[Prepared]], size: int) -> Iterator[Prepared]:
        """Yield batches of `size` rows, the last as large as what is left; forget what they were made of."""
        held: list[Prepared] = []
        while coming:
            prepared = coming.popleft().result()
            self.faults += prepared.faults
            held += [prepared] if prepared.pictures else []
            num_rows = sum(len(one.pictures) for one in held)
            if num_rows >= size:
                joined, num_whole = _joined(held), num_rows - num_rows % size
                for start in range(0, num_whole, size):
                    yield joined.rows(start, start + size)
                held = [joined.rows(num_whole, num_rows)] if num_rows > num_whole else []
        if held:
            yield _joined(held)


def chunks(
    pictures: Sequence[ImageToScore],
    preprocesses: Sequence[Preprocess],
    images: ImageSet,
    batch_size: int,
    num_threads: int,
) -> Generator[Chunk, None, None]:
    """Yield the images in their order, a chunk at a time, while threads are at the next.

    A chunk holds whole batches where it can. So after a kill the same images make a batch, and their scores are equal
    to the last bit.

    Args:
        images: whose size and frames the pictures have to have.
        batch_size: rows of a batch.
    """
    size = max(1, TASK // images.num_frames)
    tasks = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    rows_of_task = size * images.num_frames
    num_tasks = max(1, (CHUNK - CHUNK % math.lcm(rows_of_task, batch_size) or CHUNK) // rows_of_task)
    prepare = partial(_prepare, preprocesses=preprocesses, images=images)
    with _threads(min(num_threads, len(tasks))) as threads:
        turns = cycle(threads)

        def begin(start: int) -> deque[Future[Prepared]]:
            return deque(next(turns).submit(prepare, task) for task in tasks[start : start + num_tasks])

        coming = begin(0)
        for start in range(num_tasks, len(tasks) + num_tasks, num_tasks):
            following = begin(start)
            yield Chunk(coming, batch_size)
            coming = following


class Passes(Generic[Pass]):
    """Goes over images chunk by chunk, and over each chunk once for each pass, with a progress bar.

    Args:
        title: what the bar says.
        passes: what goes over the images, one after the other, such as a network.
        pictures, preprocesses, images, batch_size, num_threads: see `chunks`.
        is_shown: whether there is a bar.

    Attributes:
        faults: what is wrong with images that could not be prepared, a sentence each.
    """

    def __init__(
        self,
        title: str,
        passes: Sequence[Pass],
        pictures: Sequence[ImageToScore],
        preprocesses: Sequence[Preprocess],
        images: ImageSet,
        batch_size: int,
        num_threads: int,
        is_shown: bool,
    ) -> None:
        self.title, self.passes, self.num_images = title, passes, len(pictures)
        self.is_shown, self.num_frames = is_shown and bool(pictures), images.num_frames
        self.faults: list[str] = []
        self._chunks = chunks(pictures, preprocesses, images, batch_size, num_threads)

    def steps(self) -> Generator[tuple[Pass, Iterator[Prepared]], None, None]:
        """Yield each pass with the batches of a chunk, all of which it has to go over; then the next chunk."""
        with closing(self._chunks) as prepared, tqdm(
            total=self.num_images, desc=self.title, unit="image", bar_format=BAR, dynamic_ncols=True, leave=None,
            disable=not self.is_shown,
        ) as bar:  # fmt: skip
            for chunk in prepared:
                for one in self.passes:
                    yield one, self._batches(chunk, bar)
                self.faults += chunk.faults
                bar.update(len(chunk.faults))

    def _batches(self, chunk: Chunk, bar: tqdm) -> Iterator[Prepared]:
        for batch in chunk:
            yield batch
            # an image is done when the last pass has seen it; fractions may add up to a little too much
            bar.update(min(len(batch.pictures) / self.num_frames / len(self.passes), bar.total - bar.n))


def default_num_threads(num_processes: int) -> int:
    """Return how many threads prepare images in each of the processes that share this machine."""
    return min(MAX_THREADS, max(1, len(os.sched_getaffinity(0)) // num_processes))


def take(values: Any, rows: Sequence[int]) -> Any:
    """Return some rows, in rising order, of a tensor or a list; where these are all, without a copy."""
    if len(rows) == len(values):
        return values
    return values[torch.tensor(rows, dtype=torch.long)] if isinstance(values, Tensor) else [values[row] for row in rows]


@contextmanager
def _threads(num: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Start threads of which each computes alone: torch's own threads, one a core, are for the networks."""
    threads, num_torch_threads = [ThreadPoolExecutor(1) for _ in range(num)], torch.get_num_threads()
    try:
        try:
            for thread in threads:
                thread.submit(_compute_alone).result()
        finally:
            torch.set_num_threads(num_torch_threads)  # for this thread, and for libraries that have one for all
        yield threads
    finally:
        for thread in threads:
            thread.shutdown(cancel_futures=True)


def _compute_alone() -> None:
    """Let torch compute without further threads where this thread calls it."""
    torch.get_num_threads()  # the first look at it sets the number that is common to all threads
    torch.set_num_threads(1)


def _prepare(pictures: Sequence[ImageToScore], preprocesses: Sequence[Preprocess], images: ImageSet) -> Prepared:
    """Read and preprocess some images."""
    good, digests, opened, faults = [], [], [], []
    for picture in pictures:
        try:
            content = picture.path.read_bytes()
            frames = read_frames(content, images.frames)
            if images.size is not None and frames[0].size != images.size:
                (width, height), (w, h) = frames[0].size, images.size
                raise ImageError(f"is {width} x {height} pixels, where {w} x {h} are expected", SHAPE)
        except ImageError as error:
            faults.append(f"{picture.path} {error}")
        except OSError as error:
            faults.append(f"{picture.path} cannot be read ({error.strerror})")
        else:
            good += [picture] * len(frames)
            digests += [digest_of_content(content)] * len(frames)
            opened += frames
    inputs = {preprocess: preprocess(opened) for preprocess in preprocesses} if good else {}
    return Prepared(good, digests, inputs, faults)


def _joined(parts: Sequence[Prepared]) -> Prepared:
    if len(parts) == 1:
        return parts[0]
    return Prepared(
        [picture for part in parts for picture in part.pictures],
        [digest for part in parts for digest in part.digests],
        {preprocess: _joined_inputs([part.inputs[preprocess] for part in parts]) for preprocess in parts[0].inputs},
    )


def _joined_inputs(parts: Sequence[Any]) -> Any:
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else [entry for part in parts for entry in part]
