"""Unit image features of CLIP networks, by which sets of images are measured."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor
from transformers import CLIPModel

from alignbench.evaluator import Features
from evaluators.clip_reward import ClipReward, PublishedClipReward
from evaluators.networks.clip import Precision
from evaluators.networks.preprocess import ClipPixels
from evaluators.shapes_reward import ShapesReward


class Published(NamedTuple):
    """Where the weights of a CLIP are, of which architecture they are, and how large its images are."""

    source: str
    filename: str
    architecture: str
    size: int


PUBLISHED = {
    "clip_l14_336": Published("openai/clip-vit-large-patch14-336", "pytorch_model.bin", "ViT-L-14-336-quickgelu", 336),
    "clip_l14": Published("openai/clip-vit-large-patch14", "model.safetensors", "ViT-L-14-quickgelu", 224),
}


class ClipFeatures(Features):
    """What a CLIP makes of an image: the unit vector whose product with that of a prompt is the score.

    Args:
        name: of the features.
        clip: whose network and preprocessing are used.
    """

    version = "1"

    def __init__(self, name: str, clip: ClipReward) -> None:
        self.name, self.clip = name, clip
        self.preprocess, self.precision = clip.preprocess, clip.precision

    @property
    def weights(self) -> str:
        return self.clip.weights

    @property
    def network(self) -> CLIPModel:
        return self.clip.network

    def release(self) -> None:
        self.clip.release()

    def rows(self, inputs: Tensor) -> Tensor:
        return self.clip.image_features(inputs)


class PublishedClipFeatures(ClipFeatures):
    """The features of a published CLIP. A network that an evaluator has loaded already is used, too.

    CMMD is published with `clip_l14_336`. Of an image that is not square, the published code cuts out the largest
    square in the centre and resizes it; here it is resized first, as CLIP's own pipeline does.

    Args:
        name: `clip_l14_336` is OpenAI's ViT-L/14 for images of 336 pixels, `clip_l14` the one for 224, which the
            evaluators `clip_score_l14` and `aesthetic` have, too.
        source: hub id, folder that holds pytorch_model.bin (`clip_l14`: model.safetensors), or the file; None for the
            published.
        architecture: see `clip_config`; None for the published.
        revision, precision: see `PublishedClipReward`.

    Raises:
        UserError: the weights are not there.

    Source: cmmd/embedding.py and cmmd/io_util.py of google-research/google-research.
    """

    def __init__(
        self,
        name: Literal["clip_l14_336", "clip_l14"],
        source: str | None = None,
        revision: str | None = None,
        architecture: str | Mapping[str, Any] | None = None,
        precision: Precision = "float32",
    ) -> None:
        published = PUBLISHED[name]
        clip = PublishedClipReward(
            source or published.source, published.filename, revision, architecture or published.architecture,
            ClipPixels(published.size), precision, embedding_scale=1.0, gradient_checkpointing=False,
        )  # fmt: skip
        super().__init__(name, clip)


class ShapesFeatures(ClipFeatures):
    """The features of a CLIP of the shapes world, which ships with the program.

    Args:
        name: see `ShapesReward`.
    """

    def __init__(self, name: Literal["shapes_clip", "shapes_preference"]) -> None:
        super().__init__(name, ShapesReward(name))
