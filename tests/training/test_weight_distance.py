"""The distance of weights from where they started, against differences of whole weights."""

import pytest
import torch
from accelerate import Accelerator

from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.run_folder import RunFolder
from alignbench.training.parallel import join
from alignbench.training.train import train
from alignbench.training.weight_distance import WeightDistance, weight_norm
from tests.processes import FSDP2, together
from tests.tiny_runs import RandomPairs, settings, sft


def flat(network):
    return torch.cat([tensor.double().flatten() for tensor in network.state_dict().values()])


def test_of_weights_it_is_the_norm_of_their_change_over_that_of_the_start():
    """(3, 4) of norm 5 becomes (3, 5): 1 / 5."""
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[3.0, 4.0]])
    parallel = join(Accelerator(cpu=True))
    distance = WeightDistance(network, list(network.parameters()), False, weight_norm(network), parallel)
    assert distance.measure() == 0
    network.weight.data[0, 1] = 5.0
    assert distance.measure() == pytest.approx(0.2)


@pytest.mark.parametrize("family", ["flux", "stable_diffusion"])
def test_adapters_count_as_what_they_add_to_the_weights(family):
    model = tiny_adapter(family)
    start, norm = flat(model.denoiser), weight_norm(model.denoiser)
    model.prepare_training("lora", 3, 5.0)
    parameters = [p for p in model.denoiser.parameters() if p.requires_grad]
    distance = WeightDistance(model.denoiser, parameters, True, norm, join(Accelerator(cpu=True)))
    assert distance.measure() == 0, "adapters start as nothing"
    torch.manual_seed(0)
    for parameter in parameters:
        parameter.data.normal_()
    found = distance.measure()
    model.fold_adapters()
    assert found == pytest.approx(float((flat(model.denoiser) - start).norm() / start.norm()), rel=1e-4)


def kept(path, **changes):
    model = tiny_adapter("flux")
    start = flat(model.denoiser)
    trained = train(settings(**changes), model, sft(), RandomPairs(), RunFolder(path), Accelerator(cpu=True))
    return trained.weight_distance, model, start


@pytest.mark.parametrize("changes", [{"tuning": "full"}, {"tuning": "lora"}, {"tuning": "full", "ema_decay": 0.9}])
def test_a_run_tells_it_of_the_weights_that_it_saved(tmp_path, changes):
    found, _, start = kept(tmp_path, **changes, learning_rate=1e-2)
    model = tiny_adapter("flux")
    model.load_policy(tmp_path / "policy")
    model.fold_adapters()
    assert found == pytest.approx(float((flat(model.denoiser) - start).norm() / start.norm()), rel=1e-3)
    assert found > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_processes_that_share_the_weights_tell_the_same(tmp_path, tuning):
    def job(rank, path):
        return kept(path, tuning=tuning, learning_rate=1e-2)[0]

    shared = together(job, tmp_path / "two", environment=FSDP2)
    assert shared[0] == pytest.approx(job(0, tmp_path / "one"), rel=0.02)
