"""SGP-HPS: how much more real than rendered HPSv2.1 finds an image, by two readings of the prompt."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import CLIPModel

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from evaluators.hpsv2 import HPSv2

Reading = Literal["difference", "softmax"]

# The SRPO paper's words for this metric, put before the prompt as its code puts those it trains with.
WANTED, UNWANTED = "Realistic photo. ", "CG Render. "
LOGIT_SCALE = 100.0


class SgpHps(Evaluator):
    """Preference of HPSv2.1 for the image as a realistic photo of the prompt over its preference as a CG render of it.

    The paper prints values of 0.41 to 0.51, which no difference of two HPSv2.1 scores can reach, and does not say how
    they come about; a softmax fits their range. Both are offered, and neither is to be compared with the paper's.

    Args:
        reading: `difference` of the two cosines; `softmax`, the probability of the wanted word when the cosines are
            taken times 100, as CLIP's logit scale does.
        hpsv2: the scorer.

    Raises:
        UserError: the reading is unknown.

    Source: Shen et al. 2025 (SRPO), arXiv 2509.06942, the semantic guided preference.
    """

    version = "1"
    caches_text = True

    def __init__(self, reading: Reading, hpsv2: HPSv2) -> None:
        if reading not in get_args(Reading):
            raise UserError(f"reading={reading} is unknown; available: {', '.join(get_args(Reading))}")
        self.name = f"sgp_hps_{reading}"
        self.reading = reading
        self.hpsv2 = hpsv2
        self.preprocess, self.precision = hpsv2.preprocess, hpsv2.precision
        self.range = (-2.0, 2.0) if reading == "difference" else (0.0, 1.0)
        self.display_scale = hpsv2.display_scale if reading == "difference" else 1.0

    @property
    def weights(self) -> str:
        return self.hpsv2.weights

    @property
    def shared_pass(self) -> str:
        return self.hpsv2.shared_pass

    @property
    def network(self) -> CLIPModel:
        """The network of the scorer."""
        return self.hpsv2.network

    def release(self) -> None:
        self.hpsv2.release()

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features under the wanted and the unwanted word, [N, 2, D]."""
        words = (WANTED, UNWANTED)
        return torch.stack([self.hpsv2.embed_text([word + prompt for prompt in prompts]) for word in words], dim=1)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return unit image features, [N, D], of preprocessed pixels [N, 3, 224, 224]."""
        return self.hpsv2.image_features(inputs)

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        """Score unit image features [N, D] against both readings of the prompts, [N, 2, D]."""
        wanted, unwanted = (encoded.to(features.device) * features.unsqueeze(1)).sum(dim=-1).unbind(dim=1)
        difference = wanted - unwanted
        return difference if self.reading == "difference" else torch.sigmoid(LOGIT_SCALE * difference)
