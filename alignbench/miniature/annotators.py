"""Simulated annotators of the shapes world: people of different tastes who vote by a known Bradley-Terry model.

The utility of an image for person a is u_a = w_a . features. The person prefers x to y with probability
(1 - noise_rate) sigmoid((u_a(x) - u_a(y)) / temperature) + noise_rate / 2. The population is known, so soft labels are
exact, and the mean utility tells how good the images of a trained policy really are.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from alignbench.miniature.captions import parse
from alignbench.miniature.oracle import facts
from alignbench.miniature.reading import Reading

FEATURES = ("agreement", "realism", "cleanliness", "brightness", "colourfulness")

# In logits at temperature 1. One unmet demand out of six costs 1.7, a flat image instead of a shaded one 2, the noisy
# style 1.6. Brightness and colour have mean weight 0: as many people like them as do not. At the default spread one
# person in eleven prefers flat images; colourfulness varies by at most 0.2.
MEAN_WEIGHTS = np.array([10.0, 2.0, 2.0, 0.0, 0.0])
WEIGHT_SPREADS = np.array([6.0, 3.0, 2.0, 4.0, 20.0])  # standard deviation between people at spread 1


def features(reading: Reading, prompt: str) -> np.ndarray:
    """Return the features of an image that people vote by, one value for each of FEATURES, about 0..1.

    Args:
        reading: what the oracle reads from the image.
        prompt: prompt of the shapes world; a style word in it has no effect.

    Raises:
        ValueError: the prompt is not of the shapes world.
    """
    agreement = float(np.mean(list(facts(reading, parse(prompt)).values())))
    return np.array([agreement, reading.realism, reading.cleanliness, reading.brightness, reading.colourfulness])


class Population:
    """A fixed set of annotators.

    Args:
        num_annotators: number of people.
        spread: how much their tastes differ; at 0 all have the mean taste.
        noise_rate: share of votes that are random.
        seed: seed of the tastes; votes have a generator of their own.
        temperature: difference in utility at which the better image is preferred with probability 73 %.
        only: numbers of the people who vote, counted from 0; None for all.

    Attributes:
        weights: tastes of the people who vote, [N, len(FEATURES)]. The mean over all people is MEAN_WEIGHTS for any
            seed.
    """

    def __init__(
        self,
        num_annotators: int = 100,
        spread: float = 0.5,
        noise_rate: float = 0.05,
        seed: int = 0,
        temperature: float = 1.0,
        only: Sequence[int] | None = None,
    ) -> None:
        if num_annotators < 1:
            raise ValueError(f"num_annotators={num_annotators} must be at least 1")
        if not 0.0 <= noise_rate <= 1.0:
            raise ValueError(f"noise_rate={noise_rate} must lie in 0..1")
        if spread < 0.0 or temperature <= 0.0:
            raise ValueError(f"spread={spread} must not be negative and temperature={temperature} must be positive")
        if only is not None and (not len(only) or not set(only) <= set(range(num_annotators))):
            raise ValueError(f"only={list(only)} must name some of the annotators, numbered 0 to {num_annotators - 1}")
        tastes = np.random.default_rng(seed).normal(size=(num_annotators, len(FEATURES)))
        self.weights = MEAN_WEIGHTS + spread * WEIGHT_SPREADS * (tastes - tastes.mean(axis=0))
        if only is not None:
            self.weights = self.weights[list(only)]
        self.noise_rate = noise_rate
        self.temperature = temperature

    def utility(self, features: np.ndarray) -> np.ndarray:
        """Return the utility of images for each person, [..., len(FEATURES)] to [..., N]."""
        return features @ self.weights.T

    def mean_utility(self, features: np.ndarray) -> np.ndarray:
        """Return the mean utility of images over all people, [..., len(FEATURES)] to [...]."""
        return features @ self.weights.mean(axis=0)

    def vote_probability(self, features_x: np.ndarray, features_y: np.ndarray) -> np.ndarray:
        """Return the probability that each person votes for x rather than y, [..., N]."""
        preference = expit(self.utility(features_x - features_y) / self.temperature)
        return (1.0 - self.noise_rate) * preference + self.noise_rate / 2

    def preference_probability(self, features_x: np.ndarray, features_y: np.ndarray) -> np.ndarray:
        """Return the exact soft label, [...]: the probability that a random person votes for x rather than y."""
        return self.vote_probability(features_x, features_y).mean(axis=-1)

    def vote(
        self, features_x: np.ndarray, features_y: np.ndarray, num_votes: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the votes of `num_votes` randomly drawn people on each pair, bool [..., num_votes], True for x.

        Raises:
            ValueError: there are fewer people than votes.
        """
        if num_votes > len(self.weights):
            raise ValueError(f"num_votes={num_votes} on a pair exceeds the {len(self.weights)} annotators there are")
        probabilities = self.vote_probability(features_x, features_y)
        people = np.argsort(rng.random(probabilities.shape), axis=-1)[..., :num_votes]
        chances = np.take_along_axis(probabilities, people, axis=-1)
        return rng.random(chances.shape) < chances
