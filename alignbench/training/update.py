"""What one update is: its micro-batches, and the gradient that they and all processes make together."""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import shorten
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from alignbench.batch import Batch, PromptBatch
from alignbench.context import Context
from alignbench.errors import UserError
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.training.parallel import Replicated

NUM_NAMED = 4  # samples that a sentence names
PROMPT_WIDTH = 60  # letters of their prompts


def rollout(
    method: Method, model: ModelAdapter, parts: Sequence[PromptBatch], context: Context
) -> Iterable[list[Batch]]:
    """Yield the micro-batches of each update: of all parts of a share, which differ in the size of their images."""
    for updates in zip(*(method.rollout(model, part, context) for part in parts), strict=True):
        yield [micro_batch for micro_batches in updates for micro_batch in micro_batches]


def autocast(updates: Iterable[list[Batch]], accelerator: Accelerator) -> Iterator[list[Batch]]:
    """Let a rollout compute in the precision of the loss, so that both call the same network."""
    iterator = iter(updates)
    while True:
        with accelerator.autocast():
            micro_batches = next(iterator, None)
        if micro_batches is None:
            return
        yield micro_batches


def update(
    method: Method,
    model: ModelAdapter,
    micro_batches: list[Batch],
    context: Context,
    parallel: Replicated,
    policy_parameters: list[nn.Parameter],
    own_parameters: list[nn.Parameter],
) -> dict[str, float]:
    """Accumulate the gradient of sum(values * weights) / sum(weights) over all micro-batches and processes.

    Returns:
        The weighted averages of the loss and of the method's metrics, each over the samples that have one.

    Raises:
        FloatingPointError: on all processes, if the loss of a sample on any of them is not finite.
        UserError: if every sample has weight 0.
    """
    accelerator = parallel.accelerator
    sums: dict[str, Tensor] = {}  # of values times weights, and of weights
    not_finite: list[Batch] = []
    for number, micro_batch in enumerate(micro_batches):
        with parallel.micro_batch(model.policy, is_last=number + 1 == len(micro_batches)):
            with accelerator.autocast():
                loss = method.loss(model, micro_batch, context)
            if rows := (~torch.isfinite(loss.values)).nonzero().flatten().tolist():
                not_finite.append(micro_batch.take(rows))
            parallel.backward((loss.values * loss.weights).sum())
        for name, values in {"loss": loss.values, **loss.metrics}.items():
            known = loss.weights.double() * ~values.isnan()
            total = (values.detach().double().nan_to_num() * known).sum()
            sums[name] = sums.get(name, 0.0) + torch.stack([total, known.sum()])

    num_not_finite = sums["loss"].new_tensor([len(not_finite), 0])
    *totals, wrong = accelerator.reduce(torch.stack([*sums.values(), num_not_finite]), reduction="sum")
    if float(wrong[0]):
        told = f"the loss of method={method.name} is not finite at update {context.step + 1}"
        raise FloatingPointError(f"{told}, {of_samples(not_finite, accelerator)}")
    weight = float(totals[0][1])
    if weight == 0:
        raise UserError(f"no sample of update {context.step + 1} counts; method={method.name} gave every one weight 0")
    for parameter in own_parameters:  # methods call their networks as they are, so nothing exchanged these gradients
        if parameter.grad is not None:
            parameter.grad = cast(Tensor, accelerator.reduce(parameter.grad, reduction="mean"))
    # distributed training averages over processes what should be a sum over samples
    parallel.collect(policy_parameters + own_parameters, accelerator.num_processes / weight)
    return {name: float(total / known) for name, (total, known) in zip(sums, totals, strict=True) if known > 0}


def of_samples(batches: Sequence[Batch], accelerator: Accelerator) -> str:
    """Name the samples of some batches of all processes, as in `of sample 12 ('a red circle')`.

    The number is the sample's place in the run.
    """
    samples = cast(Sequence[PromptBatch], batches)
    found = [(int(i), prompt) for batch in samples for i, prompt in zip(batch.index, batch.prompts, strict=True)]
    if accelerator.num_processes > 1:
        found = gather_object(found)
    found = sorted(dict.fromkeys(found))
    names = [f"{index} ({shorten(prompt, PROMPT_WIDTH, placeholder='...')!r})" for index, prompt in found[:NUM_NAMED]]
    more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
    return f"of sample{'s' * (len(found) > 1)} {', '.join(names)}{more}"


def take_gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return the gradients and leave none behind."""
    taken = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return taken


def add_gradients(parameters: list[nn.Parameter], gradients: Sequence[Tensor], weight: float) -> None:
    """Add `weight` times `gradients` to those of the parameters."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = weight * gradient if parameter.grad is None else parameter.grad.add_(gradient, alpha=weight)
