"""SPO: at each step of a sampling, prefer the best of several candidates for the next state to the worst.

Paper: Liang et al. 2024, "Aesthetic Post-Training Diffusion Models from Generic Preferences with Step-by-step
Preference Optimization" (SPO), arXiv 2406.04314. Reference code: RockeyCoss/SPO, train_scripts/train_spo.py.

Deviations: any evaluator judges, and it is not told the noise level; the code has a step-aware preference model, which
was trained on the predicted images of all levels. Winner and loser share one call of each network, as they leave one
state; the code makes two equal ones. An update has the pairs of whole prompts and averages over all comparisons, so
every kept pair has the same pull; the code shuffles the pairs of a round and averages over 40. Pairs are never left out
to fill processes. Sampling ends with the last comparison. Flow models are ours: the steps of Flow-GRPO.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.diffusion.samplers import require_fresh_noise
from alignbench.method import Loss
from alignbench.models.adapter import ModelAdapter
from alignbench.online.policy_objectives import clamped_preference_loss
from alignbench.online.rewards import ImageScorer
from alignbench.online.stochastic_sampling import StateBatch, StochasticSampling
from alignbench.settings.section import Positive, ProperShare, ShareBelowOne


def is_clear(log_odds: Tensor, threshold: float) -> Tensor:
    """Say which pairs a judge tells apart well enough, [B], bool.

    Args:
        log_odds: of the better candidate being preferred to the worse, [B].
        threshold: how much the two probabilities of being preferred must differ, 0..1: 0.3 asks for log-odds of 0.619,
            0.4 for 0.847.

    Source: arXiv 2406.04314; spo/preference_models/compare_funcs.py, where they are a softmax of the two scores.
    """
    return (log_odds / 2).tanh() > threshold


@dataclass(frozen=True)
class CandidateBatch(StateBatch):
    """The states of some samplings, and where a random step may lead each.

    Attributes:
        candidates: for the state after the step, [B, K, C, h, w].
    """

    candidates: Tensor


@dataclass(frozen=True)
class ComparisonBatch(StateBatch):
    """Random steps, each with the best and the worst of its candidates.

    Attributes:
        next_latents_w, next_latents_l: the two after the step, [B, C, h, w].
        log_odds: of the best being preferred to the worst, [B], float32, >= 0.
        kept: whether they are a pair to train, [B], bool.
        scores: mean over all candidates, by each reward, [B, R], float32.
        num_comparisons: how many comparisons a row stands for, [B], float32: 1 for a pair.
    """

    next_latents_w: Tensor
    next_latents_l: Tensor
    log_odds: Tensor
    kept: Tensor
    scores: Tensor
    num_comparisons: Tensor


@dataclass(eq=False, kw_only=True)
class SPO(StochasticSampling[ComparisonBatch]):
    """SPO. All steps of a sampling are random. Those that the window trains have candidates, which are compared.

    Attributes:
        group_size: candidates of a step. They are the samples of a prompt, for each of which there is one sampling.
        logit_scale: factor that makes log-odds of a difference of rewards.
        threshold: see `is_clear`.
        beta, clip_range: see `clamped_preference_loss`.
    """

    needs_reference = True

    logit_scale: Positive
    threshold: ShareBelowOne
    beta: Positive
    clip_range: ProperShare

    def rollout(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Iterable[list[ComparisonBatch]]:
        with torch.no_grad():
            comparisons = self.comparisons(model, batch, context)
            updates = [
                self.with_expected(model, self.micro_batches(model, comparisons.take(rows), context))
                for rows in self.rows_of_updates(comparisons.index)
            ]
        yield from updates

    def comparisons(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> ComparisonBatch:
        """Sample once for each prompt of this process's share and return all compared steps."""
        scorer, found = ImageScorer(self.reward, self.group_size), []
        num_prompts = max((self.rollout_batch_size or context.micro_batch_size) // self.group_size, 1)
        for chunk in batch.split(num_prompts * self.group_size):
            found += self.sample(model, chunk, context, scorer)
        steps, scores = CandidateBatch.cat(found), self.scored(scorer, model, context)
        scores = scores.unflatten(0, (-1, self.group_size))
        rewards = scores.double() @ self.component_weights.to(model.device)
        best, worst = rewards.argmax(1), rewards.argmin(1)
        rows = torch.arange(len(steps), device=model.device)
        log_odds = self.logit_scale * (rewards[rows, best] - rewards[rows, worst])
        return ComparisonBatch(
            steps.index,
            steps.prompts,
            steps.conditioning,
            noisy_latents=steps.noisy_latents,
            step=steps.step,
            next_latents_w=steps.candidates[rows, best],
            next_latents_l=steps.candidates[rows, worst],
            log_odds=log_odds.float(),
            kept=is_clear(log_odds, self.threshold),
            scores=scores.mean(1),
            num_comparisons=torch.ones(len(steps), device=model.device),
        )

    def sample(
        self, model: ModelAdapter, batch: PromptBatch, context: Context, scorer: ImageScorer
    ) -> list[CandidateBatch]:
        """Sample once for each prompt of `batch` until the last compared step; return all compared steps.

        All steps add noise. After a compared one, the sampling goes on with a candidate that is drawn without regard to
        the scores, so `scorer` may still be at work.
        """
        samplings = batch.map(lambda rows: rows[:: self.group_size])
        compared = self.window.trained_steps(self.random_steps(context), context)
        latents = context.noise(samplings.index, model.latent_shape, "rollout").to(model.device)
        prediction, found = None, []
        for number in range(compared[-1] + 1):
            state = StateBatch.before(number, samplings, latents)
            if prediction is None:
                prediction = self.predict(model, state)
            if number not in compared:
                noise = context.noise(samplings.index, model.latent_shape, f"step{number}")
                latents, prediction = self.transition(model, state, prediction).draw(noise), None
                continue
            one_each = StateBatch.before(number, batch, latents.repeat_interleave(self.group_size, 0))
            transition = self.transition(model, one_each, prediction.repeat_interleave(self.group_size, 0))
            require_fresh_noise(transition.std)
            candidates = transition.draw(context.noise(batch.index, model.latent_shape, f"step{number}"))
            images, predictions = self.predicted_images(model, StateBatch.before(number + 1, batch, candidates))
            scorer.add(model.decode_latents(images), batch.prompts)
            found.append(
                CandidateBatch(
                    state.index,
                    state.prompts,
                    state.conditioning,
                    noisy_latents=latents,
                    step=state.step,
                    candidates=candidates.unflatten(0, (-1, self.group_size)),
                )
            )
            drawn = (context.uniform(samplings.index, f"continuation{number}") * self.group_size).long()
            rows = torch.arange(len(samplings)) * self.group_size + drawn
            latents, prediction = candidates[rows], None if predictions is None else predictions[rows]
        return found

    def predicted_images(self, model: ModelAdapter, states: StateBatch) -> tuple[Tensor, Tensor | None]:
        """Return the images that states will lead to, as latents, and the prediction that says so.

        After the last step there is nothing to predict: the states are the images.
        """
        if int(states.step[0]) == self.num_rollout_steps:
            return states.noisy_latents, None
        prediction, level = self.predict(model, states), self.noise_levels(model).level[states.step]
        return model.schedule.decompose(states.noisy_latents, prediction, level).latents, prediction

    def micro_batches(
        self, model: ModelAdapter, comparisons: ComparisonBatch, context: Context
    ) -> list[ComparisonBatch]:
        """Return the micro-batches of an update.

        The kept pairs have a row each. One more stands for all comparisons that were not kept: it has no gradient, and
        counts them. Processes keep unlike numbers of pairs, but must call the network equally often, or those with more
        would wait for ever; rows without a weight make up for the difference.
        """
        kept, dropped = ((comparisons.kept == wanted).nonzero()[:, 0].tolist() for wanted in (True, False))
        rows = comparisons.take(kept + dropped[:1])
        if dropped:
            of_dropped = comparisons.take(dropped)
            rows.log_odds[-1], rows.scores[-1] = of_dropped.log_odds.mean(), of_dropped.scores.mean(0)
            rows.num_comparisons[-1] = len(dropped)
        batches = rows.split(context.micro_batch_size)
        one = rows.rows(0, 1)
        idle = replace(one, kept=torch.zeros_like(one.kept), num_comparisons=torch.zeros_like(one.num_comparisons))
        return batches + [idle] * (context.maximum(len(batches), model.device) - len(batches))

    def loss(self, model: ModelAdapter, batch: ComparisonBatch, context: Context) -> Loss:
        assert batch.expected is not None
        policy, reference = (self.transition(model, batch, p) for p in (self.predict(model, batch), batch.expected))
        ratio_w = self.log_ratio(batch.next_latents_w, policy, reference)
        ratio_l = self.log_ratio(batch.next_latents_l, policy, reference)
        values = clamped_preference_loss(ratio_w, ratio_l, self.beta, self.clip_range)
        margin, kept = (ratio_w - ratio_l).detach(), batch.kept
        stopped = (torch.stack([ratio_w, ratio_l]).detach().exp() - 1).abs() > self.clip_range
        metrics = self.reward_metrics(batch.scores) | {
            "log_odds": batch.log_odds,
            "kept": kept.float(),
            "accuracy": ((margin.sign() + 1) / 2).where(kept, torch.nan),
            "margin": margin.where(kept, torch.nan),
            "stopped": stopped.double().mean(0).where(kept, torch.nan),
        }
        return Loss(values.where(kept, 0).float(), batch.num_comparisons, metrics)
