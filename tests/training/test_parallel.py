"""Processes: whatever shares the work, the update is that of one process, and its checkpoints are whole."""

from importlib.util import find_spec
from math import isfinite

import pytest
import torch
from accelerate import Accelerator
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alignbench.configuration.build import build, conf_folder
from alignbench.errors import UserError
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.run_folder import RunFolder
from alignbench.training.parallel import check_sharded
from alignbench.training.train import Auxiliary, train
from methods.output_distance import OutputDistance
from tests.online_runs import method_of
from tests.processes import DEEPSPEED, FSDP2, together
from tests.tiny_runs import (
    METHODS,
    DiesAt,
    Interrupted,
    RandomPairs,
    dpo,
    files_of,
    log_of,
    memory,
    settings,
    sft,
    shortened,
)

GATHERED = FSDP2 | {"FSDP_RESHARD_AFTER_FORWARD": "false"}  # whole weights are kept from forward to backward
ENVIRONMENTS = {"ddp": {}, "fsdp2": FSDP2, "fsdp2_gathered": GATHERED, "deepspeed": DEEPSPEED}
NEEDS_DEEPSPEED = pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is not installed")
HERE = ["ddp", "fsdp2", pytest.param("deepspeed", marks=NEEDS_DEEPSPEED)]
OTHERS = [family for family in FAMILIES if family not in ("flux", "stable_diffusion")]  # shared out as these are
GRADIENT = {"max_train_steps": 1, "learning_rate": 1.0, "max_grad_norm": 1e9, "micro_batch_size": 2}


def job(rank, path, family, method, auxiliary=(), **changes):
    cfg = settings(**changes)
    if changes.get("learning_rate") == 1.0:  # the update is the gradient
        cfg.train.optimizer = OmegaConf.create({"_target_": "torch.optim.SGD", "_partial_": True})
    model = tiny_adapter(family)
    train(cfg, model, method, RandomPairs(), RunFolder(path), Accelerator(cpu=True), auxiliary)
    return sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.denoiser.parameters())


def run(path, family, method, *auxiliary, engine, **changes):
    """Train in one process, or in two; return the numbers that each holds of the network."""

    def one(rank):
        return job(rank, path, family, method, auxiliary, **changes)

    if engine is None:
        return [one(0)]
    return together(one, environment=ENVIRONMENTS[engine])


def policy(path, family, start=False):
    """The weights of the policy that a run left, as diffusers loads them."""
    model = tiny_adapter(family)
    if not start:
        model.load_policy(RunFolder(path).policy)
        model.fold_adapters()
    return torch.cat([value.flatten() for _, value in sorted(model.denoiser.state_dict().items())])


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize(
    ("family", "tuning"),
    [
        ("flux", "full"),
        ("flux", "lora"),
        ("stable_diffusion", "full"),
        *(pytest.param(family, "full", marks=pytest.mark.matrix) for family in OTHERS),
        *(pytest.param(family, "lora", marks=pytest.mark.matrix) for family in ("stable_diffusion", *OTHERS)),
    ],
)
def test_two_processes_make_the_update_of_one(tmp_path, family, tuning, engine):
    alone = run(tmp_path / "one", family, dpo(), engine=None, tuning=tuning, **GRADIENT)
    held = run(tmp_path / "two", family, dpo(), engine=engine, tuning=tuning, **GRADIENT)
    start = policy(None, family, start=True)
    one, two = (policy(tmp_path / name, family) for name in ("one", "two"))
    moved = (one - start).norm()
    assert moved > 0
    assert (two - one).norm() / moved < 1e-5
    if engine == "fsdp2":
        assert sum(held) == alone[0]
        assert max(held) < 0.6 * alone[0]
    else:
        assert held == alone * 2
    norms = [log_of(tmp_path / name)[0]["grad_norm"] for name in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize(
    "engine",
    [
        "ddp",
        "fsdp2",
        pytest.param("deepspeed", marks=[NEEDS_DEEPSPEED, pytest.mark.matrix]),
        pytest.param("fsdp2_gathered", marks=pytest.mark.matrix),
    ],
)
def test_two_processes_compare_the_images_of_both(tmp_path, engine):
    """Two rounds: the statistics of a round are those of all images, and the old policy follows shards as well."""

    def nft():
        lag = {"start": 0.5, "slope": 0.0, "cap": 0.5, "delay": 0}
        return method_of("nft", rollout_batch_size=2, advantage={"spread": "round"}, lag=lag)

    start = policy(None, "flux", start=True)
    # the second round's images have 8 bits a channel, so the last digits of the weights make one or the other unlike
    for rounds, tolerance in ((1, 1e-5), (2, 1e-3)):
        changes = GRADIENT | {"max_train_steps": rounds}
        run(tmp_path / "one", "flux", nft(), engine=None, **changes)
        run(tmp_path / "two", "flux", nft(), engine=engine, **changes)
        one, two = (policy(tmp_path / name, "flux") for name in ("one", "two"))
        assert (two - one).norm() / (one - start).norm() < tolerance
    moved = [[line["moved"] for line in log_of(tmp_path / name)] for name in ("one", "two")]
    assert moved[0][0] == 0
    assert moved[0][1] > 0
    assert moved[1] == pytest.approx(moved[0], rel=1e-3)


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("threshold", [0.12, pytest.param(0.99, marks=pytest.mark.matrix)])
def test_processes_that_keep_unlike_numbers_of_pairs_make_the_update_of_one(tmp_path, engine, threshold):
    """Micro-batches of one: a process with fewer pairs has to wait for the other, also if nobody keeps any."""

    def spo():
        return method_of("spo", 4, window={"size": None}, rollout_batch_size=4, threshold=threshold)

    changes = GRADIENT | {"micro_batch_size": 1}
    run(tmp_path / "one", "flux", spo(), engine=None, **changes)
    run(tmp_path / "two", "flux", spo(), engine=engine, **changes)
    start = policy(None, "flux", start=True)
    one, two = (policy(tmp_path / name, "flux") for name in ("one", "two"))
    assert (two - one).norm() <= 1e-5 * (one - start).norm()
    lines = [log_of(tmp_path / name)[0] for name in ("one", "two")]
    assert lines[0]["kept"] == lines[1]["kept"] == (pytest.approx(0.5, abs=0.4) if threshold < 0.5 else 0)
    for figure in ("loss", "reward", "log_odds"):
        assert lines[1][figure] == pytest.approx(lines[0][figure], rel=1e-5)


def composed(name):
    """A method as its configuration makes it, with few steps of whatever it walks."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"method={name}", "model=sd15", "data=shapes", "reward=shapes_clip"]).method
    return build(shortened(cfg, 3))


@pytest.mark.parametrize(
    "name",
    [one if one.values[0] == "kto" else pytest.param(*one.values, marks=pytest.mark.matrix) for one in METHODS],
)
def test_every_method_makes_its_update_in_shards_and_nobody_waits_in_vain(tmp_path, name):
    """Inversions are of unequal length here: the processes draw timesteps of their own."""
    changes = GRADIENT | {"gradient_checkpointing": True}
    run(tmp_path / "ddp", "stable_diffusion", composed(name), engine="ddp", **changes)
    run(tmp_path / "fsdp2", "stable_diffusion", composed(name), engine="fsdp2", **changes)
    start = policy(None, "stable_diffusion", start=True)
    ddp, fsdp2 = (policy(tmp_path / engine, "stable_diffusion") for engine in ("ddp", "fsdp2"))
    assert (ddp - start).norm() > 0
    assert (fsdp2 - ddp).norm() / (ddp - start).norm() < 1e-5


@pytest.mark.matrix
@pytest.mark.parametrize("name", [one.values[0] for one in METHODS if not one.marks])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_trains_every_family(tmp_path, family, name):
    run(tmp_path, family, composed(name), engine=None, **GRADIENT)
    (line,) = log_of(tmp_path)
    assert isfinite(line["loss"])
    moved = policy(tmp_path, family) - policy(None, family, start=True)
    assert moved.isfinite().all()
    assert moved.norm() > 0


EVERYTHING = {
    "ema_decay": 0.5,
    "weight_distance": 0.1,
    "max_grad_value": 0.01,
    "max_grad_norm": 0.05,
    "max_train_steps": 3,
    "learning_rate": 1e-3,
}


def test_averages_distances_limits_and_further_losses_are_those_of_whole_weights(tmp_path):
    for name, engine in {"one": None, "fsdp2": "fsdp2"}.items():
        further = Auxiliary(0.5, OutputDistance("output_distance", "uniform", 0.1), RandomPairs())
        run(tmp_path / name, "flux", dpo(), further, engine=engine, **EVERYTHING)
    start = policy(None, "flux", start=True)
    one, fsdp2 = (policy(tmp_path / name, "flux") for name in ("one", "fsdp2"))
    # AdamW divides each gradient by its size, so that of a tiny one is mostly rounding
    assert (fsdp2 - one).norm() / (one - start).norm() < 1e-3


@pytest.mark.parametrize("mode", ["bf16_compensated", "bf16_stochastic"])
def test_bfloat16_shards_train(tmp_path, mode):
    changes = {"max_train_steps": 3, "learning_rate": 1e-3, **memory(mode)}
    for name, engine in {"one": None, "fsdp2": "fsdp2"}.items():
        run(tmp_path / name, "flux", sft(), engine=engine, **changes)
    start = policy(None, "flux", start=True)
    one, fsdp2 = (policy(tmp_path / name, "flux") for name in ("one", "fsdp2"))
    assert (fsdp2 - one).norm() < 0.5 * (one - start).norm()


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"tuning": "lora"}, marks=pytest.mark.matrix),
        pytest.param({"ema_decay": 0.9, **memory("bf16_stochastic")}, marks=pytest.mark.matrix),
    ],
)
def test_a_killed_run_of_two_processes_ends_byte_for_byte_like_one_that_was_never_killed(tmp_path, engine, changes):
    if engine == "deepspeed" and "ema_decay" in changes:
        changes = {"ema_decay": 0.9, "weights_dtype": "bfloat16"}  # it keeps float32 copies itself
    changes = {"checkpointing_steps": 2, "max_train_steps": 4, "learning_rate": 1e-3, **changes}
    run(tmp_path / "whole", "flux", dpo(), engine=engine, **changes)

    def killed(rank):
        with pytest.raises(Interrupted):
            job(rank, tmp_path / "killed", "flux", DiesAt(dpo(), 3), **changes)

    together(killed, environment=ENVIRONMENTS[engine])
    run(tmp_path / "killed", "flux", dpo(), engine=engine, **changes)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")


def test_shards_go_on_only_with_as_many_processes(tmp_path):
    changes = {"checkpointing_steps": 1, "max_train_steps": 2}

    def killed(rank):
        with pytest.raises(Interrupted):
            job(rank, tmp_path, "flux", DiesAt(sft(), 1), **changes)

    together(killed, environment=FSDP2)
    with pytest.raises(UserError, match="2 processes that shared the weights"):
        run(tmp_path, "flux", sft(), engine=None, **changes)
    with pytest.raises(AssertionError, match="2 processes that shared the weights"):
        together(lambda rank: job(rank, tmp_path, "flux", sft(), **changes), num_processes=4, environment=FSDP2)


def test_weights_that_stayed_whole_are_found():
    network = tiny_adapter("flux").denoiser
    with pytest.raises(UserError, match=r"sharding over 2 processes did not happen: .* is whole on each of them"):
        check_sharded(network, 2)
