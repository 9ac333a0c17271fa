"""SRPO: push a reward's preference between a wanted and an unwanted reading of the same image through one network call.

Paper: Shen et al. 2025, "Directly Aligning the Full Diffusion Trajectory with Fine-Grained Human Preference",
arXiv 2509.06942. Written from the mathematics. The network explains only a thin slice of the noise that was put on an
image; the rest is taken out exactly (Direct-Align), so even very noisy levels can be trained. The image is scored under
two captions, prefixed by a wanted and an unwanted word, and what the reward likes under both drops out.

Deviations from the released recipe: the recovered image is latents - c * (prediction - target), the same to rounding
and much more exact in half precision; the network is told the unrounded timestep; the rollout follows the model's own
inference schedule unless `rollout_shift` is set; levels are drawn per prompt from N + 1 grid points, so that no index
leaves the grid; branches are named, never inferred from the number of accumulation steps; batches may be larger than
one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from alignbench.batch import ImageBatch, PromptBatch
from alignbench.context import Context
from alignbench.diffusion.flow_matching import shifted_levels
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.evaluator import Reward
from alignbench.method import Loss, Method, TrainedCalls
from alignbench.models.adapter import ModelAdapter
from alignbench.online.rewards import embedding_of, reward_of
from alignbench.settings.section import Count, NotNegative, Positive
from methods.recovery import GainPolicy, RecoveryWindow, output_coefficient, recover
from methods.reward_gradient import reward_loss

Branch = Literal["denoise", "inversion"]
DiscountMode = Literal["absolute_bonus", "multiplicative"]


def srpo_reward(
    score_plus: Tensor, score_minus: Tensor, discount: Tensor, direction: Tensor, mode: DiscountMode
) -> Tensor:
    """Return the reward of each recovered image, [B].

    Args:
        score_plus, score_minus: score under the wanted and the unwanted caption.
        discount: in `absolute_bonus` the weight of a plain reward on top of the relative one; in `multiplicative` a
            factor on the relative one.
        direction: 1 for denoising; -1 for inversion, where the image answers to the network with the opposite sign and
            wanted and unwanted therefore change places.
    """
    swap = direction < 0
    wanted = torch.where(swap, score_minus, score_plus)
    unwanted = torch.where(swap, score_plus, score_minus)
    if mode == "multiplicative":
        return discount * (wanted - unwanted)
    return (1 + discount) * wanted - unwanted


@dataclass(frozen=True)
class RecoveryBatch(ImageBatch):
    """Rolled-out images and the recoveries to make of them.

    Attributes:
        noise: put on the images, [B, C, h, w].
        start, landing: timesteps where the network is asked and where its step lands, [B], float64.
        direction: 1 for denoising, -1 for inversion, [B].
        discount: of the reward, [B].
        bias_sign: whether what the reward likes under both captions is followed (1) or penalised (-1), [B].
        text_plus, text_minus: captions as the reward reads them: features [B, D] or texts; None for minus if there is
            no unwanted caption.
    """

    noise: Tensor
    start: Tensor
    landing: Tensor
    direction: Tensor
    discount: Tensor
    bias_sign: Tensor
    text_plus: Tensor | list[str]
    text_minus: Tensor | list[str] | None


@dataclass(eq=False, kw_only=True)
class SRPO(Method[RecoveryBatch]):
    """SRPO; without words to prefer and to avoid it is Direct-Align on the plain reward.

    Attributes:
        name: as typed in `method=`.
        reward: what is optimised, by its text and image features where it has them.
        window: noise levels where the network is asked.
        num_rollout_steps, rollout_guidance_scale: how images are sampled.
        rollout_shift: fixed shift of the noise levels of that sampling, for flow models; None for the model's own.
        train_guidance_scale: guidance of the trained call; None for the family's default, which without distilled
            guidance is the conditional call alone.
        detach_unconditional: whether the unconditional half of a guided training call gets no gradient.
        noise_source: put back the noise an image was sampled from (`rollout`), or another (`fresh`).
        share_noise: one noise for all prompts of an update, or one each.
        branches: recoveries made of each image, one micro-batch each.
        redraw_level: whether each branch draws a level of its own; otherwise all of an image land on the same.
        gain, gain_constant: see `output_coefficient` in recovery.py.
        discount_mode: see `srpo_reward`.
        discount_denoise, discount_inversion: discount at the clean and at the noisy end of the window.
        discount_shift: bends the discounts between their ends; 1 is linear.
        margin: rewards above it are not pushed further; None for no limit.
        positive_words, negative_words: control words, taken in turn, one of each an update. Without positive words the
            caption itself is wanted; without negative ones nothing is subtracted.
        template: how a word and a caption are joined.
    """

    reads_pixels: ClassVar[bool] = True
    differentiates_pixels: ClassVar[bool] = True

    name: str
    reward: Reward
    window: RecoveryWindow
    num_rollout_steps: Count
    rollout_guidance_scale: NotNegative | None
    rollout_shift: Positive | None
    train_guidance_scale: NotNegative | None
    detach_unconditional: bool
    noise_source: Literal["rollout", "fresh"]
    share_noise: bool
    branches: Sequence[Branch]
    redraw_level: bool
    gain: GainPolicy
    gain_constant: float
    discount_mode: DiscountMode
    discount_denoise: Sequence[float]
    discount_inversion: Sequence[float]
    discount_shift: Positive
    margin: float | None
    positive_words: Sequence[str]
    negative_words: Sequence[str]
    template: str

    def __post_init__(self) -> None:
        for key, values, available in (
            ("noise_source", [self.noise_source], ("rollout", "fresh")),
            ("branches", self.branches, get_args(Branch)),
            ("gain", [self.gain], get_args(GainPolicy)),
            ("discount_mode", [self.discount_mode], get_args(DiscountMode)),
        ):
            for value in values:
                if value not in available:
                    raise ValueError(f"method.{key}={value} is unknown; available: {', '.join(available)}")

    @classmethod
    def trained_calls(cls, settings: Mapping[str, Any], model: ModelAdapter) -> TrainedCalls:
        guided = model.is_guided(settings["train_guidance_scale"])
        return TrainedCalls(rows=2 if guided and not settings["detach_unconditional"] else 1)

    def rollout(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Iterable[list[RecoveryBatch]]:
        chunks = batch.split(context.micro_batch_size)
        yield [recovery for chunk in chunks for recovery in self.recoveries(model, chunk, context)]

    @torch.no_grad()
    def recoveries(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> list[RecoveryBatch]:
        """Sample an image for each prompt and draw the recoveries to make of it, one batch a branch."""
        noise = self.noise(model, batch, context, "rollout")
        noise_levels, guidance = self.rollout_levels(model), self.rollout_guidance_scale
        empty = model.unconditional(guidance, batch.conditioning)
        latents = model.sample(noise, batch.conditioning, noise_levels, guidance, empty).latents
        if self.noise_source == "fresh":
            noise = self.noise(model, batch, context, "recovery")
        text_plus = self.captions(batch.prompts, self.positive_words, context.step)
        text_minus = self.captions(batch.prompts, self.negative_words, context.step) if self.negative_words else None

        recoveries = []
        for number, branch in enumerate(self.branches):
            draw = self.window.draw(context.uniform(batch.index, f"level{number if self.redraw_level else 0}"))
            denoise = self.window.discount(draw.landing, self.discount_denoise, self.discount_shift)
            inversion = self.window.discount(draw.landing - draw.length, self.discount_inversion, self.discount_shift)
            direction = 1 if branch == "denoise" else -1
            recoveries.append(
                RecoveryBatch(
                    batch.index,
                    batch.prompts,
                    batch.conditioning,
                    latents,
                    noise=noise,
                    start=model.schedule.timesteps_at(self.window.tau(draw.landing + direction * draw.length)),
                    landing=model.schedule.timesteps_at(self.window.tau(draw.landing)),
                    direction=torch.full((len(batch),), direction),
                    discount=(denoise if branch == "denoise" else inversion).float(),
                    bias_sign=self.bias_sign(denoise, inversion).float(),
                    text_plus=text_plus,
                    text_minus=text_minus,
                ).to(latents.device)
            )
        return recoveries

    def loss(self, model: ModelAdapter, batch: RecoveryBatch, context: Context) -> Loss:
        schedule = model.schedule
        start, landing = schedule.level(batch.start), schedule.level(batch.landing)
        prediction = model.predict(
            schedule.add_noise(batch.latents, batch.noise, start),
            batch.start,
            batch.conditioning,
            self.train_guidance_scale,
            model.unconditional(self.train_guidance_scale, batch.conditioning),
            self.detach_unconditional,
        )
        target = schedule.target(batch.latents, batch.noise, start)
        coefficient = output_coefficient(schedule, start, landing, self.gain, self.gain_constant)
        pixels = model.decode_latents(recover(batch.latents, prediction, target, coefficient))
        plus, minus = self.scores(pixels, batch)
        reward = srpo_reward(plus, minus, batch.discount, batch.direction, self.discount_mode)

        seen = reward.detach()
        metrics = {
            "reward": seen,
            "reward_denoise": seen.where(batch.direction > 0, torch.nan),
            "reward_inversion": seen.where(batch.direction < 0, torch.nan),
            "score_plus": plus.detach(),
            "score_minus": minus.detach(),
            "gain": schedule.recovery_gain(start, landing).abs(),
            "coefficient": coefficient.abs(),
            "hinged": torch.zeros_like(seen) if self.margin is None else (seen > self.margin).float(),
            "landing_sigma": landing.sigma,
            "bias_sign": batch.bias_sign,
        }
        return Loss.mean(reward_loss(reward, self.margin), metrics)

    def rollout_levels(self, model: ModelAdapter) -> NoiseLevels:
        """Return the noise levels of the sampling that makes the images."""
        if self.rollout_shift is None:
            return model.noise_levels(self.num_rollout_steps)
        return shifted_levels(model.schedule, self.num_rollout_steps, self.rollout_shift)

    def noise(self, model: ModelAdapter, batch: PromptBatch, context: Context, purpose: str) -> Tensor:
        """Return noise [B, C, h, w]: the same for all prompts of the update, on all processes, where it is shared."""
        if self.share_noise:
            one = torch.randn(model.latent_shape, generator=context.shared_generator(purpose))
            return one.to(model.device, non_blocking=True).expand(len(batch), *one.shape)
        return context.noise(batch.index, model.latent_shape, purpose).to(model.device)

    def captions(self, prompts: Sequence[str], words: Sequence[str], step: int) -> Tensor | list[str]:
        """Return the prompts under the control word whose turn it is, as the reward reads them: features or texts."""
        word = words[step % len(words)] if words else None
        texts = [self.template.format(word=word, prompt=prompt) if word else prompt for prompt in prompts]
        return self.reward.embed_text(texts) if self.reward.has_embeddings else texts

    def scores(self, pixels: Tensor, batch: RecoveryBatch) -> tuple[Tensor, Tensor]:
        """Return the scores under the wanted and the unwanted caption, [B] each; zeros where there is none."""
        self.reward_calls += len(pixels)
        texts: list[Any] = [text for text in (batch.text_plus, batch.text_minus) if text is not None]
        if self.reward.has_embeddings:
            image = self.reward.embedding_scale * embedding_of(self.reward, pixels)
            scores = [(image * text).sum(-1) for text in texts]
        else:
            scores = [reward_of(self.reward, pixels, text) for text in texts]
        return scores[0], scores[1] if len(scores) == 2 else torch.zeros_like(scores[0])

    def bias_sign(self, denoise: Tensor, inversion: Tensor) -> Tensor:
        """Return the sign of the pull that all branches together exert along what is liked under both captions."""
        if not self.negative_words:
            return torch.ones_like(denoise)
        if self.discount_mode == "multiplicative":
            return torch.zeros_like(denoise)
        return torch.sign(self.branches.count("denoise") * denoise - self.branches.count("inversion") * inversion)
