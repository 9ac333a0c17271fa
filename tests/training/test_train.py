"""The loop: exact resumption, the same update on any layout, and methods of shapes that are yet to come."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from alignbench.batch import ImageBatch, PairBatch, PromptBatch
from alignbench.configuration.build import build, conf_folder
from alignbench.devices import float32_products
from alignbench.errors import UserError
from alignbench.method import Loss, Method
from alignbench.models.tiny_random import tiny_adapter
from alignbench.objectives.denoising_error import noise_images, noise_pairs, prediction_error
from alignbench.store.run_folder import RunFolder
from alignbench.training.compile_and_attention import compile_networks
from alignbench.training.train import Auxiliary, train
from evaluators.comparer_reward import ComparerReward
from methods.output_distance import OutputDistance
from tests.online_runs import Brighter, method_of
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


def run(path, method, family="flux", model=None, **changes):
    """Train a tiny model and return its adapter and the weights it ends with."""
    model = model or tiny_adapter(family)
    trained = train(settings(**changes), model, method, RandomPairs(), RunFolder(path), Accelerator(cpu=True))
    return model, {k: v.clone() for k, v in model.denoiser.state_dict().items()}, trained.budget


def winner_error(model, batch, context):
    """The policy's error on winners and losers, without a reference; [2B], winners first."""
    noised = noise_pairs(model, batch, context, "uniform")
    return prediction_error(model, noised, batch.conditioning.repeat(2))[: len(batch)]


MODELS: dict[str, str] = {"sdxl": "stable_diffusion_xl", "sd3": "stable_diffusion_3"}


@pytest.mark.parametrize("model", ["sdxl", pytest.param("sd3", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_the_families_that_need_more_than_a_prompt(tmp_path, name, model):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"method={name}", f"model={model}", "data=shapes", "reward=shapes_clip"])
    cfg.train = settings(max_train_steps=2, total_batch_size=2, micro_batch_size=2).train
    adapter = tiny_adapter(MODELS[model])
    start = {k: v.clone() for k, v in adapter.denoiser.state_dict().items()}
    train(cfg, adapter, build(shortened(cfg.method, 2)), RandomPairs(), RunFolder(tmp_path), Accelerator(cpu=True))
    assert all(np.isfinite(line["loss"]) for line in log_of(tmp_path))
    assert changed(adapter, start).norm() > 0


@pytest.mark.parametrize("mode", ["bf16_compensated", "bf16_stochastic"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_killed_run_on_bfloat16_weights_ends_byte_for_byte_like_one_that_was_never_killed(tmp_path, mode, tuning):
    changes = {"tuning": tuning, "checkpointing_steps": 2, "max_train_steps": 5, "lr_scheduler": "cosine"}
    changes |= {"learning_rate": 1e-5 if tuning == "full" else 1e-3, **memory(mode)}
    start = {k: v.bfloat16() for k, v in tiny_adapter("flux").denoiser.state_dict().items()}
    model, weights, _ = run(tmp_path / "whole", dpo(), **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(dpo(), 3), **changes)
    run(tmp_path / "killed", dpo(), **changes)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")
    if tuning == "full":
        assert all(weights[name].dtype == torch.bfloat16 for name in start)
        assert any(not torch.equal(weights[name], start[name]) for name in start)
    else:  # adapters are float32 whatever holds them, and nothing else moves
        assert {p.dtype for p in model.denoiser.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in model.denoiser.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_the_average_of_bfloat16_weights_moves_by_steps_that_they_cannot_hold(tmp_path):
    changes = {"ema_decay": 0.999, "max_train_steps": 3, "learning_rate": 1e-2, **memory("bf16_stochastic")}
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(sft(), 2), checkpointing_steps=2, **changes)
    (checkpoint,) = (tmp_path / "killed" / "checkpoints").iterdir()
    average = torch.load(checkpoint / "state.pt", weights_only=True)["ema"]["shadow_params"]
    assert {p.dtype for p in average} == {torch.float32}
    assert any(not torch.equal(p, p.bfloat16().float()) for p in average)


@pytest.mark.parametrize("make", [sft, dpo])
def test_networks_that_lie_elsewhere_between_calls_change_nothing(tmp_path, make):
    _, weights, _ = run(tmp_path / "there", make())
    _, offloaded, _ = run(tmp_path / "elsewhere", make(), **memory("offload"))
    assert all(torch.equal(weights[name], offloaded[name]) for name in weights)


@pytest.mark.parametrize("family", ["flux", "stable_diffusion"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_killed_run_that_is_repeated_ends_byte_for_byte_like_one_that_was_never_killed(tmp_path, family, tuning):
    changes = {"tuning": tuning, "checkpointing_steps": 2, "max_train_steps": 5, "ema_decay": 0.9}
    run(tmp_path / "whole", dpo(), family, **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(dpo(), 3), family, **changes)
    assert [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-2"]
    run(tmp_path / "killed", dpo(), family, **changes)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_old_policy_of_an_online_method_survives_a_kill(tmp_path, tuning):
    """Rounds of two updates; killed in the second, after the old policy has fallen behind."""

    def nft():
        lag = {"start": 0.5, "slope": 0.0, "cap": 0.5, "delay": 0}
        return method_of("nft", updates_per_round=2, lag=lag)

    changes = {"tuning": tuning, "checkpointing_steps": 2, "max_train_steps": 6, "micro_batch_size": 2}
    run(tmp_path / "whole", nft(), **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(nft(), 4), **changes)
    run(tmp_path / "killed", nft(), **changes)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")
    assert log_of(tmp_path / "whole")[-1]["moved"] > 0


def spo(**changes):
    """Rounds of two updates whose median comparison is just kept, by a judge of brightness."""
    return method_of("spo", 4, window={"size": None}, updates_per_round=2, **{"threshold": 0.12, **changes})


def test_pairs_on_the_way_of_a_sampling_are_those_of_a_run_that_was_never_killed(tmp_path):
    changes = {"checkpointing_steps": 2, "max_train_steps": 6, "micro_batch_size": 2}
    run(tmp_path / "whole", spo(), **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(spo(), 4), **changes)
    run(tmp_path / "killed", spo(), **changes)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")
    assert any(0 < line["kept"] < 1 for line in log_of(tmp_path / "whole"))


@pytest.mark.matrix
def test_a_killed_run_by_verdicts_of_a_comparer_ends_like_one_that_was_never_killed(tmp_path):
    def nft():
        reward = ComparerReward(Brighter(bias=3.0, fails=lambda one, other: (one + other) % 3 == 0), max_failed=1.0)
        return method_of("nft", reward=reward, group_size=4)

    changes = {"checkpointing_steps": 2, "max_train_steps": 4, "micro_batch_size": 2}
    _, _, budget = run(tmp_path / "whole", nft(), **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(nft(), 3), **changes)
    run(tmp_path / "killed", nft(), **changes)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")
    lines = log_of(tmp_path / "whole")
    assert lines == log_of(tmp_path / "killed")
    assert all(0 <= line["reward_failed"] < 1 for line in lines)
    assert any(line["reward_failed"] > 0 for line in lines)
    assert budget["reward_calls"] == 8 * 4


def of_fixed_draws():
    method = dpo()
    method.num_draws = 2
    return method


def of_three_points():
    """Three updates of one inversion."""
    node = shortened(OmegaConf.load(conf_folder() / "method" / "smpo.yaml"), 3)
    del node["defaults"]
    return build(OmegaConf.merge(node, {"labels": "votes", "scorer": None, "points_per_inversion": 3}))


@pytest.mark.matrix
@pytest.mark.parametrize("make", [of_fixed_draws, of_three_points])
def test_what_is_known_before_the_loss_is_that_of_a_run_that_was_never_killed(tmp_path, make):
    """Killed at the fifth update, after a checkpoint at the third."""
    changes = {"checkpointing_steps": 3, "max_train_steps": 6}
    _, _, budget = run(tmp_path / "a" / "whole", make(), **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "b" / "killed", DiesAt(make(), 4), **changes)
    _, _, resumed = run(tmp_path / "b" / "killed", make(), **changes)
    assert files_of(tmp_path / "a" / "whole" / "policy") == files_of(tmp_path / "b" / "killed" / "policy")
    assert log_of(tmp_path / "a" / "whole") == log_of(tmp_path / "b" / "killed")
    assert budget["network_passes"] == resumed["network_passes"]


def test_rounds_that_keep_no_pair_are_updates_without_a_gradient(tmp_path):
    budgets = [run(tmp_path / str(t), spo(threshold=t), max_train_steps=4)[2] for t in (0.99, 0.0)]
    lines = log_of(tmp_path / "0.99")
    assert [(line["kept"], line["loss"], line["grad_norm"]) for line in lines] == [(0, 0, 0)] * 4
    assert all(np.isfinite(line["reward"]) and "margin" not in line for line in lines)
    assert budgets[0]["reward_calls"] == budgets[1]["reward_calls"] == 2 * 8 * 3  # rounds, candidates, steps
    assert budgets[0]["network_passes"] < budgets[1]["network_passes"]


def test_a_checkpoint_that_a_kill_left_half_written_is_ignored(tmp_path):
    partial = tmp_path / "run" / "checkpoints" / "partial"
    partial.mkdir(parents=True)
    (partial / "policy.safetensors").write_bytes(b"half")
    run(tmp_path / "run", sft(), checkpointing_steps=2)
    run(tmp_path / "other", sft(), checkpointing_steps=2)
    assert files_of(tmp_path / "run" / "policy") == files_of(tmp_path / "other" / "policy")


@pytest.mark.parametrize("make", [sft, dpo])
def test_eight_micro_batches_of_one_give_the_update_of_one_of_eight(tmp_path, make):
    plain = {"optimizer": {"_target_": "torch.optim.SGD"}, "max_train_steps": 1, "max_grad_norm": 1e9}
    start = tiny_adapter("flux").denoiser.state_dict()
    changes = []
    for size in (1, 8):
        optimizer = OmegaConf.create({"_target_": "torch.optim.SGD", "_partial_": True})
        cfg = settings(**{**plain, "micro_batch_size": size, "learning_rate": 1.0})
        cfg.train.optimizer = optimizer
        model = tiny_adapter("flux")
        train(cfg, model, make(), RandomPairs(), RunFolder(tmp_path / str(size)), Accelerator(cpu=True))
        changes.append(torch.cat([(v - start[k]).flatten() for k, v in model.denoiser.state_dict().items()]))
    difference = (changes[0] - changes[1]).norm() / changes[1].norm()
    assert changes[1].norm() > 0
    assert difference < 1e-5


def test_the_log_has_one_line_an_update_and_the_budget_counts_what_was_done(tmp_path):
    _, _, budget = run(tmp_path, dpo())
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "accuracy", "grad_norm", "lr"} <= lines[0].keys()
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert (budget["optimizer_steps"], budget["samples_seen"], budget["rollouts"]) == (4, 32, 4)
    # policy: one forward and one backward of two images a pair; reference: one forward of two
    assert budget["network_passes"] == 32 * (2 * 3 + 2)


def test_training_ends_with_the_update_that_reaches_the_budget_of_network_passes(tmp_path):
    an_update = 8 * (2 * 3 + 2)
    changes = {"max_network_passes": 2 * an_update + 1, "max_train_steps": 9, "checkpointing_steps": 1}
    _, weights, budget = run(tmp_path / "whole", dpo(), **changes)
    assert (budget["optimizer_steps"], budget["network_passes"]) == (3, 3 * an_update)
    _, three, _ = run(tmp_path / "three", dpo(), max_train_steps=3)
    assert all(torch.equal(weights[name], three[name]) for name in three)


def test_a_killed_run_spends_no_more_than_its_budget(tmp_path):
    changes = {"max_network_passes": 8 * 8 * 4, "max_train_steps": 9, "checkpointing_steps": 1}
    with pytest.raises(Interrupted):
        run(tmp_path, DiesAt(dpo(), 3), **changes)
    _, _, budget = run(tmp_path, dpo(), **changes)
    assert (budget["optimizer_steps"], budget["network_passes"]) == (4, 8 * 8 * 4)


def test_lora_leaves_the_base_weights_untouched(tmp_path):
    before = {k: v.clone() for k, v in tiny_adapter("flux").denoiser.state_dict().items()}
    _, after, _ = run(tmp_path, sft(), tuning="lora")
    base = {k.replace(".base_layer", ""): v for k, v in after.items() if "lora_" not in k}
    assert base.keys() == before.keys()
    assert all(torch.equal(base[k], before[k]) for k in before)
    assert any(v.abs().sum() > 0 for k, v in after.items() if "lora_B" in k)


def test_the_saved_policy_predicts_like_the_trained_one(tmp_path):
    model, _, _ = run(tmp_path, sft())
    again = tiny_adapter("flux")
    again.load_policy(RunFolder(tmp_path).policy)
    noise = torch.randn(1, *model.latent_shape)
    conditioning = model.encode_prompts(["a prompt"])
    with torch.no_grad():
        predictions = [m.predict(noise, torch.tensor([500.0]), conditioning) for m in (model, again)]
    assert torch.equal(*predictions)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Broken(Method[PairBatch]):
        name = "broken"
        batch_type = PairBatch

        def loss(self, model, batch, context):
            return Loss.mean(winner_error(model, batch, context) * float("nan"))

    with pytest.raises(FloatingPointError, match="not finite at update 1"):
        run(tmp_path, Broken())


def test_an_uneven_split_over_groups_is_refused(tmp_path):
    method = sft()
    method.group_size = 3
    with pytest.raises(UserError, match=r"total_batch_size=8 cannot be split evenly"):
        run(tmp_path, method)


# ---- methods of shapes that are yet to come run through the loop unchanged


class Coupled(Method[PairBatch]):
    """A loss that depends on the other samples, as KTO's does through its baseline."""

    name = "coupled"
    batch_type = PairBatch
    batch_coupled = True

    def __init__(self):
        self.baseline = 0.0

    def loss(self, model, batch, context):
        error = winner_error(model, batch, context)
        baseline = context.reduce(error.sum(), torch.tensor(len(error)))
        self.baseline = 0.9 * self.baseline + 0.1 * float(baseline)
        return Loss.mean((error - baseline).abs() + error, {"baseline": baseline.expand(len(error))})

    def state_dict(self):
        return {"baseline": self.baseline}

    def load_state_dict(self, state):
        self.baseline = state["baseline"]


@dataclass(frozen=True)
class Rolled(PromptBatch):
    latents: torch.Tensor


class SeveralUpdates(Method[Rolled]):
    """Samples once and makes three updates from it, as the online methods do; prompts come in groups."""

    name = "several"
    group_size = 4

    def __init__(self):
        self.seen = []

    def rollout(self, model, batch, context):
        self.seen.append((context.step, batch.prompts))
        with torch.no_grad():
            noise = context.noise(batch.index, model.latent_shape)
            latents = model.sample(noise, batch.conditioning, model.noise_levels(2)).latents
        rolled = Rolled(batch.index, batch.prompts, batch.conditioning, latents)
        for _ in range(3):
            yield rolled.split(context.micro_batch_size)

    def loss(self, model, batch, context):
        images = ImageBatch(batch.index, batch.prompts, batch.conditioning, batch.latents)
        return Loss.mean(prediction_error(model, noise_images(model, images, context, "uniform"), batch.conditioning))


class OwnNetwork(Method[PairBatch]):
    """Trains a network of its own beside the policy, as DPOK does with its value function."""

    name = "own"
    batch_type = PairBatch

    def __init__(self):
        torch.manual_seed(0)
        self.value = nn.Linear(1, 1)

    def trainable_modules(self):
        return {"value": self.value}

    def loss(self, model, batch, context):
        error = winner_error(model, batch, context)
        predicted = self.value(error.detach()[:, None])[:, 0]
        return Loss.mean(error + (predicted - error.detach()).square())


@pytest.mark.parametrize("make", [Coupled, OwnNetwork])
def test_state_and_networks_of_a_methods_own_survive_a_kill(tmp_path, make):
    whole, killed, resumed = make(), make(), make()
    changes = {"checkpointing_steps": 2, "max_train_steps": 4}
    _, weights, _ = run(tmp_path / "whole", whole, **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(killed, 3), **changes)
    _, resumed_weights, _ = run(tmp_path / "killed", resumed, **changes)
    assert all(torch.equal(weights[k], resumed_weights[k]) for k in weights)
    assert whole.state_dict() == resumed.state_dict()
    for a, b in zip(whole.trainable_modules().values(), resumed.trainable_modules().values(), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
        assert not torch.equal(next(a.parameters()), next(make().trainable_modules()["value"].parameters()))


def test_several_updates_a_rollout_step_once_each_and_checkpoint_between_rollouts(tmp_path):
    method = SeveralUpdates()
    _, _, budget = run(tmp_path / "whole", method, max_train_steps=7, checkpointing_steps=2)
    assert [step for step, _ in method.seen] == [0, 3, 6]
    assert all(len(set(prompts[i : i + 4])) == 1 for _, prompts in method.seen for i in (0, 4))
    assert (budget["optimizer_steps"], budget["rollouts"]) == (7, 3)

    with pytest.raises(Interrupted):
        run(tmp_path / "killed", DiesAt(SeveralUpdates(), 4), max_train_steps=7, checkpointing_steps=2)
    assert [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-3"]
    run(tmp_path / "killed", SeveralUpdates(), max_train_steps=7, checkpointing_steps=2)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")


# ---- what any method can take


def changed(model, start):
    """Return how far the weights moved, as one vector."""
    return torch.cat([(v - start[k]).flatten() for k, v in model.denoiser.state_dict().items()])


def one_step(tmp_path, method, auxiliary=(), family="flux", **changes):
    """Make one plain gradient step of size 1; return minus the gradient, and the log line."""
    model = tiny_adapter(family)
    start = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    cfg = settings(**{"max_train_steps": 1, "learning_rate": 1.0, "max_grad_norm": 1e9, **changes})
    cfg.train.optimizer = OmegaConf.create({"_target_": "torch.optim.SGD", "_partial_": True})
    train(cfg, model, method, RandomPairs(), RunFolder(tmp_path), Accelerator(cpu=True), auxiliary)
    return changed(model, start), log_of(tmp_path)[-1]


class Still(Method[PromptBatch]):
    """A method without any opinion: its gradient is zero."""

    name, needs_reference = "still", False

    def loss(self, model, batch, context):
        noise = context.noise(batch.index, model.latent_shape)
        prediction = model.predict(noise, torch.full((len(batch),), 500.0), batch.conditioning)
        return Loss.mean(0.0 * prediction.flatten(1).sum(1))


@pytest.mark.parametrize("micro_batch_size", [8, 3])
def test_an_auxiliary_loss_adds_its_weight_times_its_own_gradient(tmp_path, micro_batch_size):
    term = [Auxiliary(0.25, sft(), RandomPairs())]
    size = {"micro_batch_size": micro_batch_size}
    both, line = one_step(tmp_path / "both", dpo(), term, **size)
    alone, _ = one_step(tmp_path / "alone", dpo(), **size)
    added, _ = one_step(tmp_path / "added", Still(), term, **size)
    assert added.norm() > 0
    torch.testing.assert_close(both - alone, added, rtol=1e-3, atol=4e-7)
    assert line["sft/loss"] > 0
    twice, _ = one_step(tmp_path / "twice", Still(), [Auxiliary(0.5, sft(), RandomPairs())], **size)
    torch.testing.assert_close(twice, 2 * added, rtol=1e-5, atol=4e-7)  # weights near 1 end in steps of 1.2e-7


def test_a_killed_run_with_an_auxiliary_loss_ends_like_one_that_was_never_killed(tmp_path):
    def go(path, method):
        term = [Auxiliary(0.5, OutputDistance("output_distance", "uniform", 0.1), RandomPairs())]
        cfg = settings(checkpointing_steps=2, max_train_steps=5, weight_distance=0.1)
        train(cfg, tiny_adapter("flux"), method, RandomPairs(), RunFolder(path), Accelerator(cpu=True), term)

    go(tmp_path / "whole", dpo())
    with pytest.raises(Interrupted):
        go(tmp_path / "killed", DiesAt(dpo(), 3))
    go(tmp_path / "killed", dpo())
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")
    whole = log_of(tmp_path / "whole")
    assert whole == log_of(tmp_path / "killed")
    assert whole[0]["output_distance/loss"] == 0.0  # policy and reference are one at the start
    assert whole[-1]["output_distance/loss"] > 0


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_pull_of_the_weights_keeps_them_near_their_start(tmp_path, tuning):
    changes = {"tuning": tuning, "max_train_steps": 12}
    distances = []
    for pull in (1e-6, 1e3):
        run(tmp_path / str(pull), sft(), weight_distance=pull, **changes)
        distances.append([line["weight_distance"] for line in log_of(tmp_path / str(pull))])
    loose, tight = distances
    assert loose[0] == tight[0] == 0.0
    assert 0 < tight[-1] < 0.5 * loose[-1]


def test_gradients_are_cut_off_entry_by_entry_before_their_norm_is_taken(tmp_path):
    free, line = one_step(tmp_path / "free", sft())
    limit = float(free.abs().quantile(0.9)) if free.numel() < 1e7 else float(free.abs().max()) / 2
    cut, cut_line = one_step(tmp_path / "cut", sft(), max_grad_value=limit)
    torch.testing.assert_close(cut, free.clamp(-limit, limit), rtol=1e-5, atol=1e-7)
    assert cut_line["grad_norm"] == pytest.approx(float(cut.norm()), rel=1e-4)
    assert cut_line["grad_norm"] < line["grad_norm"]


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_an_optimizer_file_trains_and_resumes(tmp_path, name):
    changes = {"checkpointing_steps": 2, "max_train_steps": 4}
    changes["optimizer"] = OmegaConf.load(conf_folder() / "optimizer" / f"{name}.yaml")

    def go(path, method):
        cfg = settings(**{key: value for key, value in changes.items() if key != "optimizer"})
        cfg.train.optimizer = changes["optimizer"]
        model = tiny_adapter("stable_diffusion")
        start = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
        train(cfg, model, method, RandomPairs(), RunFolder(path), Accelerator(cpu=True))
        return changed(model, start).norm()

    assert go(tmp_path / "whole", sft()) > 0
    with pytest.raises(Interrupted):
        go(tmp_path / "killed", DiesAt(sft(), 3))
    go(tmp_path / "killed", sft())
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")


@pytest.mark.matrix
def test_a_compiled_network_makes_the_update_of_another(tmp_path):
    plain, line = one_step(tmp_path / "plain", sft())
    compiled, compiled_line = one_step(tmp_path / "compiled", sft(), compile=True)
    assert not torch.equal(compiled, plain)  # another program computed it
    assert (compiled - plain).norm() < 1e-4 * plain.norm()
    assert compiled_line["loss"] == pytest.approx(line["loss"], rel=1e-4)


def test_policy_and_reference_are_compiled_together():
    model = tiny_adapter("flux")
    model.prepare_training("full", 0, 0)
    model.make_reference()
    compile_networks(model)
    assert model.denoiser._compiled_call_impl is not None
    assert model.reference_network._compiled_call_impl is not None


def test_another_attention_backend_gives_the_same_gradient(tmp_path):
    torch_own, _ = one_step(tmp_path / "own", dpo())
    other, _ = one_step(tmp_path / "other", dpo(), attention_backend="_native_math")
    assert (other - torch_own).norm() < 1e-4 * torch_own.norm()
    assert not torch.equal(other, torch_own)
    with pytest.raises(UserError, match="did you mean native"):
        one_step(tmp_path / "none", dpo(), attention_backend="nativ")
    with pytest.raises(UserError, match="cannot be used here"):
        one_step(tmp_path / "absent", dpo(), attention_backend="xformers")
    with pytest.raises(UserError, match="has no effect on a UNet2DConditionModel"):
        one_step(tmp_path / "unet", dpo(), family="stable_diffusion", attention_backend="_native_math")


def test_float32_products_are_exact_but_where_training_asks_otherwise():
    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    with float32_products(tf32=True):
        assert flags() == (True, True)
    assert flags() == (False, False)
    with float32_products(tf32=False):
        assert flags() == (False, False)
