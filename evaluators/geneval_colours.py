"""Which colour has an object? Asked of CLIP, with all around the object made grey.

Source: color_classification in evaluation/evaluate_images.py of djghosh13/geneval (MIT), and zero_shot_classifier of
LAION-AI/CLIP_benchmark (MIT) for the average over templates.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluators.clip_reward import ClipReward, unit
from evaluators.geneval_rules import COLOURS
from evaluators.networks.mask2former import DetectedObject

GREY = 0x99  # level of all three channels around the object
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
LOGIT_SCALE = 100.0  # of OpenAI's CLIP; for the probabilities, not for the choice


def isolated(picture: Image.Image, one: DetectedObject) -> Image.Image:
    """Return the box of an object that has a mask, grey where the object is not."""
    left, top, right, bottom = one.box
    pixels = np.array(picture)[top:bottom, left:right]
    return Image.fromarray(np.where(np.asarray(one.mask)[..., None], pixels, np.uint8(GREY)))


class ColourClassifier:
    """Gives each colour of GenEval a probability.

    Args:
        clip: the two towers, which are on the device that it works on.
    """

    def __init__(self, clip: ClipReward) -> None:
        self.clip = clip

    @torch.no_grad()
    def __call__(self, picture: Image.Image, one: DetectedObject, name: str) -> tuple[float, ...]:
        """Return the probabilities of the colours of an object of a class, in the order of `COLOURS`."""
        features = self.clip.image_features(self.clip.preprocess([isolated(picture, one)]))[0]
        return tuple((LOGIT_SCALE * self.colour_vectors(name) @ features).softmax(dim=0).tolist())

    def colour_vectors(self, name: str) -> Tensor:
        """Return a unit vector for each colour of a class, [10, D]: the mean over the templates, normalised again."""
        texts = [template.format(colour=colour, name=name) for colour in COLOURS for template in TEMPLATES]
        return unit(self.clip.embed_text(texts).unflatten(0, (len(COLOURS), len(TEMPLATES))).mean(dim=1))
