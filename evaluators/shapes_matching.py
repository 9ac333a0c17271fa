"""What a BLIP of the shapes world says of image and prompt: whether the one shows all that the other asks for."""

import json
from pathlib import Path

import alignbench.miniature
from evaluators.image_reward import ImageReward

FOLDER = Path(alignbench.miniature.__file__).parent / "weights" / "shapes_matching"


class ShapesMatching(ImageReward):
    """Log-odds of the prompt being right of the image in every respect, by a network built as ImageReward is.

    It is to a judge of the shapes world what BLIP was to ImageReward: it knows what words mean in pictures, and nothing
    of what people like. Trained by `alignbench.miniature.pretrain.matching` on rendered scenes and captions alone.

    Args:
        folder: where `model.safetensors`, `config.json` (the architecture) and `vocabulary.txt` are.
    """

    name = "shapes_matching"
    version = "1"
    calibrated_on = "scenes"

    def __init__(self, folder: Path = FOLDER) -> None:
        super().__init__(str(folder / "model.safetensors"), **json.loads((folder / "config.json").read_text()))
        self.vocabulary = folder / "vocabulary.txt"
