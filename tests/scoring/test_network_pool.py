"""Networks stay while there is room, and make room for others where there is none."""

import pytest
import torch
from torch import nn

from alignbench.evaluator import Evaluator
from alignbench.scoring import network_pool as network_pool
from alignbench.scoring.network_pool import RESERVE, NetworkPool


class Scorer(Evaluator):
    """Has a network of 4,000 bytes and counts how often it was read."""

    version = "1"
    num_reads = 0

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def network(self) -> nn.Module | None:
        if "network" not in vars(self):
            self.num_reads += 1
            vars(self)["network"] = nn.Linear(10, 100, bias=False)
        return vars(self)["network"]

    def encode_prompts(self, prompts):
        raise AssertionError

    def score_features(self, features, encoded):
        raise AssertionError


@pytest.mark.parametrize(("room_for", "reads"), [(3, 3), (1, 6)])
def test_networks_are_read_once_where_all_fit_and_anew_where_one_does(monkeypatch, room_for, reads):
    scorers = [Scorer(name) for name in "abc"]

    def free(device):
        return RESERVE + 4000 * (room_for - sum("network" in vars(scorer) for scorer in scorers))

    monkeypatch.setattr(network_pool, "free_memory", free)
    held = NetworkPool(torch.device("cpu"))
    for scorer in scorers * 2:
        held.use(scorer)
        assert "network" in vars(scorer)
        assert sum("network" in vars(one) for one in scorers) <= max(room_for, 1)
    assert sum(scorer.num_reads for scorer in scorers) == reads


def test_programs_need_no_room(monkeypatch):
    monkeypatch.setattr(network_pool, "free_memory", lambda device: RESERVE + 4000)
    program, network = Scorer("program"), Scorer("network")
    vars(program)["network"] = None
    held = NetworkPool(torch.device("cpu"))
    for scorer in (network, program, network):
        held.use(scorer)
    assert network.num_reads == 1
