"""CLIPScore: the cosine of image and prompt in a CLIP that nobody has trained on preferences."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from alignbench.settings.section import Positive
from evaluators.clip_reward import PublishedClipReward
from evaluators.networks.clip import Precision
from evaluators.networks.preprocess import ClipPixels


class Published(NamedTuple):
    """Where the weights of a CLIP are, and of which architecture they are."""

    source: str
    filename: str
    architecture: str


PUBLISHED = {
    "clip_score": Published("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "open_clip_pytorch_model.bin", "ViT-H-14"),
    "clip_score_l14": Published("openai/clip-vit-large-patch14", "model.safetensors", "ViT-L-14-quickgelu"),
}


class ClipScore(PublishedClipReward):
    """How well the image shows what the prompt says: a cosine, 0.33 to 0.38 in practice (0.2 to 0.3 with OpenAI's).

    Neither clipped at 0 nor multiplied by 2.5, as Hessel et al. 2021 do who coined the name.

    Args:
        name: `clip_score` is OpenCLIP's ViT-H/14 (LAION-2B), the one behind the CLIP columns of Diffusion-DPO and
            Diffusion-SDPO, and by its values that of SmPO; `clip_score_l14` is OpenAI's ViT-L/14.
        source: hub id, or folder that holds open_clip_pytorch_model.bin or model.safetensors; None for the published.
        architecture: see `clip_config`; None for the published.
        revision, precision, embedding_scale, gradient_checkpointing: see `PublishedClipReward`.

    Raises:
        UserError: the weights are not there.

    Source: utils/clip_utils.py of SalesforceAIResearch/DiffusionDPO.
    """

    def __init__(
        self,
        name: Literal["clip_score", "clip_score_l14"],
        source: str | None = None,
        revision: str | None = None,
        architecture: str | Mapping[str, Any] | None = None,
        precision: Precision = "float32",
        embedding_scale: Positive = 1.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.name = name
        published = PUBLISHED[name]
        super().__init__(
            source or published.source, published.filename, revision, architecture or published.architecture,
            ClipPixels(224), precision, embedding_scale, gradient_checkpointing,
        )  # fmt: skip

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        architecture = settings["architecture"] or PUBLISHED[settings["name"]].architecture
        return super().weight_bytes({**settings, "architecture": architecture})
