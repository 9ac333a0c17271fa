"""A comparer as a reward: an image is worth what it wins against the other images of its prompt.

Source: Wang et al. 2025 (Pref-GRPO), arXiv 2508.20751, whose code shows each pair in one order, which lets the position
decide; here each pair is shown in both.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess, weight_bytes
from alignbench.pairwise.comparer import Comparer, Verdict
from alignbench.pairwise.orders import JudgedPair
from alignbench.pairwise.tournament import MeetingOrders, Opponents, Standing, Tournament, standings
from alignbench.settings.section import Share

FEWEST = 100  # pairs, before a share of failures says anything


class ComparerReward(Evaluator):
    """How well an image does against the other images of its group. It has no gradient.

    Args:
        comparer: who compares.
        value: `win_share`: mean share of the wins, 0..1, ties half. `quality`: mean log-odds of being the better one,
            which also says by how much.
        opponents, orders: see `Tournament`.
        max_failed: share of failed pairs beyond which training stops.

    Raises:
        UserError: there is no comparer. When asked: too many pairs failed, another model answers than before, or there
            are no log-odds to take a `quality` from.
    """

    sees_group = True

    def __init__(
        self,
        comparer: Comparer,
        value: Standing = "win_share",
        opponents: Opponents | None = None,
        orders: MeetingOrders = "both",
        max_failed: Share = 0.2,
    ) -> None:
        if not isinstance(comparer, Comparer):
            raise UserError("reward=comparer has no comparer; add comparers@reward.comparer=NAME")
        self.comparer, self.max_failed = comparer, max_failed
        self.value: Standing = value
        self.tournament = Tournament(opponents, orders)
        self.name, self.version, self.precision = comparer.name, comparer.version, comparer.precision
        self.labelled_by = comparer.labelled_by
        self.range = (0.0, 1.0) if value == "win_share" else (float("-inf"), float("inf"))
        self._counts: Counter[str] = Counter()  # since the last figures
        self._failed = self._pairs = 0
        self._answered_by = ""

    # ---- the comparer's

    @property
    def preprocess(self) -> Preprocess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.comparer.preprocess

    @property
    def weights(self) -> str:
        return self.comparer.weights

    @property
    def network(self) -> nn.Module | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.comparer.network

    def to(self, device: torch.device | str) -> None:
        self.comparer.to(device)

    def release(self) -> None:
        self.comparer.release()

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        arguments = dict(settings["comparer"])
        return weight_bytes(get_class(arguments.pop("_target_")), arguments)

    def supports(self, prompts: Sequence[str]) -> str | None:
        return self.comparer.supports(prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts."""
        return list(prompts)

    # ---- a group

    def cost(self, num_images: int, group_size: int) -> str:
        calls = num_images // group_size * self.tournament.num_calls(group_size)
        shown = "both orders" if self.tournament.orders == "both" else "each pair once"
        return f"{calls:,} calls of {self.name} for {num_images} images in groups of {group_size}, {shown}"

    def score_features(self, features: Sequence[Any], encoded: Sequence[str]) -> Tensor:
        """Let the images of one prompt meet, and return how well each did."""
        if len(set(encoded)) != 1 or len(features) < 2:
            raise ValueError(f"{self.name} compares images of one prompt; got {len(features)} of {set(encoded)}")
        pairs = self.tournament.pairs(len(features))
        judged = self._judged(pairs, features, encoded[0])
        self._count(judged)
        return torch.from_numpy(standings(pairs, judged, len(features), self.value)).float()

    def take_figures(self) -> dict[str, tuple[float, float]]:
        counts, self._counts = self._counts, Counter()
        return {
            "failed": (counts["failed"], counts["pairs"]),
            "ties": (counts["ties"], counts["pairs"] - counts["failed"]),
            "first": (counts["first"] / 2, counts["answers"]),
        }

    def _judged(self, pairs: Sequence[tuple[int, int]], images: Sequence[Any], prompt: str) -> list[JudgedPair]:
        both = self.tournament.orders == "both"
        shown = [*pairs, *((b, a) for a, b in pairs)] if both else pairs
        if self.network is not None:
            self.comparer.to(self.device)  # where training has put the network
        verdicts: list[Verdict] = []
        for start in range(0, len(shown), self.comparer.batch_size):
            batch = shown[start : start + self.comparer.batch_size]
            first, second = ([images[number] for number in side] for side in zip(*batch, strict=True))
            verdicts += self.comparer.compare(first, second, [prompt] * len(batch))
        self._refuse(verdicts)
        backwards = verdicts[len(pairs) :] if both else [None] * len(pairs)
        return [JudgedPair(prompt, *found) for found in zip(verdicts[: len(pairs)], backwards, strict=True)]

    def _refuse(self, verdicts: Sequence[Verdict]) -> None:
        """Refuse answers that training cannot go by.

        Raises:
            UserError: saying why.
        """
        for name in (verdict.answered_by for verdict in verdicts if verdict.answered_by):
            self._answered_by = self._answered_by or name
            if name != self._answered_by:
                raise UserError(
                    f"{self.name}: {name} answers now and {self._answered_by} answered before, so training would go on "
                    "by another judge; start the server with the former model, and the same command goes on"
                )
        if self.value == "quality" and any(one.won is not None and one.log_odds is None for one in verdicts):
            raise UserError(
                f"{self.name} answers in words, and reward.value=quality needs log-odds; choose reward.value=win_share"
            )

    def _count(self, judged: Sequence[JudgedPair]) -> None:
        """Take note of what was said.

        Raises:
            UserError: too many pairs failed.
        """
        won = [pair.won for pair in judged]
        answers = [one.won for pair in judged for one in pair.verdicts if one.won is not None]
        self._counts.update(
            pairs=len(judged), failed=won.count(None), ties=won.count(0.5), answers=len(answers),
            first=round(2 * sum(answers)),
        )  # fmt: skip
        self._pairs, self._failed = self._pairs + len(judged), self._failed + won.count(None)
        if self._pairs >= FEWEST and self._failed > self.max_failed * self._pairs:
            raise UserError(
                f"{self.name} failed on {self._failed} of {self._pairs} pairs, more than reward.max_failed="
                f"{self.max_failed:g}; choose another comparer, or see its answers by the stage compare"
            )
