"""How the network of a model is asked: once, with guidance, and step by step through a sampling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import NoiseSchedule

RandomStep = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One sampling.

    Attributes:
        latents: where it ended, [B, C, h, w].
        noisy_latents: the state before each step, n tensors [B, C, h, w]; empty unless asked for.
        predictions: of the network in each step, with guidance, n tensors [B, C, h, w]; empty unless asked for.
    """

    latents: Tensor
    noisy_latents: list[Tensor]
    predictions: list[Tensor]


class Predictor(ABC):
    """The network of a model adapter, which sets the attributes.

    Attributes:
        schedule: how noise and latents mix and what a prediction means.
        train_guidance_scale: guidance given to a guidance-distilled network in training; None for other families.
        network_passes: forward passes of the network so far, counted in samples, the reference's included; a pass with
            a gradient counts three times.
    """

    schedule: NoiseSchedule
    train_guidance_scale: float | None
    network_passes: int

    @abstractmethod
    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call `self.policy` once, in its dtype. `guidance` [B] reaches only guidance-distilled networks."""

    @classmethod
    def takes_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say whether a network of this config.json has guidance as an input."""
        return False

    @property
    def guidance_is_distilled(self) -> bool:
        """Whether guidance is an input of the network instead of a second call."""
        return False

    def is_guided(self, guidance_scale: float | None) -> bool:
        """Say whether the family's pipeline makes a second call without the prompt, which distilled guidance spares."""
        return (
            not self.guidance_is_distilled and guidance_scale is not None and self.guidance_weight(guidance_scale) > 1
        )

    def guidance_weight(self, guidance_scale: float) -> float:
        """Return the weight that the conditional prediction has in classifier-free guidance at a scale.

        Args:
            guidance_scale: in the family's own sense.

        Returns:
            1 for the conditional prediction alone, 0 for the unconditional one.
        """
        return guidance_scale

    def guide(self, conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
        """Return what the family's pipeline makes of both predictions, [B, C, h, w] each.

        Args:
            weight: as `guidance_weight` returns it.
        """
        return unconditional + weight * (conditional - unconditional)

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        guidance_scale: float | None = None,
        unconditional: Conditioning | None = None,
        detach_unconditional: bool = False,
    ) -> Tensor:
        """Return the prediction of the policy (or of the reference, inside `reference()`).

        Args:
            noisy_latents: [B, C, h, w].
            timesteps: [B], 0..1000.
            conditioning: B rows.
            guidance_scale: for a guidance-distilled family the input of the network (default: `train_guidance_scale`);
                for others that of classifier-free guidance, in the family's own sense, which needs `unconditional`.
                Where it is no guidance (for most families a scale of 1 or less) the conditional call is made alone, as
                in the pipelines.
            unconditional: features of the empty or negative prompt, B rows.
            detach_unconditional: whether to send no gradient through the unconditional call.

        Returns:
            [B, C, h, w], float32.

        Raises:
            ValueError: if the rows differ in number, or guidance and its parts do not match the family.
        """
        num = len(noisy_latents)
        if timesteps.shape != (num,) or any(len(rows) != num for rows in (conditioning, unconditional) if rows):
            raise ValueError(
                f"predict needs a timestep and a row of conditioning for each of {num} noisy latents, got timesteps "
                f"{tuple(timesteps.shape)} and {[len(rows) for rows in (conditioning, unconditional) if rows]} rows"
            )
        timesteps = timesteps.to(noisy_latents.device, non_blocking=True)
        if self.guidance_is_distilled:
            if unconditional is not None:
                raise ValueError("guidance of this model is an input of its network; it takes no unconditional prompt")
            scale = self.train_guidance_scale if guidance_scale is None else guidance_scale
            if scale is None:
                raise ValueError("this model takes guidance as an input; give guidance_scale or train_guidance_scale")
            guidance = torch.full((num,), float(scale), device=noisy_latents.device)
            return self._call(noisy_latents, timesteps, conditioning, guidance)
        if unconditional is not None and guidance_scale is None:
            raise ValueError("an unconditional prompt without a guidance_scale has no effect")
        if guidance_scale is None or not self.is_guided(guidance_scale):
            return self._call(noisy_latents, timesteps, conditioning)
        if unconditional is None:
            raise ValueError("classifier-free guidance needs the unconditional prompt")
        weight = self.guidance_weight(guidance_scale)
        if detach_unconditional:
            with torch.no_grad():
                empty = self._call(noisy_latents, timesteps, unconditional)
            return self.guide(self._call(noisy_latents, timesteps, conditioning), empty, weight)
        return self.predict_guided(noisy_latents, timesteps, conditioning, unconditional, weight)

    def predict_guided(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        unconditional: Conditioning,
        weight: float,
    ) -> Tensor:
        """Return the guided prediction at any weight, of both calls in one.

        `predict` comes here where the family's pipeline would guide. Inversion has weights that no pipeline has: below
        1 and negative ones. Arguments are those of `predict`, and the weight is that of `guide`.
        """
        both = Conditioning.cat([unconditional, conditioning])
        timesteps = timesteps.to(noisy_latents.device, non_blocking=True)
        empty, full = self._call(torch.cat([noisy_latents] * 2), timesteps.repeat(2), both).chunk(2)
        return self.guide(full, empty, weight)

    def _call(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None = None
    ) -> Tensor:
        prediction = self.forward(noisy_latents, timesteps, conditioning, guidance)
        self.network_passes += len(noisy_latents) * (3 if prediction.requires_grad else 1)
        return prediction.to(torch.promote_types(prediction.dtype, torch.float32))

    def sample(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        noise_levels: NoiseLevels,
        guidance_scale: float | None = None,
        unconditional: Conditioning | None = None,
        grad_last: int = 0,
        keep_states: bool = False,
        random_steps: Mapping[int, RandomStep] | None = None,
    ) -> Trajectory:
        """Walk down the noise_levels from `noise` by the deterministic step (DDIM, flow Euler).

        Args:
            noise: [B, C, h, w], unit Gaussian; or what is at the first of the levels.
            noise_levels: those of all images, or of each.
            grad_last: the last so many steps keep their graph (DRaFT); 0 keeps none.
            keep_states: whether to return the state before each step, and the prediction there.
            random_steps: by their number, the steps that are made otherwise: each takes noisy latents and prediction
                to the next latents.
        """
        latents = noise
        states: list[Tensor] = []
        predictions: list[Tensor] = []
        for number, timestep in enumerate(noise_levels.timesteps):
            with torch.set_grad_enabled(number >= len(noise_levels) - grad_last):
                timesteps = timestep.expand(len(latents))
                prediction = self.predict(latents, timesteps, conditioning, guidance_scale, unconditional)
                if keep_states:
                    states.append(latents)
                    predictions.append(prediction)
                if random_steps is not None and number in random_steps:
                    latents = random_steps[number](latents, prediction)
                else:
                    level, next_level = noise_levels.level[number], noise_levels.level[number + 1]
                    latents = self.schedule.step(latents, prediction, level, next_level)
        return Trajectory(latents, states, predictions)
