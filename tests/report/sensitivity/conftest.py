"""A results root of three settings of dpo, trained for two budgets, and one run of sft."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from alignbench.files import write_text

PROMPTS = {f"p{n:02}": f"prompt {n}" for n in range(20)}


def add(world, method, recipe, won, passes, settings, seed=0, evaluator="clip"):
    """Add a run that wins `won` of 20 images over base."""
    scores = [1.0 if n < won else -1.0 for n in range(20)]
    folder = world.run(method, scores, prompts=PROMPTS, groups={}, recipe=recipe, seed=seed, evaluator=evaluator)
    budget = replace(folder.manifest.budget, network_passes=passes, samples_seen=passes // 2, device_hours=passes / 1e4)
    folder.update(budget=budget)
    write_text(folder.config_file, OmegaConf.to_yaml(OmegaConf.create(settings)))
    return folder


@pytest.fixture
def swept(world):
    world.run("base", [0.0] * 20, prompts=PROMPTS, groups={})
    for rate, won in ((1e-5, 12), (1e-4, 16), (1e-3, 4)):
        for seed in (0, 1):
            settings = {"train": {"learning_rate": rate, "max_train_steps": 10}, "method": {"name": "dpo"}}
            add(world, "dpo", f"r{rate}", won + seed, 1000, settings, seed)
    longer = {"train": {"learning_rate": 1e-4, "max_train_steps": 90}, "method": {"name": "dpo"}}
    add(world, "dpo", "longer", 20, 9000, longer)
    add(world, "sft", "r", 11, 1000, {"train": {"learning_rate": 1e-5, "max_train_steps": 10}})
    return world
