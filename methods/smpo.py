"""SmPO: Diffusion-DPO on inverted latents, each pair pushed as far as a scorer tells its images apart.

Paper: Lu et al. 2025, "Smoothed Preference Optimization via ReNoise Inversion for Aligning Diffusion Models with Varied
Human Preferences", arXiv 2506.02698. Reference code: JaydenLyh/SmPO, train.py.

Deviations (`smpo_upstream` undoes those marked *): the inversion ends at the level of the timestep* and asks with the
timestep it climbs to*, ReNoise takes its last estimate*, the inverting network is in evaluation mode*, all in float32;
batches may be larger than one; the scorer, gamma and the range of scores are options; pairs without a vote are used as
the data give them; errors are float32 to the end; models other than Stable Diffusion, flow models included. The text of
the paper iterates once, after the last step (`renoise_at: last`); the code does so at every step.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from alignbench.batch import PairBatch
from alignbench.context import Context
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.method import Loss, Method
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import (
    ErrorWeighting,
    check_weighting,
    known_of_both,
    pair_errors,
    pair_reference_errors,
)
from alignbench.objectives.inversion import round_trip_error
from alignbench.objectives.inversion_path import InversionSettings
from alignbench.objectives.inverted_pairs import (
    invert_pairs,
    known_inversion,
    noised_by_inversion,
    pairs_at_points,
)
from alignbench.settings.section import Count, NotNegative, Positive, Share

Labels = Literal["reward", "votes", "blend"]

FIGURES = ("level", "num_steps", "contraction", "diverged")  # of `Inverted.metrics`
NEAR_TIE = 0.51  # a pair whose winner is less probable hardly pushes


def smpo_loss(margin: Tensor, kappa: Tensor) -> Tensor:
    """Return the SmPO loss of each pair, [B]: log 2 when policy and reference agree, or when kappa is 0.

    Args:
        margin: logit of preferring the winner, [B], float32.
        kappa: factor on it, [B]; 1 is Diffusion-DPO, 0 no push at all.

    Source: arXiv 2506.02698, equation 15.
    """
    return F.softplus(-kappa * margin)


def smoothed_probability(score_w: Tensor, score_l: Tensor, score_range: Sequence[float]) -> Tensor:
    """Return the probability that the first image is preferred, [B], float64: 0.27 to 0.73 for scores in the range.

    Bradley-Terry on scores that are mapped to 0..1 by the range of all training images.

    Source: arXiv 2506.02698, equations 11 and 12.
    """
    low, high = score_range
    return torch.sigmoid((score_w.double() - score_l.double()) / (high - low))


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs with their labels decided.

    Attributes:
        pairs: the batch, winners first by that label.
        kappa: factor on the margin, [B], >= 0.
        metrics: what to log of the labels, [B] each.
    """

    pairs: PairBatch
    kappa: Tensor
    metrics: dict[str, Tensor]


class InvertedPairs(Method[PairBatch]):
    """Diffusion-DPO's classification at latents that are inverted instead of noised.

    Args:
        name: as typed in `method=`.
        beta: strength of the pull towards the reference, in the convention with the factor 1/2.
        inversion: how latents are inverted.
        round_trip_every: updates between two measurements of the inversion's round trip, each of which costs as many
            network passes as an inversion without ReNoise; None for none.
        error_weighting: whose error is compared: the raw prediction's (`uniform`), that of the noise it implies
            (`eps_equivalent`) or of the latents (`x0_equivalent`).
        prompt_dropout: share of pairs trained (and inverted) with the empty prompt.
        points_per_inversion: number of points at which a pair is trained, one in each of as many updates, once its
            images are inverted; see `InversionSettings.stops_through`. 1 inverts anew for each update.
        num_draws: number of fixed draws of each pair, whose inversions by the reference are kept with its errors; None
            draws and inverts anew at each visit.
    """

    batch_type = PairBatch
    needs_reference = True

    def __init__(
        self,
        name: str,
        beta: Positive,
        inversion: InversionSettings,
        round_trip_every: int | None,
        error_weighting: ErrorWeighting,
        prompt_dropout: Share,
        points_per_inversion: Count,
        num_draws: Count | None,
    ) -> None:
        check_weighting(error_weighting, ("uniform", "eps_equivalent", "x0_equivalent"))
        if round_trip_every is not None and round_trip_every < 1:
            raise ValueError(f"method.round_trip_every={round_trip_every} must be at least 1, or null")
        if points_per_inversion > 1:
            _check_points(points_per_inversion, inversion)
        if num_draws is not None:
            _check_draws(num_draws, points_per_inversion, inversion)
        if round_trip_every is not None and (points_per_inversion > 1 or num_draws is not None):
            raise ValueError(
                f"method.round_trip_every={round_trip_every} needs an inversion in each update; set it to null, or set "
                "method.points_per_inversion=1 and method.num_draws=null"
            )
        self.name = name
        self.beta = beta
        self.inversion = inversion
        self.round_trip_every = round_trip_every
        self.error_weighting: ErrorWeighting = error_weighting
        self.prompt_dropout = prompt_dropout
        self.points_per_inversion = points_per_inversion
        self.num_draws = num_draws

    @abstractmethod
    def assign_labels(self, batch: PairBatch) -> LabelledPairs:
        """Say which image of each pair has won, and how much that counts."""

    def loss(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Loss:
        labelled = self.assign_labels(batch)
        pairs = labelled.pairs
        inverted = None if pairs.known is not None else invert_pairs(model, pairs, self.inversion, context)
        known = pairs.known if inverted is None else known_inversion(inverted)
        assert known is not None
        conditioning = pairs.conditioning_both
        noised = noised_by_inversion(model, known, self.error_weighting)
        ref_errors = known if "ref_error_w" in known else None
        errors = pair_errors(model, noised, conditioning, known=ref_errors)

        figures = {name: known_of_both(known, name) for name in FIGURES}
        round_trip = torch.full_like(figures["contraction"], torch.nan)
        is_due = self.round_trip_every is not None and context.step % self.round_trip_every == 0
        if inverted is not None and is_due:
            latents = torch.cat([pairs.latents_w, pairs.latents_l])
            round_trip = round_trip_error(model, latents, conditioning, inverted, self.inversion)
        per_image = {**figures, "round_trip_error": round_trip}
        metrics = {name: torch.stack(value.chunk(2)).mean(0) for name, value in per_image.items()}
        values = smpo_loss(errors.margin(self.beta), labelled.kappa)
        return Loss.mean(values, {**errors.metrics(self.beta), **labelled.metrics, **metrics})

    def rollout(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Iterable[list[PairBatch]]:
        """Yield the batch for one update, or for one update at each point that an inversion of its pairs visits."""
        parts = batch.split(context.micro_batch_size)
        if self.points_per_inversion == 1:
            yield parts
        else:
            num, settings = self.points_per_inversion, self.inversion
            points = [pairs_at_points(model, part, num, settings, context) for part in parts]
            yield from map(list, zip(*points, strict=True))

    def reference_values(self, model: ModelAdapter, batch: PairBatch, context: Context) -> dict[str, Tensor]:
        """Return the inversion of each pair by the reference, and the reference's errors there."""
        known = known_inversion(invert_pairs(model, batch, self.inversion, context))
        noised = noised_by_inversion(model, known, self.error_weighting)
        return known | pair_reference_errors(model, noised, batch.conditioning_both)

    @property
    def reference_settings(self) -> dict[str, Any]:
        return {"inversion": asdict(self.inversion)}


def _check_points(points_per_inversion: int, inversion: InversionSettings) -> None:
    """Refuse settings under which the points on the way of an inversion are not ends of inversions."""
    if inversion.mode != "exact":
        raise ValueError(
            f"method.points_per_inversion={points_per_inversion} needs an inversion that ends at the level of the "
            f"timestep, and that of method.inversion.mode={inversion.mode} does not; set method.inversion.mode=exact"
        )
    if inversion.renoise_at == "last" and inversion.num_renoise:
        raise ValueError(
            f"method.points_per_inversion={points_per_inversion} trains on the way of an inversion, where "
            "method.inversion.renoise_at=last makes no ReNoise iterations; set method.inversion.renoise_at=every"
        )


def _check_draws(num_draws: int, points_per_inversion: int, inversion: InversionSettings) -> None:
    """Refuse to keep what training changes, and two ways to save inversions at once."""
    if inversion.inverter != "reference":
        raise ValueError(
            f"method.num_draws={num_draws} keeps inversions, and those by the policy change; set "
            "method.inversion.inverter=reference, or method.num_draws=null"
        )
    if points_per_inversion > 1:
        raise ValueError(
            f"method.num_draws={num_draws} keeps one inversion for each draw, so that "
            f"method.points_per_inversion={points_per_inversion} has none to share; set one of them to null or 1"
        )


class SmPO(InvertedPairs):
    """SmPO: the strength of a pair follows from a scorer, from the votes of people, or from both.

    Args:
        scorer: judges the training images, once, before training. Not used with labels=votes.
        labels: where the probability of the winner comes from: the scorer, which then also says who has won
            (`reward`); the data (`votes`); or the weighted mean of both (`blend`).
        vote_weight: weight of the data in `blend`, 0..1.
        gamma: kappa = gamma (2 P - 1), P being that probability.
        score_range: smallest and largest score, which become 0 and 1; None takes those of the training images.

    See `InvertedPairs` for the others.
    """

    def __init__(
        self,
        name: str,
        beta: Positive,
        gamma: NotNegative,
        labels: Labels,
        scorer: Evaluator | None,
        vote_weight: float,
        score_range: Sequence[float] | None,
        inversion: InversionSettings,
        round_trip_every: int | None,
        error_weighting: ErrorWeighting,
        prompt_dropout: Share,
        points_per_inversion: Count,
        num_draws: Count | None,
    ) -> None:
        super().__init__(
            name,
            beta,
            inversion,
            round_trip_every,
            error_weighting,
            prompt_dropout,
            points_per_inversion,
            num_draws,
        )
        if labels not in get_args(Labels):
            raise ValueError(f"method.labels={labels} is unknown; available: {', '.join(get_args(Labels))}")
        if labels != "votes" and not isinstance(scorer, Evaluator):
            raise ValueError(f"method.labels={labels} needs a scorer; add reward=NAME")
        if not 0 <= vote_weight <= 1:
            raise ValueError(f"method.vote_weight={vote_weight} must lie between 0 and 1")
        if score_range is not None and not (len(score_range) == 2 and score_range[0] < score_range[1]):
            raise ValueError(f"method.score_range={score_range} must be [smallest, largest], or null")
        self.gamma = gamma
        self.labels: Labels = labels
        self.scorer = None if labels == "votes" else scorer
        self.vote_weight = vote_weight
        self.score_range = None if score_range is None else tuple(score_range)

    def fit(self, scores: Tensor) -> None:
        if self.score_range is not None:
            return
        low, high = float(scores.min()), float(scores.max())
        if not low < high:
            raise UserError(f"method.scorer gives all training images the score {low:g}, which tells no winner")
        self.score_range = (low, high)

    def state_dict(self) -> dict[str, Any]:
        return {"score_range": self.score_range}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score_range = state["score_range"]

    def assign_labels(self, batch: PairBatch) -> LabelledPairs:
        """Put the more probable image first."""
        probability = self.probability(batch)
        swap = probability < 0.5
        probability = torch.where(swap, 1 - probability, probability)
        kappa = (self.gamma * (2 * probability - 1)).float()
        metrics = {
            "kappa": kappa,
            "probability_w": probability,
            "near_tie": (probability < NEAR_TIE).float(),
            "relabelled": swap.float(),
        }
        return LabelledPairs(batch.swapped(swap), kappa, metrics)

    def probability(self, batch: PairBatch) -> Tensor:
        """Return the probability that the first image of each pair is preferred, [B], float64."""
        votes = batch.probability_w.double()
        if self.labels == "votes":
            return votes
        if batch.score_w is None or batch.score_l is None or self.score_range is None:
            raise RuntimeError(f"method.labels={self.labels} needs scores of the training images, and their range")
        scored = smoothed_probability(batch.score_w, batch.score_l, self.score_range)
        return scored if self.labels == "reward" else torch.lerp(scored, votes, self.vote_weight)
