"""Where the networks lie that only help."""

import torch
from torch import nn

from alignbench.models.tiny_random import tiny_adapter
from alignbench.training.cpu_offload import CpuOffload


class Travelling(nn.Module):
    """Writes down where it was sent. Nothing is really moved: any device can be named."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.sent = []

    def to(self, device):
        self.sent.append(str(device))
        return self

    def forward(self, value):
        return self.weight * value


def test_an_offloaded_network_comes_when_it_is_called_and_goes_when_it_may_rest():
    module = Travelling()
    frozen_networks = CpuOffload([module], torch.device("meta"), enabled=True)
    assert module.sent == ["cpu"]
    module(1)
    assert module.sent == ["cpu", "meta"]
    frozen_networks.offload()
    assert module.sent == ["cpu", "meta", "cpu"]


def test_without_offloading_a_network_stays_on_the_device():
    module = Travelling()
    frozen_networks = CpuOffload([module], torch.device("meta"), enabled=False)
    module(1)
    frozen_networks.offload()
    assert module.sent == ["meta"]


def test_text_encoders_and_both_halves_of_the_vae_are_called_in_a_way_that_is_noticed():
    model = tiny_adapter("stable_diffusion_3")
    CpuOffload(model.frozen_networks, torch.device("cpu"), enabled=True)
    came = []

    def noticing(before):
        def pre_forward(module, *args, **kwargs):
            came.append(type(module).__name__)
            return before(module, *args, **kwargs)

        return pre_forward

    for module in model.frozen_networks:
        module._hf_hook.pre_forward = noticing(module._hf_hook.pre_forward)
    model.encode_prompts(["a circle"])
    assert sorted(came) == ["CLIPTextModelWithProjection", "CLIPTextModelWithProjection", "T5EncoderModel"]
    came.clear()
    mean, _ = model.encode_posterior(torch.rand(1, 3, 32, 32))
    model.decode_latents(model.latents_of(mean))
    assert came == ["AutoencoderKL", "AutoencoderKL"]
