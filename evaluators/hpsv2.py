"""HPSv2.0 and HPSv2.1: a CLIP ViT-H/14 trained on human rankings of generated images."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from alignbench.errors import UserError
from alignbench.settings.section import Positive
from evaluators.clip_reward import PublishedClipReward
from evaluators.networks.clip import Precision
from evaluators.networks.preprocess import HpsPixels, Resizing

FILES = {"hpsv2_0": "HPS_v2_compressed.pt", "hpsv2_1": "HPS_v2.1_compressed.pt"}


class HPSv2(PublishedClipReward):
    """How much people prefer the image for the prompt: a cosine, 0.23 to 0.29 in practice.

    Scores of the two releases lie on different scales, so each is an evaluator of its own. The published code computes
    in half precision down to the cosine, which ties images that this does not.

    Args:
        name: which release.
        source: hub id, or folder that holds HPS_v2_compressed.pt (2.0) or HPS_v2.1_compressed.pt (2.1).
        preprocess: see `HpsPixels`; `legacy_noaa` only to compare with old tables.
        revision, architecture, precision, embedding_scale, gradient_checkpointing: see `PublishedClipReward`.

    Raises:
        UserError: the weights are not there, or the preprocessing is unknown.

    Source: Wu et al. 2023 (HPSv2), arXiv 2306.09341; hpsv2/img_score.py of tgxs002/HPSv2.
    """

    def __init__(
        self,
        name: Literal["hpsv2_0", "hpsv2_1"],
        source: str = "xswu/HPSv2",
        revision: str | None = None,
        preprocess: Resizing = "antialias",
        architecture: str | Mapping[str, Any] = "ViT-H-14",
        precision: Precision = "float32",
        embedding_scale: Positive = 1.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        if preprocess not in get_args(Resizing):
            raise UserError(f"preprocess={preprocess} is unknown; available: {', '.join(get_args(Resizing))}")
        self.name = name
        super().__init__(
            source, FILES[name], revision, architecture, HpsPixels(224, preprocess), precision, embedding_scale,
            gradient_checkpointing,
        )  # fmt: skip
