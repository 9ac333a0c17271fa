"""What the benchmark of methods and families takes for a failure; all combinations are trained by it alone."""

import json
from dataclasses import replace

import pytest
import torch
from torch import distributed

from alignbench.models.tiny_random import tiny_adapter
from benchmarks.families import Combination, added_by_adapters, load, named, tried, wrong_change, wrong_losses
from tests.tiny_runs import dpo


def test_what_adapters_add_is_the_product_of_both_matrices_of_each_layer():
    down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    adapters = {"b.lora_A.weight": down, "b.lora_B.weight": up, "a.lora_A.weight": down, "a.lora_B.weight": 2 * up}
    assert added_by_adapters(adapters).tolist() == [6, 12, 8, 16, 3, 6, 4, 8]


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([0.5, 0.25], []),
        ([0.5], ["1 updates in place of 2"]),
        ([0.5, float("nan")], ["the loss of update 2 is nan"]),
    ],
)
def test_losses_are_as_many_as_updates_and_finite(losses, told, tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in losses))
    assert wrong_losses(tmp_path) == told


@pytest.mark.parametrize(
    ("change", "told"),
    [([0.0, 1e-9], []), ([0.0, 0.0], ["no weight moved"]), ([1.0, float("inf")], ["weights are not finite"])],
)
def test_weights_move_and_stay_finite(change, told):
    assert wrong_change(torch.tensor(change)) == told


def test_names_choose_among_methods_and_families_apart():
    assert named(["dpo", "sana"], ["dpo", "sft"]) == ["dpo"]
    assert named(["dpo", "sana"], ["flux", "sana"]) == ["sana"]
    assert named(["dpo"], ["flux", "sana"]) == ["flux", "sana"]


class Wrapped:
    """DPO with another loss."""

    def __init__(self, change):
        self.method, self.change = dpo(), change

    def __getattr__(self, name):
        return getattr(self.method, name)

    def loss(self, model, batch, context):
        found = self.method.loss(model, batch, context)
        return replace(found, values=self.change(found.values))


def unlike_processes(loss):
    return loss * (2 if distributed.is_initialized() and distributed.get_rank() else 1)


@pytest.mark.matrix
@pytest.mark.parametrize(("change", "told"), [(lambda loss: loss, ""), (unlike_processes, "one update differs")])
def test_processes_that_train_unlike_are_found(change, told, tmp_path):
    load()
    combination = Combination(Wrapped(change), tiny_adapter("stable_diffusion"), tmp_path)
    assert tried(combination, 1) == []
    wrong = "; ".join(tried(combination, 2))
    assert wrong.startswith(told)
    assert bool(wrong) == bool(told)
