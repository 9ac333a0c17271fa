"""Whatever a method does with a pair or an image, each image meets the network with the sizes that it is told."""

from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from alignbench.batch import LabelledBatch, PairBatch
from alignbench.configuration.build import conf_folder
from alignbench.models.tiny_random import tiny_adapter


def sizes(latents):
    """Return sizes that can be told from the latents they go with."""
    return latents[:, 0, 0, 0].sign()[:, None].expand(-1, 6) * 16 + 48


def marked(batch_type, model, kit):
    """Return a batch whose images are marked by the sign of their latents: positive and negative ones, of two sizes."""
    batch = kit.batch(batch_type, model)
    names = ("latents_w", "latents_l") if batch_type is PairBatch else ("latents",)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None, None, None]
    marks = {}
    for name, sign in zip(names, (signs, -signs), strict=False):
        marks[name] = (getattr(batch, name).abs() + 50) * sign  # no noise changes the sign at the level below
    told = replace(batch.conditioning, time_ids=sizes(marks[names[0]]))
    if batch_type is PairBatch:
        marks |= {"time_ids_l": sizes(marks["latents_l"]), "score_w": torch.tensor([0.0, 1.0, 0.0, 1.0])}
        marks |= {"score_l": torch.tensor([1.0, 0.0, 1.0, 0.0])}  # which turns two of the pairs round
    return replace(batch, conditioning=told, **marks)


@pytest.mark.parametrize(
    "command",
    ["dpo", "sdpo", "mapo", "smpo", "inpo", "sft", "sft_all", "sft_labelled", "kto", "kto method.q_mode=mismatched"],
)
def test_each_image_meets_the_network_with_its_own_sizes(command, kit):
    name, *changes = command.split()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", ["model=sdxl_mini", f"method={name}", *changes])
    OmegaConf.set_struct(cfg, False)
    if name == "smpo":
        cfg.method = {**cfg.method, "scorer": None, "labels": "reward", "score_range": [0.0, 1.0]}
        method = instantiate(cfg.method, scorer=kit.ToyReward(3))
    else:
        method = instantiate(cfg.method)
    model = tiny_adapter("stable_diffusion_xl")
    model.prepare_training("lora", rank=2, alpha=2)
    model.make_reference()
    model.sample_timesteps = lambda batch_size, generator, latent_size: torch.full(
        (batch_size,), 20.0, dtype=torch.float64
    )
    forward, met = model.forward, []

    def watched(noisy_latents, timesteps, conditioning, guidance):
        met.append(torch.equal(sizes(noisy_latents), conditioning.time_ids))
        return forward(noisy_latents, timesteps, conditioning, guidance)

    model.forward = watched
    batch = marked(LabelledBatch if name in ("sft_labelled", "kto") else PairBatch, model, kit)
    kit.backward(method, model, batch, kit.context())
    assert met
    assert all(met)
