"""VQAScore: how probable is "Yes" to the question whether the image shows its prompt?

Source: Lin et al. 2024, arXiv 2404.01291; linzhiqiu/t2v_metrics (Apache-2.0), t2v_metrics/models/vqascore_models.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from alignbench.evaluator import Reward
from alignbench.settings.section import Count
from evaluators.networks.model_folder import Precision
from evaluators.vqa.answers import Answer, Question
from evaluators.vqa.asking import AskingEvaluator, MaxSide
from evaluators.vqa.differentiable import answer_probabilities, checkpoint_activations
from evaluators.vqa.questioner import CachedQuestioner, Questioner, chat_questioner

Template = Literal["paper", "t2v_metrics", "geneval2"]

# Each a question about `{}` and the accepted answers: of the paper and clip_t5_model.py; of qwen3vl_model.py; of
# evaluation.py of facebookresearch/GenEval2.
TEMPLATES: Mapping[Template, tuple[str, tuple[str, ...]]] = {
    "paper": ('Does this figure show "{}"? Please answer yes or no.', ("Yes",)),
    "t2v_metrics": ('Does this figure show "{}"? Please answer Yes or No.', ("Yes",)),
    "geneval2": ('Does this image show "{}"? Answer the question with Yes or No.', ("Yes", "yes", " yes", " Yes")),
}


class YesScore(AskingEvaluator, Reward):
    """How probable Yes is as the answer to one question about the prompt, 0..1.

    Args:
        template: which question is asked; part of the version, as scores of two templates are not comparable.
        vlm, questioner, max_side: see `AskingEvaluator`.
        gradient_checkpointing: compute all layers twice instead of keeping their activations for the gradient.

    Raises:
        UserError: see `AskingEvaluator`.
    """

    matches_prompts = True

    def __init__(
        self,
        template: Template,
        vlm: str,
        questioner: CachedQuestioner[Any],
        max_side: MaxSide | None,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__("vqascore", vlm, questioner, max_side)
        self.version = f"1-{template}"
        self.gradient_checkpointing = gradient_checkpointing
        self._text, self._answers = TEMPLATES[template]

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts."""
        return list(prompts)

    def questions(self, asked: str) -> list[Question]:
        """Return whether the image shows the prompt."""
        return [Question(self._text.replace("{}", asked), self._answers)]

    def judge(self, asked: str, answers: Sequence[Answer]) -> tuple[float, list[dict[str, Any]]]:
        """Return the probability."""
        return answers[0].probability, [{}]


class VqaScore(YesScore):
    """The probability that a vision-language model begins its answer with Yes, 0..1.

    Args:
        template, gradient_checkpointing: see `YesScore`.
        vlm, max_side: see `AskingEvaluator`.
        source, revision, precision, batch_size: see `chat_questioner`.

    Raises:
        UserError: see `AskingEvaluator` and `chat_questioner`.
    """

    questioner: Questioner

    def __init__(
        self,
        template: Template,
        vlm: str,
        source: str,
        revision: str | None,
        precision: Precision,
        max_side: MaxSide | None,
        batch_size: Count,
        gradient_checkpointing: bool = False,
    ) -> None:
        if template not in get_args(Template):
            raise ValueError(f"template={template} is unknown; available: {', '.join(get_args(Template))}")
        questioner = chat_questioner(source, revision, precision, batch_size)
        super().__init__(template, vlm, questioner, max_side, gradient_checkpointing)

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient; for models with the pixels of Qwen2-VL alone.

        What the network reads differs from the published path as `answer_probabilities` says; `max_side` is not read.

        Raises:
            UserError: the model reads pixels in another way.
        """
        questions = [self.questions(prompt)[0] for prompt in prompts]
        if self.gradient_checkpointing:
            checkpoint_activations(self.network)
        return answer_probabilities(self.questioner, pixels, questions)
