"""The shared core of evaluators that ask: how probable is an accepted answer to a question about a picture?"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from alignbench.images import picture_digest
from evaluators.networks.chat_model import ChatModel, chat_model
from evaluators.networks.model_folder import ModelFolder, Precision
from evaluators.vqa.answers import Answer, AnswerCache, Question, key_of

ModelT = TypeVar("ModelT", bound=ModelFolder)


class CachedQuestioner(ABC, Generic[ModelT]):
    """Asks a model each question about a picture once.

    Args:
        model: the model.
        batch_size: questions that go through the network at once.
    """

    template: ClassVar[str]  # name of the message that a question becomes, and of what is read of the answer

    def __init__(self, model: ModelT, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size

    @cached_property
    def cache(self) -> AnswerCache:
        """The answers of this model that are kept."""
        return AnswerCache(f"{self.model.weights} {self.model.precision} {self.template}")

    @abstractmethod
    def answers(self, pictures: Sequence[Image.Image], questions: Sequence[Question]) -> list[Answer]:
        """Return the answers to a batch of questions, one a picture."""

    def ask(self, pictures: Sequence[Image.Image], questions: Sequence[Question], cached: bool = True) -> list[Answer]:
        """Return the answer to each question about its picture.

        Args:
            pictures: in RGB, one a question; several questions may have the same one.
            cached: whether answers are kept on the disk, and what is known from there is not asked.
        """
        digests = {id(picture): picture_digest(picture) for picture in {id(one): one for one in pictures}.values()}
        keys = [key_of(digests[id(picture)], question) for picture, question in zip(pictures, questions, strict=True)]
        answers = dict(zip(keys, self.cache.get(keys) if cached else [None] * len(keys), strict=True))
        rows = {key: row for row, key in enumerate(keys) if answers[key] is None}
        # short questions together, so that they are not filled up to the longest
        missing = sorted(rows, key=lambda key: len(questions[rows[key]].text))
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            asked = [questions[rows[key]] for key in batch]
            found = dict(zip(batch, self.answers([pictures[rows[key]] for key in batch], asked), strict=True))
            answers |= found
            if cached:
                self.cache.add({key: (question, found[key]) for key, question in zip(batch, asked, strict=True)})
        return [answer for key in keys if (answer := answers[key]) is not None]


class Questioner(CachedQuestioner[ChatModel]):
    """Asks a vision-language model. One forward pass for each question; the answer is its next token."""

    # in the chat template of the model, one message of the user, the image and then the text
    template = "1"

    def answer_probability(self, picture: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Return the probability that the answer begins like one of those accepted, 0..1.

        Args:
            picture: in RGB.
            question: the message after the picture.
            answers: accepted beginnings; each counts by its first token, and a token counts once.
        """
        return self.ask([picture], [Question(question, tuple(answers))])[0].probability

    @torch.inference_mode()
    def answers(self, pictures: Sequence[Image.Image], questions: Sequence[Question]) -> list[Answer]:
        """Return what the next token says of the answer to each question."""
        inputs = self.model.inputs([[None, question.text] for question in questions], [[one] for one in pictures])
        probabilities = self.model.next_logits(inputs).softmax(dim=-1).cpu()
        return [self._answer(row, question) for row, question in zip(probabilities, questions, strict=True)]

    def _answer(self, probabilities: Tensor, question: Question) -> Answer:
        tokens = self.tokens(question.answers)
        blank = [token for token in tokens if not self.model.text_of(token).strip()]
        return Answer(
            probability=min(1.0, float(probabilities[tokens].sum())),  # a float32 sum may pass 1 by its last digit
            blank=min(1.0, float(probabilities[blank].sum())),
            likeliest=self.model.text_of(int(probabilities.argmax())),
        )

    def tokens(self, answers: Sequence[str]) -> list[int]:
        """Return the ids of the tokens that begin accepted answers, each once."""
        return sorted({self.model.first_token(answer) for answer in answers})


def chat_questioner(source: str, revision: str | None, precision: Precision, batch_size: int) -> Questioner:
    """Return what asks a vision-language model; those who ask alike share its network.

    Args:
        source: hub id, or a folder with config.json, weights and the files of the processor.
        revision: of the hub's repository.
        precision: in which numbers the network computes.
        batch_size: questions that go through the network at once.

    Raises:
        UserError: the source is not there or no vision-language model.
    """
    return Questioner(chat_model(source, revision, precision), batch_size)
