"""Shares that are read ahead: in which thread, and that nothing else about them changes."""

import threading
import weakref
from dataclasses import fields

import pytest
import torch

from alignbench.batch import Batch
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import Caches
from alignbench.data.batches.fill_cache import RequiredFeatures, prepare
from alignbench.data.batches.stream import Stream
from alignbench.models.tiny_random import tiny_adapter
from alignbench.work_share import WorkShare
from tests.tiny_runs import RandomPairs, dpo

TOTAL = 8


@pytest.fixture(scope="module")
def model():
    return tiny_adapter("flux")


@pytest.fixture(scope="module")
def cache(model, tmp_path_factory):
    """A folder with all that training needs."""
    folder, data = tmp_path_factory.mktemp("cache"), RandomPairs()
    caches = Caches.open(folder, model, "sample", model.device)
    required = RequiredFeatures.of(dpo(), data, CropPolicy.square(model.resolution))
    prepare(required, Encoder(model, "sample", caches=caches, address=data.address), caches, WorkShare())
    return folder


@pytest.fixture
def encoding(model, monkeypatch):
    """The threads in which the text encoder and the VAE were called."""
    threads = []
    for name in ("encode_prompts", "encode_posterior"):
        encode = getattr(model, name)
        monkeypatch.setattr(
            model, name, lambda x, encode=encode: (threads.append(threading.current_thread()), encode(x))[1]
        )
    return threads


def stream(model, cache, start_step=0, rank=0, num_processes=1):
    data = RandomPairs()
    data.posterior = "sample"
    place = {"start_step": start_step, "rank": rank, "num_processes": num_processes, "num_workers": 0}
    return Stream(dpo(), data, model, cache, total_batch_size=TOTAL, seed=3, **place)


def shares(number, *arguments, **place):
    one = stream(*arguments, **place)
    found = [one.next()[0] for _ in range(number)]
    one.close()
    return found


def values(batch):
    """All tensors of a batch, by name."""
    found = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        found |= values(value) if isinstance(value, Batch) else {field.name: value}
    return found


def equal(one, other):
    pairs = [(value, values(other)[name]) for name, value in values(one).items()]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_shares_are_the_same_from_a_cache_from_networks_and_where_a_run_goes_on(model, cache, tmp_path):
    cached, computed = shares(4, model, cache), shares(4, model, tmp_path)
    assert all(map(equal, cached, computed))
    assert not equal(cached[0], cached[1])
    assert all(map(equal, cached[2:], shares(2, model, cache, start_step=2)))  # though three were read before


def test_two_processes_have_halves_of_the_shares_of_one(model, cache):
    whole = shares(2, model, cache)
    halves = [shares(2, model, cache, rank=rank, num_processes=2) for rank in range(2)]
    for step, one in enumerate(whole):
        assert all(equal(one.rows(rank * 4, rank * 4 + 4), halves[rank][step]) for rank in range(2))


def test_networks_are_called_by_the_thread_that_asks_and_not_at_all_where_all_is_cached(
    model, cache, tmp_path, encoding
):
    shares(3, model, cache)
    assert encoding == []
    shares(3, model, tmp_path)
    assert {*encoding} == {threading.current_thread()}


def test_an_error_while_reading_ahead_is_raised_for_the_share_that_it_is_in(model, cache, monkeypatch):
    latents = Encoder.latents

    def failing(encoder, encoded, index, context):
        return latents(encoder, encoded, index, context) if index[0] < 2 * TOTAL else 1 / 0

    monkeypatch.setattr(Encoder, "latents", failing)
    one = stream(model, cache)
    assert [one.next()[0].index[0].item() for _ in range(2)] == [0, TOTAL]
    with pytest.raises(ZeroDivisionError):
        one.next()
    one.close()


def test_prompts_are_read_once_and_again_when_memory_has_no_room_for_them(model, cache):
    caches = Caches.open(cache, model, "sample", model.device)
    texts, read = ["prompt 1", "prompt 2", ""], []
    entries = caches.prompts.read
    caches.prompts.read = lambda keys: (read.append(len(keys)), entries(keys))[1]
    roomy, tight = (Encoder(model, "sample", max_bytes, caches) for max_bytes in (2**20, 1))
    first = roomy.prompts(texts)
    assert torch.equal(roomy.prompts(texts).prompt_embeds, first.prompt_embeds)
    assert read == [3, 0]
    read.clear()
    for _ in range(2):
        assert torch.equal(tight.prompts(texts).prompt_embeds, first.prompt_embeds)
    assert read == [3, 2]  # one always stays


def test_a_stream_ends_with_its_last_user_and_so_do_the_processes_that_read_for_it(model, cache):
    """They ignore signals, so a program that waited for the garbage collector would not end."""
    one = stream(model, cache)
    one.next()
    one.close()
    ended = weakref.ref(one)
    del one
    assert ended() is None
