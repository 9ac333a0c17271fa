"""The shared core of evaluators that ask: how probable is an accepted answer to a question about a picture?"""

from collections.abc import Sequence
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from evaluators.networks.chat_model import ChatModel
from evaluators.vqa.answers import Answer, AnswerCache, Question, key_of, picture_digest

TEMPLATE = (
    "1"  # of the message: in the chat template of the model, one message of the user, the image and then the text
)


class Questioner:
    """Asks a vision-language model. One forward pass for each question; the answer is its next token.

    Args:
        model: the model.
        batch_size: questions that go through the network at once.
    """

    def __init__(self, model: ChatModel, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size

    @cached_property
    def cache(self) -> AnswerCache:
        """The answers of this model that are kept."""
        return AnswerCache(f"{self.model.weights} {self.model.precision} {TEMPLATE}")

    def answer_probability(self, picture: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Return the probability that the answer begins like one of those accepted, 0..1.

        Args:
            picture: in RGB.
            question: the message after the picture.
            answers: accepted beginnings; each counts by its first token, and a token counts once.
        """
        return self.ask([picture], [Question(question, tuple(answers))])[0].probability

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
            found = dict(zip(batch, self._answers([pictures[rows[key]] for key in batch], asked), strict=True))
            answers |= found
            if cached:
                self.cache.add({key: (question, found[key]) for key, question in zip(batch, asked, strict=True)})
        return [answer for key in keys if (answer := answers[key]) is not None]

    @torch.inference_mode()
    def _answers(self, pictures: Sequence[Image.Image], questions: Sequence[Question]) -> list[Answer]:
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
