"""What is encoded beforehand is what would be encoded in training, to the last bit, however often a pass was killed."""

import multiprocessing
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from alignbench.batch import PairBatch, PromptBatch
from alignbench.context import Context, keyed_generator
from alignbench.data.batches import fill_cache as module
from alignbench.data.batches.collate import Indexed, collate
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import Caches
from alignbench.data.batches.fill_cache import RequiredFeatures, prepare, refuse_too_little_space
from alignbench.data.source import LazyTrainingImage, Pair, PairSource
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.without_weights import drop
from alignbench.work_share import WorkShare
from tests.families import EVERY

CPU = torch.device("cpu")
CONTEXT = Context(step=0, seed=3, micro_batch_size=2)


def decode(key):
    return torch.randint(0, 256, (40, 36, 3), generator=keyed_generator(key), dtype=torch.uint8).numpy()


class Pairs(PairSource):
    """Pairs of random pictures, of which the first is in two pairs. Counts what it decodes."""

    name = "random"
    mixed = "dropped"
    num_filtered = Counter()  # noqa: RUF012
    prompts = pairs = fingerprint = None

    def __init__(self, posterior="mode", size=5, fingerprint="random"):
        self.posterior, self.fingerprint = posterior, fingerprint
        self.pairs = [Pair(f"prompt {n}", "shared" if n < 2 else f"{n}-w", f"{n}-l", 0.8) for n in range(size)]
        self.prompts = [pair.prompt for pair in self.pairs]
        self.decoded = []

    def image(self, key):
        return LazyTrainingImage(key, partial(self.decode, key))

    def decode(self, key):
        self.decoded.append(key)
        return decode(key)


class OnPairs:
    batch_type = PairBatch
    prompt_dropout = 0.5


def opened(root, model, data):
    return Caches.open(root, model, data.posterior, CPU)


def encoder(model, data, caches=None):
    return Encoder(model, data.posterior, caches=caches, address=data.address)


def prepared(root, model, data, work_share=None, method=OnPairs):
    """Prepare and return the caches as they are then."""
    caches = opened(root, model, data)
    required = RequiredFeatures.of(method, data, CropPolicy.square(model.resolution))
    prepare(required, encoder(model, data, caches), caches, work_share or WorkShare(), progress=False)
    return opened(root, model, data)


def content(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*.safetensors")}


def batch(model, data, caches=None):
    view = data.view("pairs")
    items = [(100 + number, view[number % len(view)]) for number in range(2 * len(view))]
    return collate(items, OnPairs, encoder(model, data, caches), CONTEXT)


def tensors(rows):
    values = vars(rows.conditioning) | vars(rows)
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Several shards for a few entries."""
    monkeypatch.setattr(module, "MAX_ENTRIES", 2)


@pytest.mark.parametrize("posterior", ["mode", "sample"])
@pytest.mark.parametrize("family", EVERY)
def test_batches_from_the_cache_are_those_without_it_bit_for_bit(tmp_path, family, posterior):
    model = tiny_adapter(family)
    data = Pairs(posterior if model.has_posterior else "mode")
    expected = tensors(batch(model, data))
    caches = prepared(tmp_path, model, data)
    data.decoded.clear()
    for part in model.frozen_networks:
        drop(part)  # calling one would be noticed
    found = tensors(batch(model, data, opened(tmp_path, model, data)))
    assert len(caches.prompts) == 6
    assert len(caches.latents) == 9
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == expected[name].dtype for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert not data.decoded


def test_what_is_not_there_is_encoded_in_training(tmp_path):
    model = tiny_adapter("flux")
    caches = prepared(tmp_path, model, Pairs(size=3, fingerprint="x"))
    larger = Pairs(size=5, fingerprint="x")
    expected, found = tensors(batch(model, larger)), tensors(batch(model, larger, caches))
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_larger_data_add_what_they_have_more(tmp_path):
    model = tiny_adapter("flux")
    before = len(prepared(tmp_path, model, Pairs(size=3, fingerprint="x")).latents)
    larger = Pairs(size=5, fingerprint="x")
    assert (before, len(prepared(tmp_path, model, larger).latents)) == (5, 9)
    assert sorted(set(larger.decoded)) == ["3-l", "3-w", "4-l", "4-w"]


@pytest.mark.parametrize("family", ["stable_diffusion_3", "flux"])
def test_a_pass_that_was_killed_anywhere_and_repeated_leaves_the_same_bytes(tmp_path, family):
    model, data = tiny_adapter(family), Pairs("sample")
    prepared(tmp_path / "whole", model, data)
    whole = content(tmp_path / "whole")
    assert len(whole) == 3 + 5
    for calls in range(1, 1 + 3 + 5):  # one call for each shard, and one that finds out how large prompts are
        root = tmp_path / str(calls)
        caches = opened(root, model, data)
        dying = DyingEncoder(encoder(model, data, caches), calls)
        required = RequiredFeatures.of(OnPairs, data, CropPolicy.square(model.resolution))
        with pytest.raises(InterruptedError):
            prepare(required, dying, caches, WorkShare(), progress=False)
        assert content(root).items() < whole.items()
        prepared(root, model, data)
        assert content(root) == whole


class DyingEncoder:
    """Wraps an encoder so that one call of it raises, as a kill would stop the pass."""

    def __init__(self, encoder, calls):
        self.encoder, self.calls = encoder, calls
        self.model, self.posterior = encoder.model, encoder.posterior

    def _count(self):
        self.calls -= 1
        if self.calls < 0:
            raise InterruptedError

    def encode_prompts(self, texts):
        self._count()
        return self.encoder.encode_prompts(texts)

    def encode_images(self, images):
        self._count()
        return self.encoder.encode_images(images)


def test_a_second_pass_encodes_nothing(tmp_path):
    model, data = tiny_adapter("stable_diffusion"), Pairs()
    prepared(tmp_path, model, data)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    data.decoded.clear()
    prepared(tmp_path, model, data)
    assert not data.decoded
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == made


def test_each_picture_is_encoded_once_however_often_it_is_seen(tmp_path):
    model, data = tiny_adapter("stable_diffusion"), Pairs()
    prepared(tmp_path, model, data)
    assert Counter(data.decoded) == Counter({key for pair in data.pairs for key in (pair.key_w, pair.key_l)})


def test_processes_that_prepare_their_shares_leave_what_one_leaves(tmp_path):
    model, data = tiny_adapter("flux"), Pairs("sample")
    prepared(tmp_path / "one", model, data)
    for work_share in (WorkShare(0, 2, 1, 2), WorkShare(1, 2, 1, 2), WorkShare(1, 2, 2, 2), WorkShare(0, 2, 2, 2)):
        before = content(tmp_path / "four")
        prepared(tmp_path / "four", model, data, work_share)
        assert content(tmp_path / "four").items() > before.items()
    assert content(tmp_path / "four") == content(tmp_path / "one")


def test_two_commands_at_once_leave_one_correct_cache(tmp_path):
    model, data = tiny_adapter("stable_diffusion"), Pairs("sample")
    prepared(tmp_path / "alone", model, data)
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=prepared, args=(tmp_path / "both", model, data)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert content(tmp_path / "both") == content(tmp_path / "alone")


def test_a_damaged_shard_is_made_again_with_a_sentence(tmp_path):
    model, data = tiny_adapter("flux"), Pairs()
    caches = prepared(tmp_path, model, data)
    whole, expected = content(tmp_path), tensors(batch(model, data))
    file = caches.latents.files[1]
    data_of_file = bytearray(file.read_bytes())
    data_of_file[len(data_of_file) // 2] ^= 1
    file.write_bytes(data_of_file)
    with pytest.warns(RuntimeWarning, match=f"{file.name} is damaged and was deleted"):
        found = tensors(batch(model, data, opened(tmp_path, model, data)))
    assert all(torch.equal(found[name], expected[name]) for name in found)
    prepared(tmp_path, model, data)
    assert content(tmp_path) == whole


def test_a_value_that_was_lost_after_its_encoder_was_left_out_is_missed_in_one_sentence(tmp_path):
    model, data = tiny_adapter("flux"), Pairs()
    caches = prepared(tmp_path, model, data)
    for part in model.frozen_networks:
        drop(part)
    caches.latents.files[0].unlink()
    with pytest.raises(UserError, match=r"the image .* is no longer in the cache, .* run the command again with prep"):
        batch(model, data, caches)
    caches.prompts.files[0].unlink()
    with pytest.raises(UserError, match=r"the prompt '.*' is no longer in the cache"):
        batch(model, data, caches)


def test_a_method_on_prompts_needs_no_picture(tmp_path):
    class OnPrompts(OnPairs):
        batch_type = PromptBatch

    data = Pairs()
    required = RequiredFeatures.of(OnPrompts, data, CropPolicy.square(32))
    assert required.prompts == ["", *data.prompts]
    assert not required.crops


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_may_be_decoded_by_other_processes(tmp_path, num_workers):
    model, data = tiny_adapter("stable_diffusion"), Pairs()
    caches = opened(tmp_path, model, data)
    required = RequiredFeatures.of(OnPairs, data, CropPolicy.square(model.resolution))
    prepare(required, encoder(model, data, caches), caches, WorkShare(), num_workers, progress=False)
    assert bool(data.decoded) == (num_workers == 0)
    prepared(tmp_path / "plain", model, data)
    assert sorted(content(tmp_path / "plain").values()) == sorted(
        data for name, data in content(tmp_path).items() if not name.startswith("plain")
    )


def test_a_process_that_reads_data_decodes_what_is_not_cached_and_nothing_else(tmp_path):
    model, data = tiny_adapter("stable_diffusion"), Pairs(size=2, fingerprint="x")
    caches = prepared(tmp_path, model, data)
    larger = Pairs(size=3, fingerprint="x")
    samples = Indexed(larger.view("pairs"), encoder(model, larger, caches).cached_latents.is_missing)
    assert [index for index, _ in (samples[7, position] for position in range(3))] == [7, 7, 7]
    assert larger.decoded == ["2-w", "2-l"]


def test_more_than_the_disk_can_take_is_refused(tmp_path):
    refuse_too_little_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(UserError, match=r"prepare would write 1073741824.0 GiB to .*; free some space"):
        refuse_too_little_space(tmp_path / "not" / "yet", 2.0**60)


def test_shards_hold_what_fits_into_their_size(tmp_path, monkeypatch):
    model, data = tiny_adapter("stable_diffusion"), Pairs()
    monkeypatch.setattr(module, "MAX_ENTRIES", 1024)
    assert len(prepared(tmp_path / "a", model, data).latents.files) == 1
    monkeypatch.setattr(module, "SHARD_BYTES", 3 * 4 * 8 * 8 * 4)  # three images of four channels
    assert len(prepared(tmp_path / "b", model, data).latents.files) == 3
    assert np.prod(model.latent_shape) == 4 * 8 * 8
