"""Values of the frozen start at fixed draws: the same on any layout, found again, and what the network would say."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from alignbench.batch import Conditioning, PairBatch
from alignbench.configuration.build import run_name
from alignbench.configuration.compose import composed
from alignbench.context import Context, keyed_generator
from alignbench.data.batches import reference_values as module
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.reference_values import FixedDraws, ReferenceValues, start_identity
from alignbench.data.batches.stream import Stream
from alignbench.data.source import Pair, PairSource, TrainingImage
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.work_share import WorkShare
from methods.dpo import DPO
from tests.processes import together

TRAIN = OmegaConf.create({"weights_dtype": None, "base_bits": None, "mixed_precision": "no", "attention_backend": None})
NUM_PAIRS, NUM_DRAWS = 3, 2


class Pairs(PairSource):
    """Pairs of random pictures."""

    name, mixed, posterior, fingerprint = "random", "dropped", "mode", "random"
    num_filtered = Counter()  # noqa: RUF012
    pairs = [Pair(f"prompt {n}", f"{n}-w", f"{n}-l", 0.8) for n in range(NUM_PAIRS)]  # noqa: RUF012
    prompts = [pair.prompt for pair in pairs]  # noqa: RUF012

    def image(self, key):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=keyed_generator(key), dtype=torch.uint8)
        return TrainingImage(key, pixels.numpy())


def dpo(**changes):
    settings = {"beta": 500.0, "beta_convention": "half", "labels": "hard", "label_smoothing": 0.0, "safeguard": None}
    others = {"error_weighting": "uniform", "prompt_dropout": 0.5, "num_draws": NUM_DRAWS}
    return DPO("dpo", **settings | others | changes)


@pytest.fixture(scope="module")
def model():
    adapter = tiny_adapter("stable_diffusion")
    adapter.prepare_training("full", 4, 4.0)
    adapter.make_reference()
    with torch.no_grad():
        for parameter in adapter.denoiser.parameters():  # a policy that has moved
            parameter.mul_(1.5)
    return adapter


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Two shards of two batches for six draws."""
    monkeypatch.setattr(module, "PART_SIZE", 4)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)


def values(root, model, method=None, seed=0, crops=None, num_processes=1, train=TRAIN):
    encoder = Encoder(model)
    context = Context(0, seed, 4, num_processes)
    crops = crops or CropPolicy.square(model.resolution)
    start = start_identity(model, train)
    draws = FixedDraws(method or dpo(), Pairs(), crops, encoder, context, start, torch.enable_grad)
    return ReferenceValues(Path(root), draws)


def content(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*.safetensors")}


def test_the_stream_gives_each_visit_the_next_draw_and_what_the_reference_says_there(tmp_path, model):
    layout = {"seed": 3, "rank": 0, "num_processes": 1, "num_workers": 0, "start_step": 0}
    method, start = dpo(), start_identity(model, TRAIN)
    before = model.network_passes
    stream = Stream(method, Pairs(), model, tmp_path, total_batch_size=3, start=start, **layout)
    assert model.network_passes - before == 2 * NUM_PAIRS * NUM_DRAWS
    batches = [stream.next()[0] for step in range(4)]
    for step, batch in enumerate(batches):
        assert sorted(batch.index.tolist()) == [NUM_DRAWS * position + step % NUM_DRAWS for position in range(3)]
        live = method.reference_values(model, batch, Context(step, 3, 3))
        for name in ("ref_error_w", "ref_error_l"):
            torch.testing.assert_close(batch.known[name], live[name], rtol=1e-5, atol=1e-6)
    assert model.network_passes - before == 2 * NUM_PAIRS * NUM_DRAWS + 4 * 2 * 3

    again = Stream(method, Pairs(), model, tmp_path, total_batch_size=3, start=start, **layout | {"start_step": 3})
    (resumed,) = again.next()
    assert torch.equal(resumed.index, batches[3].index)
    assert all(torch.equal(resumed.known[name], batches[3].known[name]) for name in resumed.known)
    assert torch.equal(resumed.conditioning.prompt_embeds, batches[3].conditioning.prompt_embeds)  # dropped or not


def test_shards_and_a_repeated_pass_leave_the_files_of_one_pass(tmp_path, model):
    assert values(tmp_path / "one", model).fill(WorkShare()) == 0
    expected = content(tmp_path / "one")
    assert len(expected) == 2
    assert values(tmp_path / "two", model).fill(WorkShare.of("1/2")) == 2
    assert values(tmp_path / "two", model).fill(WorkShare.of("2/2")) == 0
    assert content(tmp_path / "two") == expected
    (tmp_path / "one" / max(expected)).unlink()  # as if the pass had been killed
    assert values(tmp_path / "one", model).fill(WorkShare()) == 0
    assert content(tmp_path / "one") == expected


def _fill(rank, root, model):
    calls = model.network_passes
    values(root, model, num_processes=2).fill(WorkShare(rank, 2))
    return model.network_passes - calls


@pytest.mark.matrix
def test_two_processes_make_equally_many_calls_and_leave_the_files_of_one(tmp_path, model):
    values(tmp_path / "one", model).fill(WorkShare())
    torch.set_num_threads(1)
    # four draws and two: the second process makes its only call again
    assert together(_fill, tmp_path / "two", model) == [8, 8]
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_whatever_changes_a_value_has_a_folder_of_its_own_and_what_does_not_shares_one(tmp_path, model):
    folder = values(tmp_path, model).store.folder
    assert values(tmp_path, model, dpo(beta=7.0, error_weighting="x0_equivalent")).store.folder == folder
    others = [
        values(tmp_path, model, dpo(num_draws=3)),
        values(tmp_path, model, dpo(prompt_dropout=0.0)),
        values(tmp_path, model, seed=1),
        values(tmp_path, model, crops=replace(CropPolicy.square(model.resolution), random_flip=True)),
        values(tmp_path, model, train=OmegaConf.merge(TRAIN, {"mixed_precision": "bf16"})),
    ]
    with torch.no_grad():
        model.denoiser.conv_in.bias.add_(1.0)
        others.append(values(tmp_path, model))
        model.denoiser.conv_in.bias.sub_(1.0)
    assert len({one.store.folder for one in others} - {folder}) == len(others)


def test_a_lost_value_stops_training_and_several_sizes_are_refused(tmp_path, model):
    kept = values(tmp_path, model)
    kept.fill(WorkShare())
    batch = PairBatch(torch.tensor([0, 5]), ["a", "b"], Conditioning(torch.zeros(2, 1, 1)), *torch.zeros(3, 2))
    assert set(kept.with_known(batch).known) == {"ref_error_w", "ref_error_l"}
    for file in kept.store.files:
        file.unlink()
    with pytest.raises(UserError, match="are not there any more; start the same command again"):
        kept.with_known(batch)
    with pytest.raises(UserError, match=r"method.num_draws=2 needs images of one size; set train.aspect_ratio"):
        values(tmp_path, model, crops=CropPolicy(((32, 32), (32, 48))))


def test_a_run_has_a_name_of_its_own_when_it_is_switched_on():
    """Names of runs without it are those of before: tests/golden."""
    for name, key, on in (
        ("online_dpo", "pairwise.num_draws", 4), ("smpo", "points_per_inversion", 5)
    ):  # fmt: skip
        cfg = composed([f"method={name}", "model=sd15_mini"])
        without = run_name(cfg)
        OmegaConf.update(cfg.method, key, on)
        assert run_name(cfg) != without
