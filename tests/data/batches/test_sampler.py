"""Which samples each step takes: epochs, groups and mixes of labels, on any number of processes."""

import itertools
from collections import Counter

import pytest

from alignbench.data.batches.sampler import Mix, StepSampler
from alignbench.errors import UserError


def sampler(size=10, total_batch_size=8, group_size=1, seed=0, rank=0, num_processes=1, start_step=0, mix=None):
    return StepSampler(size, total_batch_size, group_size, seed, rank, num_processes, start_step, mix)


def first_steps(num_processes, num_steps=5, **settings):
    """Return the samples of the first steps, those of all processes joined."""
    ranks = [sampler(rank=rank, num_processes=num_processes, **settings) for rank in range(num_processes)]
    return [list(itertools.chain(*parts)) for parts in itertools.islice(zip(*ranks, strict=True), num_steps)]


@pytest.mark.parametrize("num_processes", [2, 4])
def test_the_stream_is_the_same_on_any_number_of_processes(num_processes):
    assert first_steps(num_processes) == first_steps(1)


def test_a_resumed_stream_goes_on_where_it_was():
    whole = first_steps(2)
    assert first_steps(2, num_steps=2, start_step=3) == whole[3:]


def test_global_indices_count_on_through_the_run():
    samples = itertools.chain(*first_steps(1))
    assert [index for index, _ in samples] == list(range(40))


def test_with_fixed_draws_the_visits_to_a_sample_take_them_in_turn():
    """Three draws of ten samples; an epoch takes ten entries, whatever the steps and processes."""
    stream = StepSampler(10, 8, 1, 0, 0, 1, num_draws=3)
    samples = list(itertools.chain(*itertools.islice(stream, 5)))
    for epoch in range(4):
        visits = samples[10 * epoch : 10 * epoch + 10]
        assert sorted(index for index, _ in visits) == [3 * position + epoch % 3 for position in range(10)]
        assert all(index // 3 == position for index, position in visits)
    assert [position for _, position in samples] == [place for _, place in itertools.chain(*first_steps(1))]
    of_second = StepSampler(10, 8, 1, 0, 1, 2, start_step=3, num_draws=3)
    assert next(iter(of_second)) == samples[28:32]


def test_with_a_mix_each_label_counts_its_own_visits():
    """Half of all entries are of the one desirable sample: its draws change each time, those of others later."""
    mix = Mix([True, False, False, False], 0.5)
    samples = itertools.chain(*itertools.islice(StepSampler(4, 4, 1, 0, 0, 1, mix=mix, num_draws=2), 6))
    visits = Counter(samples)
    assert [visits[index, 0] for index in (0, 1)] == [6, 6]
    assert all(visits[2 * position + draw, position] == 2 for position in (1, 2, 3) for draw in (0, 1))


def test_each_epoch_shows_every_sample_once_in_a_new_order():
    positions = [position for _, position in itertools.chain(*first_steps(1))]
    epochs = [positions[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_depends_on_the_seed():
    assert first_steps(1, seed=0) != first_steps(1, seed=1)


def test_a_group_of_samples_is_at_one_position_and_on_one_process():
    for samples in itertools.islice(sampler(group_size=4, num_processes=2, rank=1), 5):
        assert len({position for _, position in samples}) == 1
    positions = [position for _, position in itertools.chain(*first_steps(2, group_size=4))][::4]
    assert sorted(positions) == list(range(10))


def test_an_uneven_split_is_refused():
    with pytest.raises(UserError, match=r"train.total_batch_size=8 cannot be split evenly over 3 processes; .* of 3"):
        sampler(num_processes=3)
    with pytest.raises(UserError, match="over 2 processes in groups of 3; choose a multiple of 6"):
        sampler(num_processes=2, group_size=3)


def test_empty_data_are_refused():
    with pytest.raises(UserError, match="empty"):
        sampler(size=0)


# ---- a mix of labels: positions 0, 1 and 2 of 10 are desirable

MIX = Mix([True] * 3 + [False] * 7, share=0.8)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.05])
def test_every_step_has_its_share_of_desirable_samples(share):
    steps = first_steps(1, num_steps=200, mix=Mix(MIX.desirable, share))
    counts = [sum(position < 3 for _, position in samples) for samples in steps]
    assert all(abs(count - 8 * share) < 1 for count in counts)
    assert sum(counts) == pytest.approx(200 * 8 * share, abs=1)


def test_the_order_of_labels_within_a_step_is_random():
    steps = first_steps(1, num_steps=50, mix=MIX)
    patterns = {tuple(position < 3 for _, position in samples) for samples in steps}
    assert len(patterns) > 10


def test_a_sample_is_shown_as_often_as_the_published_weights_say_and_never_once_more_than_another_of_its_label():
    """Pick-a-Pic: 237530 desirable and 690538 undesirable images, 0.8 desirable: 3.1257 and 0.26879 times an epoch."""
    desirable, undesirable = 237530 / 928068, 690538 / 928068
    assert 0.8 / desirable == pytest.approx(3.1257, abs=1e-4)
    assert 0.2 / undesirable == pytest.approx(0.26879, abs=1e-5)
    counts = Counter(position for samples in first_steps(1, num_steps=100, mix=MIX) for _, position in samples)
    assert [counts[position] for position in range(10)] == pytest.approx(
        [800 * 0.8 / 3] * 3 + [800 * 0.2 / 7] * 7, abs=1
    )


@pytest.mark.parametrize("num_processes", [2, 4])
def test_a_mixed_stream_is_the_same_on_any_number_of_processes_and_after_a_resume(num_processes):
    whole = first_steps(1, mix=MIX)
    assert first_steps(num_processes, mix=MIX) == whole
    assert first_steps(num_processes, num_steps=2, start_step=3, mix=MIX) == whole[3:]
    assert first_steps(1, seed=1, mix=MIX) != whole


def test_a_mix_of_one_label_is_refused():
    with pytest.raises(
        UserError, match=r"desirable_share=0.8 needs images of both labels, .* 10 desirable and 0 undes"
    ):
        sampler(mix=Mix([True] * 10, 0.8))
