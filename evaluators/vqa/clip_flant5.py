"""The published VQAScore: how probable is the answer "Yes" and its end, by CLIP-FlanT5?

Source: Lin et al. 2024, arXiv 2404.01291; linzhiqiu/t2v_metrics 3.0 (Apache-2.0), clip_t5_model.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from alignbench.errors import UserError
from alignbench.settings.section import Count
from evaluators.networks.clip_flant5 import ClipFlanT5, clip_flant5_bytes
from evaluators.networks.model_folder import Precision
from evaluators.vqa.answers import Answer, Question
from evaluators.vqa.questioner import CachedQuestioner
from evaluators.vqa.vqascore import YesScore


class WholeAnswerQuestioner(CachedQuestioner[ClipFlanT5]):
    """Asks CLIP-FlanT5. The probability of an answer is exp of the mean log-probability of its tokens and its end."""

    template = "t5_chat 1"

    @torch.inference_mode()
    def answers(self, pictures: Sequence[Image.Image], questions: Sequence[Question]) -> list[Answer]:
        """Return how probable the one accepted answer to each question is.

        `blank` is 0, as the whole answer is read; `likeliest` is the token that the likeliest answer begins with.

        Raises:
            UserError: a question accepts several answers, or not the same as the others.
        """
        probabilities, logits = self._probabilities(self.model.pixels(pictures), questions)
        likeliest = logits.argmax(dim=-1).tolist()
        return [
            Answer(probability, 0.0, self.model.text_of(token))
            for probability, token in zip(probabilities.tolist(), likeliest, strict=True)
        ]

    def differentiable(self, pixels: Tensor, questions: Sequence[Question]) -> Tensor:
        """Return the same probabilities, [N], float32, for pixels [N, 3, H, W] in 0..1, with a gradient.

        Pixels are resized as floats, where the published path rounds to 8 bits.
        """
        return self._probabilities(self.model.pixels.differentiable(pixels), questions)[0]

    def _probabilities(self, pixels: Tensor, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """Return the probabilities, [N], and the logits of the first token, [N, V]."""
        accepted = {question.answers for question in questions}
        if len(accepted) != 1 or len(answers := next(iter(accepted))) != 1:
            raise UserError(
                "CLIP-FlanT5 can be asked for one answer alone; ask for several by a model such as Qwen3-VL"
            )
        mean, logits = self.model.log_likelihood(pixels, [question.text for question in questions], answers[0])
        return mean.exp(), logits


class VqaScoreClipFlanT5(YesScore):
    """The published VQAScore, 0..1: exp of the mean log-probability of "Yes" and the end token.

    Args:
        vlm: name of the model, which ends the name in tables.
        source: hub id, or a folder with config.json and weights.
        revision: of the hub's repository.
        tokenizer: tokenizer.json of Flan-T5, the folder that holds it, or a hub id.
        precision: in which numbers the network computes; published is bfloat16.
        batch_size: images that go through the network at once.
        gradient_checkpointing: see `YesScore`.
        vision: values of CLIPVisionConfig that differ from the published image tower.

    Raises:
        UserError: see `AskingEvaluator` and `ClipFlanT5`.
    """

    questioner: WholeAnswerQuestioner

    def __init__(
        self,
        vlm: str,
        source: str,
        revision: str | None,
        tokenizer: str,
        precision: Precision,
        batch_size: Count,
        gradient_checkpointing: bool = False,
        vision: Mapping[str, Any] | None = None,
    ) -> None:
        questioner = WholeAnswerQuestioner(ClipFlanT5(source, revision, precision, tokenizer, vision), batch_size)
        super().__init__("paper", vlm, questioner, None, gradient_checkpointing)

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        return clip_flant5_bytes({"vision": None, **settings})

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient.

        What the network reads differs from the published path where it resizes: see `WholeAnswerQuestioner`.
        """
        questions = [self.questions(prompt)[0] for prompt in prompts]
        if self.gradient_checkpointing:
            self.questioner.model.checkpoint_activations()
        return self.questioner.differentiable(pixels, questions)
