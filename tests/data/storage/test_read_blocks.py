"""Orders by blocks: each epoch shows everything once, and comes to each block in one stretch."""

import itertools

import numpy as np
import pytest
import torch

from alignbench.data.batches.sampler import Mix, StepSampler
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError

SIZES = [5, 9, 1, 7, 8, 6, 4]
BLOCK = np.repeat([30, 10, 20, 0, 60, 50, 40], SIZES)  # numbers are names, and in no order
SIZE = len(BLOCK)


def blocks(window):
    return Blocks(BLOCK, window)


def shuffled(window, seed=0):
    return blocks(window).shuffled(torch.Generator().manual_seed(seed))


def num_reads(order, room, block=BLOCK):
    """How often a reader that has room for so many blocks, and forgets the least used, reads one."""
    kept, count = [], 0
    for position in order:
        one = block[position]
        if one in kept:
            kept.remove(one)
        else:
            count += 1
        kept = [*kept, one][-room:]
    return count


def samples(num_steps, num_processes=1, start_step=0, seed=0, mix=None, window=2):
    ranks = [
        StepSampler(SIZE, 8, 1, seed, rank, num_processes, start_step, mix, blocks(window))
        for rank in range(num_processes)
    ]
    return [list(itertools.chain(*parts)) for parts in itertools.islice(zip(*ranks, strict=True), num_steps)]


@pytest.mark.parametrize("window", [1, 2, 3, 7, 100])
def test_everything_is_shown_once_and_each_block_is_read_once(window):
    for seed in range(20):
        order = shuffled(window, seed)
        assert sorted(order) == list(range(SIZE))
        assert num_reads(order, window) == len(SIZES)


def test_samples_of_a_window_are_shuffled_together_and_blocks_are_dealt_anew():
    seen = [BLOCK[shuffled(2, seed)] for seed in range(20)]
    assert len({tuple(one) for one in seen}) == 20
    passages = [int((one[1:] != one[:-1]).sum()) for one in seen]
    assert min(passages) > len(SIZES)  # one block after the other would have 6
    assert len({frozenset(one[:4].tolist()) for one in seen}) > 5
    within = [[position for position in shuffled(1, seed) if BLOCK[position] == 10] for seed in range(20)]
    assert len({tuple(one) for one in within}) == 20


def test_one_window_of_all_blocks_gives_every_sample_the_same_chance_of_every_place():
    """Chi-square of the position of each sample over 2000 shuffles; 39 degrees of freedom each, 40 samples."""
    counts = np.zeros((SIZE, SIZE))
    for seed in range(2000):
        counts[shuffled(100, seed), np.arange(SIZE)] += 1
    chi_square = ((counts - 2000 / SIZE) ** 2 / (2000 / SIZE)).sum()
    assert chi_square / (SIZE - 1) ** 2 == pytest.approx(1, abs=0.15)


def test_the_stream_is_the_same_on_any_number_of_processes_and_after_a_resume():
    whole = samples(12)
    assert samples(12, num_processes=2) == whole
    assert samples(12, num_processes=4) == whole
    assert samples(3, start_step=9) == whole[9:]
    assert samples(12, seed=1) != whole


def test_each_epoch_of_the_stream_is_a_new_order_by_blocks():
    positions = [position for step in samples(15) for _, position in step]
    epochs = [positions[start : start + SIZE] for start in range(0, 3 * SIZE, SIZE)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert all(num_reads(epoch, 2) == len(SIZES) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_sampler_without_blocks_shuffles_as_ever():
    sampler = StepSampler(10, 4, 1, 0, 0, 1)
    assert [position for step in range(3) for _, position in sampler.samples(step)] == [
        *torch.randperm(10, generator=keyed(0)).tolist(), *torch.randperm(10, generator=keyed(1)).tolist()[:2],
    ]  # fmt: skip


def keyed(epoch):
    from alignbench.context import keyed_generator

    return keyed_generator(0, "order", epoch)


def test_a_mix_of_labels_reads_each_block_once_for_each_label_within_the_same_room():
    desirable = [position % 3 == 0 for position in range(SIZE)]
    steps = samples(40, mix=Mix(desirable, 0.5), window=4)
    assert steps == samples(40, num_processes=2, mix=Mix(desirable, 0.5), window=4)
    shown = [position for step in steps for _, position in step]
    num_blocks = [len(set(BLOCK[np.equal(desirable, label)])) for label in (True, False)]
    num_epochs = [len(shown) / 2 / desirable.count(label) for label in (True, False)]
    assert num_reads(shown, 4) <= 0.75 * sum(np.multiply(num_blocks, num_epochs))  # what is there for one serves both
    with pytest.raises(UserError, match=r"data.window_mib, but only one fits; double it, or set data.window_mib=null"):
        samples(1, mix=Mix(desirable, 0.5), window=1)
