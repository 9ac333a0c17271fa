"""What one training learns from: its method and the losses beside it, each with its data, and what these have seen."""

import math
from collections.abc import Sequence

import numpy as np
from omegaconf import DictConfig

from alignbench.configuration.build import build, trains
from alignbench.data.prompts import PromptSet, overlap
from alignbench.data.source import DataSource, kind_of
from alignbench.errors import UserError
from alignbench.method import Method
from alignbench.stages.start import start_data, start_trained_on
from alignbench.store.run_folder import RunFolder
from alignbench.store.training_data import digests, union

Term = tuple[Method, DataSource]


def build_terms(cfg: DictConfig) -> list[Term]:
    """Build the method and the auxiliary terms, each with its data; the method comes first."""
    data = build(cfg.data)
    terms: list[Term] = [(build(cfg.method), data)]
    for node in cfg.auxiliary.values():
        terms.append((build(node.term), data if node.data == cfg.data else build(node.data)))
    return terms


def refuse_prompts(terms: Sequence[Term]) -> None:
    """Refuse prompts that a reward cannot judge.

    Raises:
        UserError: saying why.
    """
    for method, data in terms:
        if method.reward is not None and (refusal := method.reward.supports(data.prompts)):
            raise UserError(f"data={data.name} cannot be rewarded: {refusal}")


def cost_of_reward(method: Method, cfg: DictConfig) -> str | None:
    """Return what the rewards of a method will be asked for; None where it is one look at each image."""
    if method.reward is None:
        return None
    size, updates = cfg.train.total_batch_size, method.batch_multiple // method.group_size
    costs = [one.cost(size, method.group_size) for _, one in method.reward.components.values()]
    rounds = math.ceil(cfg.train.max_train_steps / updates)
    told = [
        f"{cost}; at most {rounds:,} such rounds of {updates} update{'s' * (updates > 1)}" for cost in costs if cost
    ]
    return "; ".join(told) or None


def begin_rewards(method: Method, folder: RunFolder, process: int) -> None:
    """Let the rewards of a method get ready for its training.

    Raises:
        UserError: training must not go on.
    """
    if method.reward is not None:
        for name, (_, evaluator) in method.reward.components.items():
            evaluator.begin_training(folder.rewards / name, process)


def trained_on(cfg: DictConfig, start: RunFolder | None, terms: Sequence[Term]) -> list[str]:
    """Return the names of the evaluators that training follows or takes labels from, those of its start first."""
    (method, data), *auxiliary = terms
    seen = [*start_trained_on(cfg, start), *method.trained_on]
    if kind_of(method.batch_type) != "prompts":
        seen += data.labelled_by
    for term, its_data in auxiliary:  # all of them learn from images that somebody chose
        seen += [*term.trained_on, *its_data.labelled_by]
    return list(dict.fromkeys(seen))


def training_data(cfg: DictConfig, start: RunFolder | None, terms: Sequence[Term]) -> np.ndarray:
    """Return the digests of all that training learns from: its images, its rewards' data, and its start's."""
    images = [digests(data.identities(kind_of(method.batch_type))) for method, data in terms]
    rewards = [one.training_data for method, _ in terms for one in method.followed]
    return union([*images, *rewards, start_data(cfg, start)])


def evaluation_prompts_trained_on(cfg: DictConfig, prompts: PromptSet | None) -> str | None:
    """Return the name of the prompt set if training sees any of it and that was asked for.

    Raises:
        UserError: training sees some of it and that was not asked for.
    """
    if not trains(cfg) or prompts is None:
        return None
    seen = None
    for node in (cfg.data, *(term.data for term in cfg.auxiliary.values())):
        shared = overlap(build(node).prompts, prompts)
        if shared and not cfg.train.allow_evaluation_prompts:
            raise UserError(
                f"data={node.name} trains on {len(shared)} prompts of prompts={prompts.name}, such as {shared[0]!r}; "
                "choose other data, or set train.allow_evaluation_prompts=true to mark the rows instead"
            )
        seen = prompts.name if shared else seen
    return seen
