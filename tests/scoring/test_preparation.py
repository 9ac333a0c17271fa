"""Threads prepare images in whole batches, in order, a chunk ahead of the networks and no further."""

import threading
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignbench.evaluator import Preprocess
from alignbench.scoring import preparation
from alignbench.scoring.preparation import ImageToScore, Prepared, chunks, default_num_threads
from alignbench.store.image_records import ImageSet

IMAGES = ImageSet("test", "test", (), (16, 16), generated=False)


class Means(Preprocess):
    """Reads the mean of each picture, and notes how many threads torch has."""

    key = "means"  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        self.read, self.num_threads = [], set()

    @property
    def num_read(self) -> int:
        return sum(self.read)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        self.read.append(len(images))  # at once, whatever other threads do
        self.num_threads.add(torch.get_num_threads())
        return torch.tensor([np.asarray(image, np.float32).mean() for image in images])


@pytest.fixture
def pictures(tmp_path):
    """Files of 40 grey pictures, whose level is their number."""
    found = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (16, 16), (number,) * 3).save(path)
        found.append(ImageToScore((f"p{number}", 0), "a prompt", path))
    return found


def test_each_chunk_is_seen_again_in_the_same_whole_batches(pictures, monkeypatch):
    monkeypatch.setattr(preparation, "CHUNK", 24)
    means = Means()
    seen = []
    for chunk in chunks(pictures, [means], IMAGES, batch_size=6, num_threads=3):
        batches = [batch.inputs[means].tolist() for batch in chunk]
        assert batches == [batch.inputs[means].tolist() for batch in chunk]
        seen.append(batches)
    levels = [float(number) for number in range(40)]
    assert [len(batches) for batches in seen] == [4, 3]
    assert [batch for batches in seen for batch in batches] == [levels[start : start + 6] for start in range(0, 40, 6)]
    assert means.num_read == 40


def test_images_at_fault_are_told_and_batches_close_up(pictures):
    pictures[2].path.write_bytes(b"no picture")
    pictures[5].path.unlink()
    Image.new("RGB", (8, 16)).save(pictures[39].path)
    for chunk in chunks(pictures, [Means()], IMAGES, batch_size=16, num_threads=2):
        batches, faults = list(chunk), chunk.faults
    assert [len(batch.pictures) for batch in batches] == [16, 16, 5]
    good = [picture for number, picture in enumerate(pictures) if number not in (2, 5, 39)]
    assert [picture for batch in batches for picture in batch.pictures] == good
    assert len({digest for batch in batches for digest in batch.digests}) == len(good)
    damaged, gone, other_size = faults
    assert damaged.startswith(f"{pictures[2].path} is damaged")
    assert gone == f"{pictures[5].path} cannot be read (No such file or directory)"
    assert other_size == f"{pictures[39].path} is 8 x 16 pixels, where 16 x 16 are expected"


def test_threads_are_one_chunk_ahead_and_stop_when_nobody_reads_on(pictures, monkeypatch):
    monkeypatch.setattr(preparation, "CHUNK", 8)
    means, before = Means(), threading.active_count()
    with closing(chunks(pictures, [means], IMAGES, batch_size=8, num_threads=2)) as prepared:
        assert sum(len(batch.pictures) for batch in next(prepared)) == 8
        assert sum(len(batch.pictures) for batch in next(prepared)) == 8
        assert threading.active_count() == before + 2
    assert means.num_read in (16, 24)
    assert threading.active_count() == before


def test_torch_has_its_threads_for_the_networks_alone(pictures):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        means = Means()
        for chunk in chunks(pictures, [means], IMAGES, batch_size=16, num_threads=2):
            assert torch.get_num_threads() == 2
            list(chunk)
        assert means.num_threads == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_nothing_to_prepare_starts_no_thread(monkeypatch):
    monkeypatch.setattr(preparation, "ThreadPoolExecutor", None)
    assert list(chunks([], [Means()], IMAGES, batch_size=4, num_threads=4)) == []


def test_rows_are_chosen_without_a_copy_where_all_are():
    inputs = torch.arange(3.0)
    means, keys = Means(), [ImageToScore((f"p{n}", 0), "", None) for n in range(3)]  # pyright: ignore
    batch = Prepared(keys, ["a", "b", "c"], {means: inputs})
    assert batch.where([True] * 3) is batch
    some = batch.where([True, False, True])
    assert (some.pictures, some.digests) == ([keys[0], keys[2]], ["a", "c"])
    assert some.inputs[means].tolist() == [0.0, 2.0]


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(preparation.os, "sched_getaffinity", lambda _: set(range(16)))
    assert [default_num_threads(processes) for processes in (1, 4, 32)] == [8, 4, 1]
