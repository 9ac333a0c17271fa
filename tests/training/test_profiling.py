"""What `profile=true` records of the updates of a training."""

import json

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from alignbench.errors import UserError
from alignbench.files import without_check
from alignbench.models.tiny_random import tiny_adapter
from alignbench.report.curves.read import read_profile
from alignbench.report.page.runs import _profile_facts
from alignbench.store.run_folder import RunFolder
from alignbench.training.profiling import figures, marked, profiled
from alignbench.training.train import train
from tests.tiny_runs import RandomPairs, dpo, settings


class Encoder(nn.Module):
    """A network that is called through its child, as a VAE is."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(300, 300)

    def encode(self, values):
        return self.inner(values)


def test_time_in_networks_and_their_backward_pass_counts_once_and_the_rest_is_outside():
    network, values = Encoder(), torch.ones(300, 300)
    with marked([network, None]), profile(activities=[ProfilerActivity.CPU]) as recorder:
        for number in range(2):
            with record_function(f"ProfilerStep#{number}"):
                network.encode(values).sum().backward()
                for _ in range(20):
                    torch.sort(values.flatten())
    events = recorder.events()
    found = figures(events, on_device=False)
    spent = {name: sum(e.cpu_time_total for e in events if e.name == name) for name in ("aten::sort", "aten::linear")}
    total = sum(e.cpu_time_total for e in events if e.name.startswith("ProfilerStep"))
    assert found["num_updates"] == 2
    assert found["seconds_per_update"] == pytest.approx(total / 2e6)
    assert spent["aten::sort"] / total < found["outside_networks"] < 1 - spent["aten::linear"] / total
    assert found["costs"][0]["name"] == "aten::sort"
    assert found["costs"][0]["calls_per_update"] == 20
    assert sum(one["share"] for one in found["costs"]) <= 1
    assert not network.inner._forward_hooks
    assert not network.inner._forward_pre_hooks


@pytest.mark.matrix
def test_a_profiled_run_has_the_same_weights_and_its_figures_are_read_again(tmp_path):
    weights, folders = [], {}
    for on in (False, True):
        folders[on] = RunFolder(tmp_path / str(on))
        model = tiny_adapter("stable_diffusion")
        cfg = settings(max_train_steps=7)
        train(cfg, model, dpo(), RandomPairs(), folders[on], Accelerator(cpu=True), profile=on)
        weights.append((folders[on].policy / "unet" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert not folders[False].profile.exists()
    assert read_profile(folders[False]) is None
    found = read_profile(folders[True])
    assert found == without_check(json.loads(folders[True].profile_figures.read_text()))
    assert found["num_updates"] == 3
    assert len(found["costs"]) == 10
    assert 0 < found["outside_networks"] < 1
    assert (folders[True].profile / "trace.json").stat().st_size > 1000
    names = [name for name, _ in _profile_facts(folders[True])]
    assert names == ["seconds an update, profiled", "outside networks", "largest costs of an update"]
    folders[True].profile_figures.write_text(folders[True].profile_figures.read_text().replace('"num', '"nun'))
    with pytest.raises(UserError, match="has changed since it was written; delete it"):
        read_profile(folders[True])


def test_a_run_that_ends_before_the_last_recorded_update_leaves_nothing(tmp_path):
    with profiled(True, RunFolder(tmp_path), [], torch.device("cpu")) as profiler:
        for _ in range(5):
            profiler.step()
    assert not list(tmp_path.iterdir())


def test_without_it_no_network_is_marked(tmp_path):
    network = nn.Linear(2, 2)
    with profiled(False, RunFolder(tmp_path), [network], torch.device("cpu")) as profiler:
        profiler.step()
        assert not network._forward_hooks
    assert not list(tmp_path.iterdir())
