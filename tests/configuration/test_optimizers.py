"""What an optimizer looks at is found by trying it: no list says which ones go with shards or parts of weights."""

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.build import conf_folder
from alignbench.configuration.optimizers import looks_at_all_weights, looks_at_whole_weights


def optimizer(name):
    node = OmegaConf.load(conf_folder() / "optimizer" / f"{name}.yaml")
    pytest.importorskip(node._target_.split(".")[0])
    return node


@pytest.mark.parametrize(
    ("name", "whole", "together"),
    [
        ("adamw", False, False),
        ("adamw8bit", False, False),
        ("adafactor", True, False),
        ("prodigy", True, True),
    ],
)
def test_the_optimizers_of_the_configuration_look_at_what_they_are_known_to(name, whole, together):
    assert looks_at_whole_weights(optimizer(name)) is whole
    assert looks_at_all_weights(optimizer(name)) is together


def test_an_optimizer_of_ones_own_is_found_out_too():
    muon = OmegaConf.create({"_target_": "torch.optim.Muon", "_partial_": True})
    assert looks_at_whole_weights(muon)
    assert not looks_at_all_weights(muon)
    momentum = OmegaConf.create({"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9})
    assert not looks_at_whole_weights(momentum)
