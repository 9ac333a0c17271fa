"""The shapes world, whose people are a program: renderings, and what the simulated annotators think of them."""

from typing import ClassVar

import numpy as np
from PIL import Image

from alignbench.card.human.records import HumanPairs, Record
from alignbench.settings.section import Count, Seed, Share


class ShapesPeople(HumanPairs):
    """Renderings for held-out prompts, some with a fault or dirt; what the average annotator thinks of each is known.

    Args:
        num_prompts: held-out prompts.
        num_images: renderings of each.
        fault_share: probability that an image contradicts its prompt in one thing.
        dirt_share: probability that an image has grain or a tint.
        seed: of prompts and images.
    """

    name: ClassVar[str] = "shapes"
    published: ClassVar[str] = "0000-00"  # not of people, so never the one that a card leads with
    own_rule: ClassVar[str] = "imagereward"
    in_domain: ClassVar[tuple[str, ...]] = ("shapes_preference", "shapes_annotators", "shapes_comparer")
    is_of_people: ClassVar[bool] = False
    has_scale: ClassVar[bool] = True

    def __init__(
        self, num_prompts: Count = 64, num_images: Count = 16, fault_share: Share = 0.4, dirt_share: Share = 0.3,
        seed: Seed = 0,
    ) -> None:  # fmt: skip
        self.num_prompts, self.num_images = num_prompts, num_images
        self.fault_share, self.dirt_share, self.seed = fault_share, dirt_share, seed

    def read(self) -> list[Record]:
        """Render all images and ask the population about them."""
        from alignbench.miniature.annotators import Population, features
        from alignbench.miniature.candidates import candidate
        from alignbench.miniature.captions import parse, prompts
        from alignbench.miniature.reading import read

        population, found = Population(), []
        for number, prompt in enumerate(prompts("heldout", self.num_prompts, self.seed)):
            demand = parse(prompt)
            pixels = [
                candidate(demand, np.random.default_rng([self.seed, number, image]), self.fault_share, self.dirt_share)
                for image in range(self.num_images)
            ]
            seen = np.stack([features(read(one), prompt) for one in pixels])
            chance = population.preference_probability(seen[:, None], seen[None])
            group = "one shape" if len(demand.shapes) == 1 else "two shapes"
            images = tuple(Image.fromarray(one) for one in pixels)
            worth = population.mean_utility(seen).astype(np.float32)  # as scores are kept, so that ties are ties
            found.append(Record(prompt, images, worth.astype(np.float64), group, chance=chance))
        return found
