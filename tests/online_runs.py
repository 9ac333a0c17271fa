"""What the tests of online methods share: methods as their configuration makes them, a reward, prompts in groups."""

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alignbench.batch import PromptBatch
from alignbench.configuration.build import build, conf_folder
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.models.lagged_weights import LaggedWeights
from alignbench.pairwise.comparer import Comparer, Verdict
from tests.tiny_runs import shortened

PROMPTS = ["a red circle", "two blue squares", "a green star on white", "a small black ring"]


class AsTheyAre(Preprocess):
    """Hands pictures over."""

    key = "as_they_are"

    def __call__(self, images):
        return list(images)


class Brightness(Evaluator):
    """Mean of all pixels, 0..1."""

    name, version, network, preprocess = "brightness", "1", None, AsTheyAre()

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, features, encoded):
        return torch.tensor([np.asarray(image).mean() / 255 for image in features], dtype=torch.float32)


class Brighter(Comparer):
    """Prefers the brighter image, and the first place by `bias` levels; keeps what it was asked."""

    name, version, preprocess, batch_size = "brighter", "1", AsTheyAre(), 3

    def __init__(self, bias=0.0, fails=lambda first, second: False, words=False, models=("",)):
        self.bias, self.fails, self.words, self.models = bias, fails, words, list(models)
        self.asked = []

    def compare(self, first, second, prompts):
        found = []
        for one, other, prompt in zip(first, second, prompts, strict=True):
            levels = [round(float(np.asarray(image).mean())) for image in (one, other)]
            self.asked.append((*levels, prompt))
            model = self.models[min(len(self.asked), len(self.models)) - 1]
            log_odds = float(levels[0] - levels[1] + self.bias)
            if self.fails(*levels):
                found.append(Verdict(None, None, answered_by=model))
            elif self.words:
                found.append(Verdict(None, Verdict.of_log_odds(log_odds).won, answered_by=model))
            else:
                found.append(Verdict.of_log_odds(log_odds, answered_by=model))
        return found


def method_of(name, num_steps=2, reward=None, **changes):
    """Return a method with few steps, trained at all levels it visits."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose("config", [f"method={name}", "model=sd15", "reward=shapes_clip"]).method
    node = OmegaConf.merge(
        shortened(node, num_steps), {"levels": {"num": num_steps}} if "levels" in node else {}, changes
    )
    method = build(node)
    method.reward = reward or Brightness()
    return method


def prompts_in_groups(model, num_prompts, group_size):
    """Return a share of a batch: so many prompts, each in `group_size` rows that follow each other."""
    prompts = [prompt for prompt in PROMPTS[:num_prompts] for _ in range(group_size)]
    return PromptBatch(torch.arange(len(prompts)) + 10 * group_size, prompts, model.encode_prompts(prompts))


def keep_old_policy(model):
    """Do what the loop does for a method with a lag."""
    model.lagged_weights = LaggedWeights([p for p in model.denoiser.parameters() if p.requires_grad])
