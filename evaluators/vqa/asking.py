"""What evaluators share that ask a vision-language model questions about an image."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Summary
from alignbench.serve.protocol import is_name
from evaluators.annotations import PromptTable
from evaluators.networks.chat_model import chat_model_bytes
from evaluators.networks.preprocess import Pictures, SmallPictures
from evaluators.vqa.answers import Answer, Question
from evaluators.vqa.questioner import CachedQuestioner
from evaluators.vqa.tables import Item

MaxSide = Annotated[int, Field(ge=64)]

CALIBRATION = Path(__file__).parents[1] / "calibration"


class AskingEvaluator(Evaluator):
    """A score made of the answers of a vision-language model.

    Answers about the images of runs are kept, and read where the model was asked before. Calibration and training ask
    anew, as the first has to notice another library, and the images of the second are new.

    Args:
        prefix: beginning of the name in tables.
        vlm: name of the model, which ends the name in tables.
        questioner: asks the model. Networks compute in its precision, and probabilities are computed in float32.
        max_side: pixels of the longer side of an image as the model's processor gets it, larger images being made
            smaller; None for the whole image, as published.

    Raises:
        UserError: the name is none.
    """

    range = (0.0, 1.0)
    summary: ClassVar[Summary] = "mean"
    tolerance: ClassVar[float | None] = 0.01  # of probabilities in bfloat16

    def __init__(self, prefix: str, vlm: str, questioner: CachedQuestioner[Any], max_side: MaxSide | None) -> None:
        self.name = f"{prefix}_{vlm}"
        if not is_name(self.name):
            raise UserError(f"{self.name} cannot be a name; vlm must consist of letters, digits and _ . + -")
        self.questioner, self.model = questioner, questioner.model
        self.precision = questioner.model.precision
        self.preprocess = Pictures() if max_side is None else SmallPictures(max_side)

    @property
    def weights(self) -> str:
        return self.model.weights

    @property
    def shared_pass(self) -> str:
        return f"answers of {self.model.source} {self.model.revision} in {self.precision}"

    @property
    def network(self) -> Any:
        return self.model.network

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        return chat_model_bytes(settings)

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)

    def release(self) -> None:
        self.model.release()

    @abstractmethod
    def questions(self, asked: Any) -> list[Question]:
        """Return what is asked about an image of a prompt, of which `encode_prompts` returned `asked`."""

    @abstractmethod
    def judge(self, asked: Any, answers: Sequence[Answer]) -> tuple[float, list[dict[str, Any]]]:
        """Return the score of an image, and what is to be kept of each question beside its answer."""

    def score_features(self, features: Sequence[Image.Image], encoded: Sequence[Any]) -> Tensor:
        """Ask about pictures, and score the answers."""
        return self._judged(features, encoded, cached=False)[0]

    def explain(self, features: Sequence[Image.Image], encoded: Sequence[Any]) -> tuple[Tensor, list[dict[str, Any]]]:
        """Score pictures by answers that are known or asked for; also return all questions and answers."""
        return self._judged(features, encoded, cached=True)

    def _judged(
        self, features: Sequence[Image.Image], encoded: Sequence[Any], cached: bool
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        questions = [self.questions(asked) for asked in encoded]
        pictures = [picture for picture, some in zip(features, questions, strict=True) for _ in some]
        answers = iter(self.questioner.ask(pictures, [question for some in questions for question in some], cached))
        scores, evidence = [], []
        for asked, some in zip(encoded, questions, strict=True):
            found = [next(answers) for _ in some]
            score, told = self.judge(asked, found)
            scores.append(score)
            evidence.append(
                {
                    "questions": [
                        {"question": question.text, "answers": list(question.answers), **asdict(answer), **more}
                        for question, answer, more in zip(some, found, told, strict=True)
                    ]
                }
            )
        return torch.tensor(scores, dtype=torch.float32), evidence


class AnnotatedAsking(AskingEvaluator):
    """A score of prompts whose questions are in a table.

    Attributes:
        table: the questions of each prompt.
        samples: questions about the images of the calibration, whose prompts are in no table.
    """

    calibration_samples: ClassVar[Path | None] = CALIBRATION / "photographs.json"
    table: PromptTable
    samples: PromptTable

    @property
    def weights(self) -> str:
        return f"{self.model.weights} {self.table.digest}"

    def supports(self, prompts: Sequence[str]) -> str | None:
        lacking = self.table.lacking(prompts)
        return lacking and f"{self.name} scores prompts with questions in its table alone, and {lacking}"

    def encode_prompts(self, prompts: Sequence[str]) -> list[tuple[Item, ...]]:
        """Return the questions of each prompt."""
        if refusal := self.supports([prompt for prompt in prompts if prompt not in self.samples]):
            raise UserError(refusal)
        return [self.table[prompt] if prompt in self.table else self.samples[prompt] for prompt in prompts]
