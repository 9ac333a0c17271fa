"""What an optimizer needs is found by trying it: no list says which go with parts of weights."""

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.build import conf_folder
from alignbench.configuration.optimizers import needs_all_weights, needs_whole_weights


def optimizer(name):
    return OmegaConf.load(conf_folder() / "optimizer" / f"{name}.yaml")


@pytest.mark.parametrize(
    ("name", "whole", "together"),
    [
        ("adamw", False, False),
        ("adamw_fused", False, False),
        ("adamw8bit", False, False),
        ("adafactor", True, False),
        ("prodigy", True, True),
    ],
)
def test_the_optimizers_of_the_configuration_need_what_they_are_known_to(name, whole, together):
    assert needs_whole_weights(optimizer(name)) is whole
    assert needs_all_weights(optimizer(name)) is together


def test_an_optimizer_of_ones_own_is_found_out_too():
    muon = OmegaConf.create({"_target_": "torch.optim.Muon", "_partial_": True})
    assert needs_whole_weights(muon)
    assert not needs_all_weights(muon)
    momentum = OmegaConf.create({"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9})
    assert not needs_whole_weights(momentum)
