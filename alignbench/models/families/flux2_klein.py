"""FLUX.2-klein: FLUX.2 with features of Qwen3, and guidance by two calls where it is not distilled."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from alignbench.models.families.flux2 import Flux2
from alignbench.models.prompt_length import template_tokens


class Flux2Klein(Flux2):
    """FLUX.2-klein base of 4 or 9 billion parameters, and the weights that were distilled from it."""

    pipeline_class = "Flux2KleinPipeline"

    def __init__(self, *args: Any, text_encoder_out_layers: Sequence[int] = (9, 18, 27), **kwargs: Any) -> None:
        super().__init__(*args, text_encoder_out_layers=text_encoder_out_layers, **kwargs)

    @property
    def template_tokens(self) -> int:
        """Tokens that the chat template adds to a prompt."""
        return template_tokens(self.pipeline.tokenizer, enable_thinking=False)

    @classmethod
    def takes_few_steps(
        cls, index: Mapping[str, Any], denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> bool:
        """Take weights for the distilled ones if their index says so; its other files are those of the base."""
        return index.get("is_distilled", False)

    def guidance_weight(self, guidance_scale: float) -> float:
        """Return the scale; distilled weights are guided whatever it is, and the pipeline does not add to that."""
        return 1.0 if self.pipeline.config.is_distilled else guidance_scale

    def unpack(self, packed: Tensor, latent_size: Sequence[int]) -> Tensor:
        """Return the codes that the pipeline ends with as latents."""
        return self.patches(packed)
