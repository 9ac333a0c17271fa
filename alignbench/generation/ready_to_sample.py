"""What a model with its start weights still needs before evaluation images are sampled from it."""

from pathlib import Path

import torch

from alignbench.generation.generate import Sampling
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.quantised import quantise_blocks


def make_ready(model: ModelAdapter, sampling: Sampling, policy: Path | None, device: torch.device) -> None:
    """Give a model its policy at the strength and precision that images are sampled with, and move it to the device.

    Args:
        policy: of a run that trained.
    """
    keep_start = sampling.strength != 1
    if policy is not None:
        model.load_policy(policy, keep_start=keep_start)
    if keep_start and sampling.strength_kind == "weights":
        model.scale_policy(sampling.strength)
    if sampling.base_bits is not None:
        for network in (model.denoiser, model.reference_network):
            if network is not None:
                quantise_blocks(network, sampling.base_bits, device)
    model.to(device)
