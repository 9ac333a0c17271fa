"""Stores: what is written comes back bit for bit or not at all, whoever writes it and whatever happened to the file."""

import fcntl
import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from alignbench.data.storage.tensor_store import TensorStore, key_of, num_bytes

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def entry(number, dtype=torch.float32, side=4):
    generator = torch.Generator().manual_seed(number)
    return {
        "mean": torch.randn(2, side, side, generator=generator).to(dtype),
        "std": torch.randn(2, side, side, generator=generator).to(dtype),
    }


def entries(start, stop, **settings):
    return {key_of(str(number)): entry(number, **settings) for number in range(start, stop)}


def filled(folder, *parts):
    shards = TensorStore(folder)
    for part in parts:
        shards.add(part)
    shards.refresh()
    return shards


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_comes_back_bit_for_bit(tmp_path, dtype):
    part = entries(0, 5, dtype=dtype)
    shards = filled(tmp_path, part)
    assert len(shards) == 5
    assert all(equal(shards.get(key), one) for key, one in part.items())
    assert key_of("9") not in shards
    assert shards.get(key_of("9")) is None


def test_many_are_read_as_one_by_one(tmp_path):
    part = entries(0, 40) | entries(40, 50, side=6)
    shards = filled(tmp_path, dict(list(part.items())[:20]), dict(list(part.items())[20:]))
    keys = [key_of(str(number)) for number in (45, 3, 77, 3, 19, 20, 48, 0, 99)]
    found = shards.read(keys)
    assert [one is None for one in found] == [key not in part for key in keys]
    assert all(one is None or equal(one, part[key]) for key, one in zip(keys, found, strict=True))
    assert shards.read([]) == []
    assert TensorStore(tmp_path / "empty").read(keys[:2]) == [None, None]


def test_keys_that_end_in_zeros_are_told_apart(tmp_path):
    keys = [bytes(16), bytes(15) + b"\1", b"\1" + bytes(15), b"\1\1" + bytes(14)]
    part = {key: entry(number) for number, key in enumerate(keys[:3])}
    shards = filled(tmp_path, part)
    assert all(equal(shards.get(key), one) for key, one in part.items())
    assert keys[3] not in shards


def test_entries_of_several_shapes_and_dtypes_share_a_shard(tmp_path):
    part = entries(0, 3) | entries(3, 5, side=6) | entries(5, 7, dtype=torch.bfloat16)
    part[key_of("mixed")] = {"wide": torch.ones(3), "narrow": torch.ones(2, 5, dtype=torch.bfloat16)}
    shards = filled(tmp_path, part)
    assert len(shards.files) == 1
    assert all(equal(shards.get(key), one) for key, one in part.items())


def test_a_shard_is_a_safetensors_file_that_anybody_can_read(tmp_path):
    from safetensors.torch import load_file

    shards = filled(tmp_path, entries(0, 3))
    content = load_file(shards.files[0])
    assert set(content) == {"0/key", "0/sha256", "0/mean", "0/std"}
    assert torch.equal(content["0/mean"], torch.stack([entry(number)["mean"] for number in range(3)]))


def test_equal_entries_make_equal_files(tmp_path):
    one, two = filled(tmp_path / "one", entries(0, 5)), filled(tmp_path / "two", entries(0, 5))
    assert [file.name for file in one.files] == [file.name for file in two.files]
    assert one.files[0].read_bytes() == two.files[0].read_bytes()
    assert filled(tmp_path / "three", entries(1, 6)).files[0].name != one.files[0].name


def test_what_others_add_is_seen_after_a_refresh(tmp_path):
    mine = filled(tmp_path, entries(0, 3))
    filled(tmp_path, entries(3, 6))
    assert key_of("4") not in mine
    mine.refresh()
    assert equal(mine.get(key_of("4")), entry(4))


def test_any_flipped_bit_is_noticed(tmp_path):
    """Wherever it lies: in values, digests, keys or the header."""
    part = entries(0, 4)
    whole = filled(tmp_path, part).files[0].read_bytes()
    draws, num_kept = random.Random(0), 0
    for place in [0, 3, 9, *(draws.randrange(len(whole)) for _ in range(150))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draws.randrange(8)
        (tmp_path / "a.safetensors").write_bytes(damaged)
        for file in tmp_path.glob("[!a]*.safetensors"):
            file.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shards = TensorStore(tmp_path)
            shards.discard_damaged(shards.files)
            kept = list(tmp_path.glob("*.safetensors"))
            found = {key: shards.get(key) for key in part}
        assert all(one is None or equal(one, part[key]) for key, one in found.items())
        # what is kept has all its values; such a bit is of the header's padding, or of a name that nobody reads
        assert all(found.values()) if kept else not any(found.values())
        num_kept += len(kept)
    assert num_kept < 0.2 * 150


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_shard_that_was_cut_is_deleted_and_said_so(tmp_path, length):
    file = filled(tmp_path, entries(0, 4)).files[0]
    file.write_bytes(file.read_bytes()[:length])
    with pytest.warns(RuntimeWarning, match=f"{file.name} is damaged and was deleted; what it held is computed again"):
        shards = TensorStore(tmp_path)
    assert len(shards) == 0
    assert not file.exists()


def test_damage_that_is_met_in_reading_takes_the_whole_shard_away(tmp_path):
    shards = filled(tmp_path, entries(0, 4), entries(4, 8))
    file = shards.files[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last digest or key
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="damaged"):
        found = [shards.get(key_of(str(number))) for number in range(8)]
    lost = [number for number, one in enumerate(found) if one is None]
    assert lost
    assert not file.exists()
    assert len(shards) == 4
    assert all(equal(found[number], entry(number)) for number in range(8) if number not in lost)


def test_a_shard_that_another_run_deleted_counts_as_absent(tmp_path):
    shards = filled(tmp_path, entries(0, 4), entries(4, 8))
    shards.files[0].unlink()
    found = [shards.get(key_of(str(number))) for number in range(8)]
    assert sum(one is None for one in found) == 4
    assert len(shards) == 4


def test_what_a_killed_writer_left_goes_when_nobody_else_writes(tmp_path):
    left, other = tmp_path / ".x.safetensors.0123.tmp", tmp_path / ".made_by.json.0123.tmp"
    for file in (left, other):
        file.write_bytes(b"half")
    with (tmp_path / ".writers").open("a") as writers:
        fcntl.flock(writers, fcntl.LOCK_SH)
        TensorStore(tmp_path).add(entries(0, 1))
        assert left.exists()  # it may be of the other one
    TensorStore(tmp_path).add(entries(1, 2))
    assert not left.exists()
    assert other.exists()  # no shard
    with (tmp_path / ".writers").open("a") as writers:
        fcntl.flock(writers, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more


def test_many_that_add_at_once_all_leave_their_entries(tmp_path):
    parts = [entries(start, start + 3) for start in (0, 0, 2, 4, 6, 8)]  # some overlap
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(TensorStore(tmp_path).add, parts))
    store, expected = TensorStore(tmp_path), {key: one for part in parts for key, one in part.items()}
    assert all(equal(store.get(key), one) for key, one in expected.items())
    assert not list(tmp_path.glob("*.tmp"))


def test_reading_takes_no_memory_that_stays(tmp_path):
    side = 64  # 64 KiB an entry
    shards = TensorStore(tmp_path)
    for start in range(0, 1024, 128):
        shards.add(entries(start, start + 128, side=side))
    shards.refresh()
    keys = [key_of(str(number)) for number in range(1024)]
    shards.get(keys[0])
    before = psutil.Process().memory_info().rss
    total = sum(num_bytes(one) for key in keys if (one := shards.get(key)))
    assert total == 1024 * 2 * 2 * side * side * 4
    assert psutil.Process().memory_info().rss - before < total / 8
