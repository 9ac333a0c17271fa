"""A weighted sum of rewards as one reward, each with its own network, prompts and published preprocessing."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class
from PIL import Image
from torch import Tensor, nn

from alignbench.errors import UserError, did_you_mean
from alignbench.evaluator import Evaluator, Reward, weight_bytes
from alignbench.store.training_data import union
from evaluators.networks.preprocess import Pictures


class Several(Reward):
    """The sum of weight times score of several evaluators; scores of which the lower is the better count negative.

    Methods that compare images of a prompt see each score apart, by `components`. For others the sum is one reward,
    which has a gradient if all of its parts have one.

    Args:
        components: the evaluators, by the name that they are typed and logged under.
        weights: factor on the published score of each, by the same names; 1 where none is given.

    Raises:
        UserError: there are no evaluators, or a weight is of none of them or not a finite number.
    """

    name = "several"
    preprocess = Pictures()

    def __init__(self, components: Mapping[str, Evaluator], weights: Mapping[str, float]) -> None:
        if not components:
            raise UserError("reward=several has no rewards to add up; type them as in reward=[pickscore,clip_score]")
        for name, weight in weights.items():
            if name not in components:
                raise UserError(f"reward.weights.{name} is of no reward;{did_you_mean(name, list(components))}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise UserError(f"reward.weights.{name}={weight} must be a number")
        self.evaluators = dict(components)
        self.factors = {name: float(weights.get(name, 1.0)) for name in components}

    # ---- what it is made of

    @property
    def components(self) -> dict[str, tuple[float, Evaluator]]:
        return {
            name: (self.factors[name] if one.higher_is_better else -self.factors[name], one)
            for name, one in self.evaluators.items()
        }

    @property
    def version(self) -> str:
        """Digest of the parts and their weights: scores of two sums are never mixed."""
        parts = [
            [name, weight, one.name, one.version, one.weights, one.precision, one.preprocess.key]
            for name, (weight, one) in self.components.items()
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]

    @property
    def precision(self) -> str:
        return "+".join(dict.fromkeys(evaluator.precision for evaluator in self.evaluators.values()))

    @property
    def lineage(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for one in self.evaluators.values() for name in one.lineage))

    @property
    def training_data(self) -> np.ndarray:
        return union(evaluator.training_data for evaluator in self.evaluators.values())

    @cached_property
    def network(self) -> nn.ModuleDict | None:
        """The networks of the parts that have one, by their names; None where no part has."""
        networks = {name: evaluator.network for name, evaluator in self.evaluators.items()}
        held = {name: network for name, network in networks.items() if network is not None}
        return nn.ModuleDict(held) if held else None

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        """Add up what the parts take; None if one of them does not say."""
        total = 0
        for node in settings["components"].values():
            arguments = {key: value for key, value in node.items() if key != "_target_"}
            size = weight_bytes(get_class(node["_target_"]), arguments)
            if size is None:
                return None
            total += size
        return total

    def supports(self, prompts: Sequence[str]) -> str | None:
        refusals = (evaluator.supports(prompts) for evaluator in self.evaluators.values())
        return next((refusal for refusal in refusals if refusal is not None), None)

    def release(self) -> None:
        super().release()
        for evaluator in self.evaluators.values():
            evaluator.release()

    # ---- scores

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts; each part encodes them in its own way."""
        return list(prompts)

    def score_features(self, features: Sequence[Image.Image], encoded: Sequence[str]) -> Tensor:
        """Return the weighted sum of the scores that the parts give to pictures by their published paths."""
        scores = [weight * one.score(features, encoded, len(features)) for weight, one in self.components.values()]
        return torch.stack(scores).sum(0)

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the weighted sum of the parts' rewards.

        Raises:
            UserError: a part has no gradient.
        """
        total = pixels.new_zeros(len(pixels))
        for name, (weight, evaluator) in self.components.items():
            if not isinstance(evaluator, Reward):
                raise UserError(f"reward {name} gives scores without a gradient, which this method needs; leave it out")
            total = total + weight * evaluator.reward(pixels, prompts)
        return total
