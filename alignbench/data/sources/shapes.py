"""Preference data of the shapes world: rendered candidates that simulated annotators voted on."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from alignbench.data.source import Pair, PairSource, TrainingImage, decide
from alignbench.data.storage.kept_array import keep_array, kept_array
from alignbench.errors import UserError
from alignbench.files import cache_folder
from alignbench.miniature.candidates import candidate
from alignbench.settings.data import Mixed, Posterior
from alignbench.settings.section import Seed
from alignbench.terminal.endings import is_main

if TYPE_CHECKING:
    from alignbench.miniature.annotators import Population

NUM_PROBES = 8  # candidate pairs that enter the fingerprint by pixels and votes, and the key of the cache
PROGRAM = Path(__file__).parents[2] / "miniature"  # all that renders and measures


class Candidates:
    """The images that annotators vote on, and their features; each is rendered and measured when it is first needed.

    Pair number i belongs to prompt number i modulo `num_prompts`; its draws are keyed by (seed, i). Features take
    several milliseconds an image, so those of all pairs are kept in the user's cache.
    """

    def __init__(self, num_prompts: int, fault_share: float, dirt_share: float, seed: int) -> None:
        self.num_prompts = num_prompts
        self.fault_share = fault_share
        self.dirt_share = dirt_share
        self.seed = seed
        self._images: dict[str, TrainingImage] = {}
        self._features: dict[str, np.ndarray] = {}

    @cached_property
    def prompts(self) -> list[str]:
        from alignbench.miniature.captions import prompts

        return prompts("train", self.num_prompts, self.seed)

    def prompt(self, number: int) -> str:
        return self.prompts[number % self.num_prompts]

    def image(self, key: str) -> TrainingImage:
        if key not in self._images:
            from alignbench.miniature.captions import parse

            number, side = map(int, key.split("-"))
            rng = np.random.default_rng([self.seed, number, side])
            pixels = candidate(parse(self.prompt(number)), rng, self.fault_share, self.dirt_share)
            self._images[key] = TrainingImage(key, pixels)
        return self._images[key]

    def features(self, key: str) -> np.ndarray:
        if key not in self._features:
            from alignbench.miniature.annotators import features
            from alignbench.miniature.reading import read

            self._features[key] = features(read(self.image(key).pixels), self.prompt(int(key.split("-")[0])))
        return self._features[key]

    def measure(self, num_pairs: int) -> None:
        """Have the features of the first pairs at hand, from the cache where an earlier command has measured them."""
        from alignbench.miniature.annotators import FEATURES

        keys = [_key(number, side) for number in range(num_pairs) for side in (0, 1)]
        if all(key in self._features for key in keys):
            return
        kept = cache_folder() / "shapes" / f"{self._digest(num_pairs)}.npy"
        found = kept_array(kept, (len(keys), len(FEATURES)), np.float64)
        if found is None:
            numbers = tqdm(
                range(num_pairs), "draw pairs", unit="pair", dynamic_ncols=True, delay=1, disable=not is_main()
            )
            found = np.array([self.features(_key(number, side)) for number in numbers for side in (0, 1)])
            keep_array(kept, found)
        self._features.update(zip(keys, found, strict=True))

    def _digest(self, num_pairs: int) -> str:
        """Return a digest of all that decides the features of the first pairs.

        The first few images and their features are part of it: another processor may round them differently.
        """
        settings = [num_pairs, self.fault_share, self.dirt_share, self.seed, self.prompts]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for file in sorted(PROGRAM.glob("*.py")):
            digest.update(file.read_bytes())
        for number in range(min(NUM_PROBES, num_pairs)):
            for key in (_key(number, 0), _key(number, 1)):
                digest.update(self.image(key).pixels.tobytes() + self.features(key).tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=1)
def _candidates(num_prompts: int, fault_share: float, dirt_share: float, seed: int) -> Candidates:
    """Return candidates; the last ones are kept in memory, because the next job of a sweep mostly uses the same."""
    return Candidates(num_prompts, fault_share, dirt_share, seed)


class ShapesData(PairSource):
    """Pairs of renderings for prompts of the train split.

    The first pairs are the same whatever their number. Everything is made on first use and kept in memory, and what
    annotators see in the images in the user's cache; for methods that read prompts only, no image is rendered.

    Args:
        name: as typed in `data=`.
        num_prompts: distinct training prompts.
        num_pairs: number of pairs that are voted on; ties are left out and counted.
        annotators: the population that votes.
        num_votes: number of annotators, drawn from the population, who vote on a pair; the soft label is the winner's
            share of the votes. None: the soft label is the exact probability that a vote is for the winner.
        fault_share: probability that an image contradicts its prompt in one thing.
        dirt_share: probability that an image has grain or a tint.
        seed: seed of prompts, images and votes; not the training seed.
        mixed: see `PairSource`; here it has no effect, because every image is in one pair only.
        posterior: see `DataSource`.
    """

    labelled_by = ("shapes_annotators",)

    def __init__(
        self,
        name: str,
        num_prompts: int,
        num_pairs: int,
        annotators: "Population",
        num_votes: int | None,
        fault_share: float,
        dirt_share: float,
        seed: Seed,
        posterior: Posterior,
    ) -> None:
        for key, value in (("num_prompts", num_prompts), ("num_pairs", num_pairs), ("num_votes", num_votes)):
            if value is not None and value < 1:
                raise UserError(f"data.{key}={value} must be at least 1")
        for key, value in (("fault_share", fault_share), ("dirt_share", dirt_share)):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"data.{key}={value} must lie in 0..1")
        if num_votes is not None and num_votes > len(annotators.weights):
            raise UserError(
                f"data.num_votes={num_votes} exceeds the {len(annotators.weights)} annotators there are; each votes on "
                "a pair once"
            )
        self.name = name
        self.candidates = _candidates(num_prompts, fault_share, dirt_share, seed)
        self.num_pairs = num_pairs
        self.annotators = annotators
        self.num_votes = num_votes
        self.mixed: Mixed = "desirable"
        self.posterior = posterior
        self.num_filtered: Counter[str] = Counter()

    @property
    def prompts(self) -> list[str]:
        return self.candidates.prompts

    @cached_property
    def pairs(self) -> Sequence[Pair]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.candidates.measure(self.num_pairs)
        decided = [self._voted(number) for number in range(self.num_pairs)]
        kept = [pair for pair in decided if pair is not None]
        if len(kept) < self.num_pairs:
            self.num_filtered["tie"] = self.num_pairs - len(kept)
        if not kept:
            raise UserError(f"all {self.num_pairs} pairs of data={self.name} are ties; raise data.num_pairs")
        return kept

    @cached_property
    def fingerprint(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A hash of the recipe, the prompts, and pixels and votes of the first few pairs.

        The first few pairs are enough to detect a change of renderer, oracle or annotators, at a hundredth of the cost.
        """
        drawn = self.candidates
        recipe = [self.num_pairs, self.num_votes, drawn.fault_share, drawn.dirt_share, drawn.seed, self.posterior]
        digest = hashlib.sha256(json.dumps([recipe, self.prompts]).encode())
        digest.update(self.annotators.weights.tobytes())
        digest.update(repr((self.annotators.noise_rate, self.annotators.temperature)).encode())
        for number in range(min(NUM_PROBES, self.num_pairs)):
            digest.update(_text_of(self._voted(number)).encode())
            for side in (0, 1):
                digest.update(self.image(_key(number, side)).pixels.tobytes())
        return digest.hexdigest()

    def image(self, key: str) -> TrainingImage:
        return self.candidates.image(key)

    def identity(self, key: str) -> str:
        """Return what the image is drawn from, which data with other pairs or votes may have as well."""
        drawn, number = self.candidates, int(key.split("-")[0])
        return f"shapes/{drawn.seed}/{drawn.fault_share}/{drawn.dirt_share}/{drawn.prompt(number)}/{key}"

    def law(self, pair: Pair) -> float:
        features_w, features_l = self.candidates.features(pair.key_w), self.candidates.features(pair.key_l)
        return float(self.annotators.preference_probability(features_w, features_l))

    def _voted(self, number: int) -> Pair | None:
        """Return one pair as annotators vote on it, or None for a tie."""
        keys = (_key(number, 0), _key(number, 1))
        features_0, features_1 = map(self.candidates.features, keys)
        if self.num_votes is None:
            label_0 = self.annotators.preference_probability(features_0, features_1)
        else:
            rng = np.random.default_rng([self.candidates.seed, number, 2])
            label_0 = self.annotators.vote(features_0, features_1, self.num_votes, rng).mean()
        return decide(self.candidates.prompt(number), *keys, float(label_0))


def _text_of(pair: Pair | None) -> str:
    """Return the text of a pair in fingerprints; it stays that of version 0.1.0, whatever the class is called."""
    if pair is None:
        return "None"
    sides = f"key_w={pair.key_w!r}, key_l={pair.key_l!r}"
    return f"Pair(prompt={pair.prompt!r}, {sides}, probability_w={pair.probability_w!r})"


def _key(number: int, side: int) -> str:
    return f"{number:06d}-{side}"
