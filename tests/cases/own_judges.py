"""A reward model of somebody's own pairs, in which the lighter picture of two is preferred."""

import json

import numpy as np
from PIL import Image

from alignbench.configuration.compose import composed
from alignbench.train_reward.checks import check
from alignbench.train_reward.run import train_reward


def write_pairs(folder, number):
    """Write pictures and the list of their pairs; return the lines of the list."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(number):
        for side, level in (("w", 180), ("l", 20)):
            pixels = rng.integers(level, level + 60, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}-{side}.png")
        lines.append({"prompt": f"thing {index}", "image_w": f"{index}-w.png", "image_l": f"{index}-l.png"})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return lines


def train_anna(pairs, results):
    """Train the judge anna on a folder of pairs for two updates."""
    few = [f"train.{key}" for key in ("max_train_steps=2", "total_batch_size=8", "micro_batch_size=8")]
    what = ["data=local", f"data.path={pairs}", "judge=head", "name=anna", f"results={results}"]
    cfg = composed([*what, *few, "train.evaluation_steps=2"], "train_reward")
    check(cfg)
    train_reward(cfg)
