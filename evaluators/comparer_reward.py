"""A comparer as a reward: an image is worth what it wins against the other images of its prompt.

Source: Wang et al. 2025 (Pref-GRPO), arXiv 2508.20751, whose code shows each pair in one order, which lets the position
decide; here each pair is shown in both.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from PIL import Image
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess, weight_bytes
from alignbench.images import picture_digest
from alignbench.pairwise.comparer import Comparer, Verdict
from alignbench.pairwise.orders import JudgedPair
from alignbench.pairwise.tournament import MeetingOrders, Opponents, Standing, Tournament, standings
from alignbench.scoring.changed_comparer import refuse_another_model, refuse_other_answers
from alignbench.settings.section import Share
from alignbench.store.verdicts import (
    Shown,
    add_group_verdicts,
    group_verdict_file,
    group_verdict_files,
    read_group_verdicts,
)

FEWEST = 100  # pairs, before a share of failures says anything
FORMER_MODEL = (
    "start the server with the former model, and the same command goes on, or delete the run to train by this one"
)


class WithDigest(Preprocess):
    """What a comparer makes of each picture, after the picture's digest."""

    def __init__(self, of_comparer: Preprocess) -> None:
        self.of_comparer = of_comparer

    @property
    def key(self) -> str:
        return self.of_comparer.key

    @property
    def output(self) -> str:
        return f"{self.of_comparer.output}_with_digest"

    def __call__(self, images: Sequence[Image.Image]) -> list[tuple[str, Any]]:
        """Return the digest and the input of each picture."""
        return list(zip(map(picture_digest, images), self.of_comparer(images), strict=True))


class ComparerReward(Evaluator):
    """How well an image does against the other images of its group. It has no gradient.

    A training keeps all verdicts. After a kill it makes some images again, and asks nothing about them that it knows;
    failed pairs are counted from where they stood. A server is first asked about the canary pairs.

    Args:
        comparer: who compares.
        value: `win_share`: mean share of the wins, 0..1, ties half. `quality`: mean log-odds of being the better one,
            which also says by how much.
        opponents, orders: see `Tournament`.
        max_failed: share of failed pairs beyond which training stops.

    Raises:
        UserError: there is no comparer. When training begins or asks: too many pairs failed, another model answers than
            before, or there are no log-odds to take a `quality` from.
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
        self._file: Path | None = None  # of the verdicts; none outside of a training
        self._known: dict[str, dict[Shown, Verdict]] = {}  # by group, until it comes again
        self._counted_before: dict[str, tuple[int, int]] = {}  # failures and pairs before a group that may come again

    # ---- the comparer's

    @property
    def preprocess(self) -> Preprocess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return WithDigest(self.comparer.preprocess)

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

    # ---- a training

    def begin_training(self, folder: Path, process: int) -> None:
        kept = {file: read_group_verdicts(file) for file in group_verdict_files(folder)}
        self._file = group_verdict_file(folder, process)
        for groups in kept.values():  # of all processes, as there may be fewer or more of them by now
            for group, verdicts in groups.items():
                self._known.setdefault(group, {}).update(verdicts)
        for group, verdicts in kept.get(self._file, {}).items():
            self._counted_before[group] = self._failed, self._pairs
            failed, pairs = _num_failed(verdicts)
            self._failed, self._pairs = self._failed + failed, self._pairs + pairs
        known = [one for verdicts in self._known.values() for one in verdicts.values()]
        self._answered_by = next((one.answered_by for one in known if one.answered_by), "")
        if self.comparer.can_change and process == 0:
            self._answered_by = refuse_other_answers(
                self.comparer, self._answered_by, folder / "canaries.json", bool(known), FORMER_MODEL
            )

    # ---- a group

    def cost(self, num_images: int, group_size: int) -> str:
        calls = num_images // group_size * self.tournament.num_calls(group_size)
        shown = "both orders" if self.tournament.orders == "both" else "each pair once"
        return f"{calls:,} calls of {self.name} for {num_images} images in groups of {group_size}, {shown}"

    def score_features(self, features: Sequence[tuple[str, Any]], encoded: Sequence[str]) -> Tensor:
        """Let the images of one prompt meet, and return how well each did."""
        if len(set(encoded)) != 1 or len(features) < 2:
            raise ValueError(f"{self.name} compares images of one prompt; got {len(features)} of {set(encoded)}")
        digests, images = zip(*features, strict=True)
        group = hashlib.sha256("\0".join([*digests, encoded[0]]).encode()).hexdigest()[:16]
        pairs = self.tournament.pairs(len(images))
        judged = self._judged(group, pairs, images, encoded[0])
        self._count(group, judged)
        return torch.from_numpy(standings(pairs, judged, len(images), self.value)).float()

    def take_figures(self) -> dict[str, tuple[float, float]]:
        counts, self._counts = self._counts, Counter()
        return {
            "failed": (counts["failed"], counts["pairs"]),
            "ties": (counts["ties"], counts["pairs"] - counts["failed"]),
            "first": (counts["first"] / 2, counts["answers"]),
        }

    def _judged(self, group: str, pairs: Sequence[Shown], images: Sequence[Any], prompt: str) -> list[JudgedPair]:
        backwards: list[Shown] = [(b, a) for a, b in pairs] if self.tournament.orders == "both" else []
        shown = [*pairs, *backwards]
        if self.network is not None:
            self.comparer.to(self.device)  # where training has put the network
        known = self._known.pop(group, {})
        for start in range(0, len(shown), self.comparer.batch_size):
            batch = [one for one in shown[start : start + self.comparer.batch_size] if one not in known]
            if not batch:
                continue
            first, second = ([images[number] for number in side] for side in zip(*batch, strict=True))
            verdicts = self.comparer.compare(first, second, [prompt] * len(batch))
            self._refuse(verdicts)
            known.update(zip(batch, verdicts, strict=True))
            if self._file is not None:
                add_group_verdicts(self._file, group, zip(batch, verdicts, strict=True))
        return [JudgedPair(prompt, known[a, b], known[b, a] if backwards else None) for a, b in pairs]

    def _refuse(self, verdicts: Sequence[Verdict]) -> None:
        """Refuse answers that training cannot go by; none of them is kept.

        Raises:
            UserError: saying why.
        """
        self._answered_by = refuse_another_model(self.comparer, verdicts, self._answered_by, FORMER_MODEL)
        if self.value == "quality" and any(one.won is not None and one.log_odds is None for one in verdicts):
            raise UserError(
                f"{self.name} answers in words, and reward.value=quality needs log-odds; choose reward.value=win_share"
            )

    def _count(self, group: str, judged: Sequence[JudgedPair]) -> None:
        """Take note of what was said of a group.

        Raises:
            UserError: too many pairs failed.
        """
        won = [pair.won for pair in judged]
        answers = [one.won for pair in judged for one in pair.verdicts if one.won is not None]
        self._counts.update(
            pairs=len(judged), failed=won.count(None), ties=won.count(0.5), answers=len(answers),
            first=round(2 * sum(answers)),
        )  # fmt: skip
        failed, pairs = self._counted_before.pop(group, (self._failed, self._pairs))
        self._failed, self._pairs = failed + won.count(None), pairs + len(judged)
        if self._pairs >= FEWEST and self._failed > self.max_failed * self._pairs:
            raise UserError(
                f"{self.name} failed on {self._failed} of {self._pairs} pairs, more than reward.max_failed="
                f"{self.max_failed:g}; choose another comparer, or see its answers by the stage compare"
            )


def _num_failed(verdicts: Mapping[Shown, Verdict]) -> tuple[int, int]:
    """Return how many pairs of a group failed, in either order, and how many there are."""
    pairs: dict[frozenset[int], bool] = {}
    for shown, verdict in verdicts.items():
        pair = frozenset(shown)
        pairs[pair] = pairs.get(pair, False) or verdict.won is None
    return sum(pairs.values()), len(pairs)
