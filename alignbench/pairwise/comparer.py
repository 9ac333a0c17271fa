"""Comparers say which of two images is better for a prompt; they see both images at once, one first and one second."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, FiniteFloat

if TYPE_CHECKING:  # reports read verdicts, and need no network
    import torch
    from torch import nn

    from alignbench.evaluator import Preprocess


@dataclass(frozen=True)
class Verdict:
    """What a comparer answered about two images in one order.

    Attributes:
        log_odds: that the first image is the better one, log P(first) - log P(second); None where only a word came
            back.
        won: 1 where the first image is better, 0 where the second is, 0.5 for neither; None for an answer that says
            nothing about it: a failure.
        tokens: read and written.
        seconds: that the call took, a part of those of its batch.
        raw: the whole answer.
        answered_by: the model that a server says has answered; empty where none says so.
        fingerprint: what the server calls the state of that model.
    """

    log_odds: FiniteFloat | None
    won: Annotated[float, Field(ge=0, le=1)] | None
    tokens: tuple[int, int] = (0, 0)
    seconds: FiniteFloat = 0.0
    raw: str = ""
    answered_by: str = ""
    fingerprint: str = ""

    @classmethod
    def of_log_odds(cls, log_odds: float, **others: Any) -> Self:
        """Return the verdict that log-odds of the first image come to; only odds of exactly 1 are a tie."""
        return cls(log_odds, 0.5 + 0.5 * ((log_odds > 0) - (log_odds < 0)), **others)


class Comparer(ABC):
    """Compares two images of one prompt.

    Construction is cheap: weights are read when `compare` is first called, and nothing is asked before.

    Attributes:
        name: as tables call it.
        version: raised whenever a verdict could change, for whatever reason but other weights.
        precision: in which numbers the network computes.
        preprocess: what becomes of an image before the comparer sees it; gives a list, one entry an image.
        batch_size: pairs that `compare` is given at once.
        can_change: whether another model can answer under the same identity, as that of a server; each command then
            asks the canary pairs first.
        labelled_by: names of the evaluators whose judgement it gives again or learned from, as far as known.
    """

    name: str
    version: str
    precision: str = "float32"
    preprocess: "Preprocess"
    batch_size: int = 1
    can_change: bool = False
    labelled_by: tuple[str, ...] = ()

    @property
    def network(self) -> "nn.Module | None":
        """The network, loaded if need be, frozen; None for what has none here."""
        return None

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        """Return how many bytes the network takes, as `Evaluator.weight_bytes` does."""
        return None

    @property
    def weights(self) -> str:
        """What verdicts depend on beside name, version and precision: a digest of weights, or the name of a model."""
        return ""

    @property
    def identity(self) -> str:
        """All that verdicts depend on beside name and version; other verdicts are not read for this comparer's."""
        return " ".join(filter(None, (self.weights, self.precision, self.preprocess.key)))

    def supports(self, prompts: Sequence[str]) -> str | None:
        """Return None if images of these prompts can be compared, otherwise a sentence that says why not."""
        return None

    def to(self, device: "torch.device | str") -> None:
        """Say where the network is to compute; of no meaning for what has none."""
        return

    def release(self) -> None:
        """Forget the network; it is read again when it is next used."""
        return

    @abstractmethod
    def compare(self, first: Sequence[Any], second: Sequence[Any], prompts: Sequence[str]) -> list[Verdict]:
        """Compare preprocessed images, pair by pair.

        Returns:
            One verdict a pair. A pair that cannot be judged has one without `won`.

        Raises:
            UserError: nothing can be judged now: a server does not answer, or weights do not fit.
        """
