"""D8: `model.policy_step=last` makes the last checkpoint of a stopped run a start, or a policy to be measured."""

import os
import shutil
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from safetensors.torch import load_file

from alignbench.configuration.build import run_name, start_of
from alignbench.configuration.checks import check
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.export import export, find_source
from alignbench.files import sha256, write_json
from alignbench.models.tiny_random import TINY, tiny_adapter
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.weights.policy_files import Adapters
from alignbench.stages.job import run
from alignbench.stages.prepare import build_adapter
from alignbench.stages.start import load_start, start_weights
from alignbench.store.checkpoint_files import DIGESTS
from alignbench.store.run_folder import RunFolder
from alignbench.training.checkpoint import Checkpoints
from alignbench.training.train import train
from tests.processes import FSDP2, together
from tests.tiny_runs import DiesAt, Interrupted, RandomPairs, files_of, settings, sft

ADAPTERS = {"train.tuning": "lora", "train.lora_rank": 2, "train.lora_alpha": 6}  # a scale of 3
AVERAGE = {"train.ema_decay": 0.5}
BFLOAT16 = {"train.weights_dtype": "bfloat16", "train.weight_updates": "stochastic"}
VARIANTS = {"whole": {}, "average of adapters": ADAPTERS | AVERAGE, "average of bfloat16": BFLOAT16 | AVERAGE}
GENERATE = {"stages": ["generate"]}


@pytest.fixture(scope="module")
def composition(tmp_path_factory):
    """A command that trains a tiny model."""
    weights = tmp_path_factory.mktemp("weights")
    tiny_stable_diffusion().save_pretrained(weights)
    return composed([
        "method=sft", "model=sd15", f"model.pretrained_model_name_or_path={weights}", "model.resolution=32",
        "model.scheduler=null", "data=shapes", "data.num_pairs=6", "data.num_prompts=6", "prompts=shapes",
        "prompts.limit=1", "sampling.num_inference_steps=1", "evaluators=shapes", "tracker=none",
        "optimizer=adamw", "train.max_train_steps=4", "train.total_batch_size=2", "train.micro_batch_size=2",
        "train.learning_rate=1e-3", "train.lr_warmup_steps=0", "train.mixed_precision='no'",
        "train.checkpointing_steps=1", "stages=[train]",
    ])  # fmt: skip


@pytest.fixture
def command(composition, tmp_path):
    """Return the command with other settings, whose results lie in a folder of this test."""

    def change(settings=(), results="results", start=None, step=None):
        cfg = composition.copy()
        given = {"model.policy": start and str(start.path), "model.policy_step": step}
        for key, value in {"results": str(tmp_path / results), **given, **dict(settings)}.items():
            OmegaConf.update(cfg, key, value)
        return cfg

    return change


def folder_of(cfg):
    return RunFolder(f"{cfg.results}/{run_name(cfg)}")


def stopped(cfg, step=2):
    """Train, and be killed after a checkpoint; return the folder."""
    save = Checkpoints.save

    def dies(self):
        save(self)
        if self.progress.step == step:
            raise Interrupted

    with patch.object(Checkpoints, "save", dies), pytest.raises(Interrupted):
        run(cfg)
    return folder_of(cfg)


def finished(cfg):
    run(cfg)
    return folder_of(cfg)


def started(cfg):
    """Return the model with the weights that `cfg` starts from."""
    model = build_adapter(cfg.model)
    load_start(model, cfg, start_weights(cfg))
    return model


def state_of(model, fold=False):
    if fold:
        model.fold_adapters()
    return {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())


def refusal(cfg):
    with pytest.raises(UserError) as refused:
        check(cfg)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def pictures_of(folder):
    return {name: content for name, content in files_of(folder / "images").items() if name.endswith(".png")}


# ---- the weights


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_weights_are_those_of_a_run_that_ends_there(command, variant):
    """The rate is constant, so a run of two updates is at its end where the other was stopped."""
    folder = stopped(command(variant))
    found = started(command(start=folder, step="last"))
    expected = build_adapter(command().model)
    expected.load_policy(finished(command(variant | {"train.max_train_steps": 2}, "whole")).policy)
    raw = load_file(folder.checkpoint(2) / "policy.safetensors")
    trained = {name: tensor.to(raw[name].dtype) for name, tensor in state_of(found).items() if name in raw}
    assert all(trained[name].equal(raw[name]) for name in raw) == (variant == {})  # or they are averages
    assert_same(state_of(found), state_of(expected))
    assert_same(state_of(found, fold=True), state_of(expected, fold=True))


@pytest.mark.parametrize("adapters", [None, Adapters(2, 6.0, ["to_q", "to_k"])], ids=["whole", "adapters"])
@pytest.mark.parametrize("family", TINY)
def test_a_checkpoint_fits_every_family(family, adapters):
    """Some networks have buffers beside their parameters."""
    trained, again = tiny_adapter(family), tiny_adapter(family)
    if adapters is not None:
        trained.lora_targets = adapters.targets
        trained.prepare_training("lora", adapters.rank, adapters.alpha)
    kept = {n: p.data for n, p in trained.denoiser.named_parameters() if adapters is None or p.requires_grad}
    for parameter in kept.values():
        parameter.normal_()
    again.load_checkpoint("RUN", kept, adapters=adapters)
    assert_same(state_of(again), state_of(trained))
    assert_same(state_of(again, fold=True), state_of(trained, fold=True))
    lost = min(kept)
    del kept[lost]
    with pytest.raises(UserError, match=f"the weights of model.policy=RUN do not fit the .*; missing: {lost}"):
        tiny_adapter(family).load_checkpoint("RUN", kept, adapters=adapters)


def test_adapters_are_loaded_on_top_of_the_policy_that_they_were_trained_on(command):
    """Those of a stopped run, and those of the same run when it is finished."""
    first = finished(command({"train.max_train_steps": 1}))
    start = build_adapter(command().model)
    start.load_policy(first.policy)
    without = state_of(start)
    adapters = command(ADAPTERS, start=first)
    for end, step in ((stopped, "last"), (finished, None)):
        cfg = command(start=end(adapters), step=step)
        found = started(cfg)
        below = {name.replace(".base_layer", ""): t for name, t in state_of(found).items() if "lora_" not in name}
        assert_same(below, without)
        assert any(not tensor.equal(without[name]) for name, tensor in state_of(found, fold=True).items())
    flip_a_bit(first.policy / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="was made from weights of another policy_sha256"):
        started(cfg)


# ---- the command


@pytest.mark.slow
@pytest.mark.matrix
def test_training_starts_from_it_as_from_the_finished_weights(command):
    whole = finished(command(ADAPTERS | {"train.max_train_steps": 2}, "whole"))
    few = {"train.max_train_steps": 1, "stages": ["train", "generate"]}
    expected = finished(command(few, "whole", start=whole))
    cfg = command(few, start=stopped(command(ADAPTERS)), step="last")
    check(cfg)
    found = finished(cfg)
    assert files_of(found.policy) == files_of(expected.policy)
    start = RunFolder(found.path.parent / str(found.manifest.start_run))
    assert start.manifest.display_name == "sft step 2"
    assert start.manifest.method == f"published_{run_name(command(ADAPTERS))}"
    assert pictures_of(start.path) == pictures_of(whole.path) != {}  # a finished run is measured itself


def test_what_a_stopped_run_was_trained_on_is_known(command):
    folder = stopped(command())
    assert folder.manifest.completed == {}
    cfg = start_of(command(GENERATE, start=folder, step="last"))
    measured = finished(cfg)
    assert measured.manifest.trained_on == folder.manifest.trained_on == ["shapes_annotators"]
    assert measured.manifest.start_weights["policy_step"] == "2"
    noted = [one.path / "training_data.npy" for one in (measured, folder)]
    assert noted[0].read_bytes() == noted[1].read_bytes()
    stopped(command(), step=3)
    with pytest.raises(UserError, match="was made from weights of another policy_step and policy_sha256"):
        run(cfg)


def test_what_was_measured_is_exported(command, tmp_path):
    cfg = start_of(command(GENERATE, start=stopped(command(ADAPTERS | AVERAGE)), step="last"))
    export(find_source(str(finished(cfg).path), []), "lora", tmp_path / "exported")
    again = build_adapter(cfg.model)
    again.load_policy(tmp_path / "exported")
    assert_same(state_of(again, fold=True), state_of(started(cfg), fold=True))


def test_the_word_enters_the_name_of_a_run_where_it_is_given(command, tmp_path):
    given = [command(start=RunFolder(tmp_path), step=step) for step in (None, "last")]
    assert run_name(given[0]) != run_name(given[1])
    del given[0].model.policy_step  # as version 0.1.0 had it
    assert run_name(given[0]) == run_name(command(start=RunFolder(tmp_path)))


# ---- refusals


@pytest.fixture(scope="module")
def killed(composition, tmp_path_factory):
    cfg = composition.copy()
    OmegaConf.update(cfg, "results", str(tmp_path_factory.mktemp("killed")))
    OmegaConf.update(cfg, "train.ema_decay", 0.5)
    return stopped(cfg)


@pytest.fixture
def folder(killed, tmp_path):
    """A run that was stopped after the second of four updates."""
    return RunFolder(shutil.copytree(killed.path, tmp_path / "results" / killed.name))


def test_without_the_word_the_sentence_names_it(command, folder):
    assert refusal(command(start=folder)) == (
        f"model.policy={folder.path} is a run that was stopped before its end; add model.policy_step=last to take its "
        "last checkpoint, or repeat its command to finish it"
    )
    with pytest.raises(UserError, match=f"method=base model.policy={folder.path} model.policy_step=last"):
        run(command(AVERAGE | GENERATE))


@pytest.mark.parametrize("part", ["checkpoints/step-2", "checkpoints/step-2/policy.safetensors"])
def test_a_part_of_a_checkpoint_is_no_policy(command, folder, part):
    said = refusal(command({"model.policy": str(folder.path / part)}))
    assert said.endswith(f"; give model.policy={folder.path} model.policy_step=last")


def test_only_a_stopped_run_has_a_last_step(command, folder):
    assert "add model.policy=RUN" in refusal(command(step="last"))
    assert refusal(command(start=folder, step="first")).startswith("model.policy_step=first is unknown")
    assert "is not the folder of a run" in refusal(command({"model.policy": "owner/name"}, step="last"))
    folder.complete("train")
    assert "was trained to its end; leave model.policy_step out" in refusal(command(start=folder, step="last"))


def test_a_run_that_was_stopped_before_its_first_checkpoint_is_refused(command, folder):
    shutil.rmtree(folder.checkpoints)
    assert "has no checkpoint; repeat its command" in refusal(command(start=folder, step="last"))


def test_a_checkpoint_of_shards_is_refused(command, folder):
    def job(rank):
        model, method, sharded = tiny_adapter("stable_diffusion"), DiesAt(sft(), 1), RunFolder(folder.path / "sharded")
        with pytest.raises(Interrupted):
            train(settings(checkpointing_steps=1), model, method, RandomPairs(), sharded, Accelerator(cpu=True))

    together(job, environment=FSDP2)
    shutil.rmtree(folder.checkpoints)
    (folder.path / "sharded" / "checkpoints").rename(folder.checkpoints)
    assert refusal(command(start=folder, step="last")) == (
        f"the weights in {folder.checkpoint(1)} are split over the 2 processes that trained them, and cannot be read "
        "as a policy; repeat the command of the run in 2 processes to finish it"
    )


@pytest.mark.parametrize("older", ["digests", "data"])
def test_a_run_of_an_older_version_is_refused(command, folder, older):
    if older == "digests":
        (folder.checkpoint(2) / DIGESTS).unlink()
    else:
        replace(folder.manifest, fingerprints={}).write(folder.manifest_file)
    assert "was written by an older version" in refusal(command(start=folder, step="last"))


@pytest.mark.parametrize("file", ["policy.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_named(command, folder, file):
    cfg = command(start=folder, step="last")
    flip_a_bit(folder.checkpoint(2) / file)
    with pytest.raises(UserError, match=rf"step-2/{file} is damaged \(sha256 differs\).*delete .*step-2 to take"):
        started(cfg)
    shutil.rmtree(folder.checkpoint(2))
    assert start_weights(cfg)["policy_step"] == "1"


def test_a_checkpoint_that_is_gone_in_the_meantime_is_named(command, folder):
    cfg = command(start=folder, step="last")
    noted = start_weights(cfg)
    shutil.rmtree(folder.checkpoint(2))
    with pytest.raises(UserError, match="step-2 is gone, since the run trains on"):
        load_start(build_adapter(cfg.model), cfg, noted)


def test_nothing_in_a_checkpoint_is_run(command, folder, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    checkpoint = folder.checkpoint(2)
    torch.save({"ema": Payload()}, checkpoint / "state.pt")
    write_json(checkpoint / DIGESTS, {file.name: sha256(file) for file in checkpoint.iterdir() if file.name != DIGESTS})
    with pytest.raises(UserError, match=r"state.pt holds more than tensors and numbers, which could run code"):
        started(command(start=folder, step="last"))
    assert not (tmp_path / "ran").exists()
