"""A small training run: data, settings and methods for tests of the loop and of what surrounds it."""

import json
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from omegaconf import OmegaConf

from alignbench.configuration.build import conf_folder
from alignbench.context import keyed_generator
from alignbench.data.source import (
    GeneratedPairSample,
    Kind,
    Pair,
    PairSource,
    PromptSample,
    TrainingImage,
    View,
)
from alignbench.diffusion.initial_noise import InitialNoise
from alignbench.settings.train import Train
from benchmarks.small_commands import short
from methods.dpo import DPO
from methods.sft import SFT

# all methods, to parametrise tests with; presets, which only set what a method has, are for -m matrix
METHODS = [
    pytest.param(file.stem, marks=[] if "_target_: methods." in file.read_text() else [pytest.mark.matrix])
    for file in sorted((conf_folder() / "method").glob("*.yaml"))
    if file.stem != "base"
]


class RandomPairs(PairSource):
    """Pairs of random pictures; as generated pairs, with a noise for each that has nothing to do with it."""

    name = "random"
    mixed = "dropped"
    fingerprint = "random"
    pairs = tuple(Pair(f"prompt {n}", f"{n}-w", f"{n}-l", 0.8) for n in range(12))
    prompts = tuple(pair.prompt for pair in pairs)
    num_filtered = Counter()  # noqa: RUF012

    def image(self, key: str) -> TrainingImage:
        generator = keyed_generator(key)
        return TrainingImage(key, torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8).numpy())

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        return View(self.pairs, self.generated_pair) if kind == "generated_pairs" else super().view(kind)

    def generated_pair(self, pair: Pair) -> GeneratedPairSample:
        noise_w, noise_l = (InitialNoise(key, 0, 0, "per_prompt") for key in (pair.key_w, pair.key_l))
        images = self.image(pair.key_w), self.image(pair.key_l)
        return GeneratedPairSample(pair.prompt, *images, pair.probability_w, noise_w, noise_l)


def settings(**changes):
    values = OmegaConf.create(Train.defaults())
    values.optimizer = OmegaConf.load(conf_folder() / "optimizer" / "adamw.yaml")
    small = {"max_train_steps": 4, "total_batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3}
    return OmegaConf.create({"seed": 0, "train": OmegaConf.merge(values, small, changes)})


def shortened(method, num_steps):
    """The node of a method with few steps of whatever it walks, and the smallest groups."""
    return OmegaConf.merge(method, short(method, num_steps))


def memory(mode):
    """What memory=MODE sets."""
    return dict(OmegaConf.load(conf_folder() / "memory" / f"{mode}.yaml"))


def dpo():
    return DPO(
        name="dpo",
        beta=100.0,
        beta_convention="half",
        labels="hard",
        label_smoothing=0.0,
        safeguard=None,
        error_weighting="uniform",
        prompt_dropout=0.25,
        num_draws=None,
    )


def sft():
    return SFT(
        name="sft", variant="chosen", error_weighting="uniform", snr_gamma=5.0, normalise="selected", prompt_dropout=0.1
    )


def log_of(path):
    return [json.loads(line) for line in (path / "train.jsonl").read_text().splitlines()]


def files_of(folder):
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Interrupted(Exception):
    pass


class DiesAt:
    """Wraps a method so that its loss raises at one update, as a kill would stop it."""

    def __init__(self, method, step):
        self.method, self.step = method, step

    def __getattr__(self, name):
        return getattr(self.method, name)

    def loss(self, model, batch, context):
        if context.step == self.step:
            raise Interrupted
        return self.method.loss(model, batch, context)
