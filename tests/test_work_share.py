"""Every image falls to one process of one shard, evenly."""

from itertools import chain

import pytest

from alignbench.errors import UserError
from alignbench.work_share import WorkShare


@pytest.mark.parametrize(("num_shards", "num_processes", "num_items"), [(1, 1, 5), (3, 1, 10), (2, 3, 23), (4, 2, 3)])
def test_shares_are_even_and_together_the_whole(num_shards, num_processes, num_items):
    items = list(range(num_items))
    shares = []
    for shard in range(1, num_shards + 1):
        places = [WorkShare.of(f"{shard}/{num_shards}", rank, num_processes) for rank in range(num_processes)]
        of_shard = [place.share(items) for place in places]
        assert sorted(chain(*of_shard)) == places[0].shard_of(items)
        shares += of_shard
    assert sorted(chain(*shares)) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len({WorkShare.of("1/2", rank, 3).name for rank in range(3)} | {WorkShare.of("2/2", 0, 3).name}) == 4


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/0", "a/b", "1/3/5", "-1/3", 2])
def test_a_shard_that_does_not_exist_is_refused(shard):
    with pytest.raises(UserError, match=f"shard={shard} is not understood; expected I/N"):
        WorkShare.of(shard)


def test_without_shard_a_process_has_its_part_of_the_whole():
    assert WorkShare.of(None, 1, 2).share("abcde") == ["b", "d"]


def test_batches_are_the_same_for_every_process_and_leave_none_without_work():
    shares = [WorkShare.of(f"{shard}/2", rank, 2) for shard in (1, 2) for rank in (0, 1)]
    batches = shares[0].batches(range(10), 4)
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert all(share.batches(range(10), 4) == batches for share in shares)
    assert [share.share(batches) for share in shares] == [[batch] for batch in batches]
    assert WorkShare().batches(range(10), 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert WorkShare().batches([], 4) == []
