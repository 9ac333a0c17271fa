"""Make the plain step of a composed configuration, with the values that the program's own method has in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from alignbench.batch import Conditioning
from alignbench.configuration.build import build
from alignbench.models.adapter import ModelAdapter
from benchmarks.reference_steps.model import Draws, PlainModel
from benchmarks.reference_steps.policy_gradient import GRPO, NFT, Rollouts
from benchmarks.reference_steps.preference import DPO, KTO, SFT, Grid, MaPO, SmPO
from benchmarks.reference_steps.reward_gradient import SRPO, DRaFT, ReFL
from benchmarks.reference_steps.rewards import PlainReward
from benchmarks.reference_steps.step import PlainStep


@dataclass(frozen=True)
class Parts:
    """What a plain step is made of.

    Attributes:
        settings: the `method` node of the configuration.
        adapter: of the model, for this step alone.
        micro_batch_size: samples that go through a network at once.
        draws: where random numbers come from.
        reward: that of the configuration; None for methods without one.
        score_range: smallest and largest score of all training images, for SmPO.
        features: text features of every prompt, which SRPO's script has made before.
    """

    settings: DictConfig
    adapter: ModelAdapter
    micro_batch_size: int
    draws: Draws
    reward: PlainReward | None = None
    score_range: tuple[float, float] = (0.0, 1.0)
    features: Mapping[str, Conditioning] | None = None

    def start(self, reference: bool = False, old: bool = False) -> tuple[PlainModel, int, Draws]:
        """Return what every step begins with."""
        return PlainModel(self.adapter, reference, old), self.micro_batch_size, self.draws


def _dpo(parts: Parts) -> PlainStep:
    return DPO(*parts.start(reference=True), parts.settings.beta, parts.settings.prompt_dropout)


def _kto(parts: Parts) -> PlainStep:
    return KTO(*parts.start(reference=True), parts.settings.beta, parts.settings.prompt_dropout)


def _mapo(parts: Parts) -> PlainStep:
    settings = parts.settings
    return MaPO(*parts.start(), settings.beta, settings.snr_value, settings.margin_scale)


def _sft(parts: Parts) -> PlainStep:
    return SFT(*parts.start(), parts.settings.prompt_dropout)


def _smpo(parts: Parts) -> PlainStep:
    settings, (model, _, draws) = parts.settings, parts.start(reference=True)
    grids: dict[tuple[str, bool], Grid] = {("exact", False): "exact", ("upstream_020", True): "published"}
    chosen = (settings.inversion.mode, settings.inversion.average)
    if chosen not in grids:
        raise ValueError(f"the plain step of smpo knows no inversion with mode and average {chosen}")
    return SmPO(
        model,
        draws,
        beta=settings.beta,
        gamma=settings.gamma,
        score_range=parts.score_range,
        num_steps=settings.inversion.num_steps,
        prompt_dropout=settings.prompt_dropout,
        grid=grids[chosen],
        num_points=settings.points_per_inversion,
    )


def _srpo(parts: Parts) -> PlainStep:
    settings, window = parts.settings, build(parts.settings.window)
    assert parts.reward is not None
    assert parts.features is not None
    return SRPO(
        *parts.start(),
        parts.reward,
        parts.features,
        num_rollout_steps=settings.num_rollout_steps,
        guidance=settings.rollout_guidance_scale,
        window=(window.tau_noisy, window.tau_clean),
        num_levels=window.num_levels,
        longest=window.longest,
        edge=window.edge,
        discount_denoise=settings.discount_denoise,
        discount_inversion=settings.discount_inversion,
        margin=settings.margin,
        positive_words=settings.positive_words,
        negative_words=settings.negative_words,
        template=settings.template,
    )


def _refl(parts: Parts) -> PlainStep:
    settings = parts.settings
    assert parts.reward is not None
    margin = settings.margins.get(parts.reward.reward.name)
    sampling = (settings.num_rollout_steps, settings.rollout_guidance_scale)
    return ReFL(*parts.start(), parts.reward, *sampling, settings.earliest, settings.reward_weight, margin)


def _draft(parts: Parts) -> PlainStep:
    settings = parts.settings
    assert parts.reward is not None
    sampling = (settings.num_rollout_steps, settings.rollout_guidance_scale)
    return DRaFT(*parts.start(), parts.reward, *sampling, settings.truncation.num_steps)


def _rollouts(parts: Parts) -> Rollouts:
    settings = parts.settings
    return Rollouts(
        batch_size=settings.rollout_batch_size or parts.micro_batch_size,
        num_steps=settings.num_rollout_steps,
        guidance=settings.rollout_guidance_scale,
        group_size=settings.group_size,
        spread=settings.advantage.spread,
        clip=settings.advantage.clip,
    )


def _grpo(parts: Parts) -> PlainStep:
    settings, window = parts.settings, parts.settings.window
    assert parts.reward is not None
    stop = window.stop or settings.num_rollout_steps - 1
    random_steps: Sequence[int] = range(window.first, stop if window.size is None else window.first + window.size)
    return GRPO(
        *parts.start(reference=settings.kl_weight > 0),
        parts.reward,
        _rollouts(parts),
        random_steps=random_steps,
        noise=settings.kernel.noise,
        clip_range=settings.limit,
        updates_per_round=settings.updates_per_round,
        kl_weight=settings.kl_weight,
    )


def _nft(parts: Parts) -> PlainStep:
    settings, levels = parts.settings, parts.settings.levels
    assert parts.reward is not None
    return NFT(
        *parts.start(reference=True, old=True),
        parts.reward,
        _rollouts(parts),
        levels=(levels.first, levels.stop),
        num_levels=levels.num,
        beta=settings.beta,
        kl_weight=settings.kl_weight,
        slope=settings.lag.slope,
        cap=settings.lag.cap,
    )


STEPS: dict[str, Callable[[Parts], PlainStep]] = {
    "dpo": _dpo,
    "kto": _kto,
    "mapo": _mapo,
    "sft": _sft,
    "smpo": _smpo,
    "srpo": _srpo,
    "refl": _refl,
    "draft": _draft,
    "grpo": _grpo,
    "nft": _nft,
}
# settings under which the plain step is the method; others are the program's alone
WRITTEN_FOR: dict[str, dict[str, Any]] = {
    "dpo": {"labels": "hard", "label_smoothing": 0.0, "safeguard": None, "beta_convention": "half"},
    "kto": {"utility": "kt", "q_mode": "batch", "q_clamp": True, "lambda_desirable": 1.0, "lambda_undesirable": 1.0},
    "mapo": {"likelihood_weight": 1.0, "prompt_dropout": 0.0},
    "sft": {"variant": "chosen"},
    "smpo": {
        "labels": "reward",
        "score_range": None,
        "round_trip_every": None,
        "inversion.num_renoise": 1,
        "inversion.inverter": "policy",
        "inversion.guidance_scale": None,
        "inversion.eta": 0.0,
    },
    "srpo": {"gain": "landing", "redraw_level": False, "share_noise": True, "noise_source": "rollout"},
    "refl": {"min_sigma": 0.0, "kl_weight": 0.0},
    "draft": {"truncation.draw": "fixed", "num_copies": 0, "min_sigma": 0.0, "kl_weight": 0.0, "reward_weight": 1.0},
    "grpo": {"gate": "ratio", "window.choice": "fixed", "window.num_trained": None, "kl_form": "flow_grpo"},
    "nft": {"levels.draw": "shuffled", "levels.shared": False, "share_noise": False, "lag.start": 0.0, "lag.delay": 0},
}


def plain_step(parts: Parts) -> PlainStep:
    """Return the plain step of a method.

    Raises:
        ValueError: the method has none, or the configuration sets what it is not written for.
    """
    name = parts.settings.name
    if name not in STEPS:
        raise ValueError(f"method={name} has no plain step; available: {', '.join(STEPS)}")
    for key, wanted in WRITTEN_FOR[name].items():
        node = parts.settings
        for part in key.split("."):
            node = node[part]
        if node != wanted:
            raise ValueError(f"the plain step of {name} is written for method.{key}={wanted}, not {node}")
    return STEPS[name](parts)
