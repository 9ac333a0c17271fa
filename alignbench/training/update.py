"""What one update is: its micro-batches, the gradient that they and all processes make together, and its figures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class Figures:
    """What is logged of the loss of one method in one update, on the device.

    Attributes:
        method: its name.
        number: of the update, counted from 1.
        names: of what is logged: `loss` first, then the method's metrics.
        totals: sum of values times weights, and sum of weights, of each, over all processes, [2, len(names) + 1],
            float64; the last column is the number of samples whose loss is not finite, twice.
        micro_batches: of this process.
        not_finite: whether the loss of a sample is not finite, [B] for each micro-batch.
    """

    method: str
    number: int
    names: list[str]
    totals: Tensor
    micro_batches: list[Batch]
    not_finite: list[Tensor]

    def averages(self, totals: Sequence[float], accelerator: Accelerator) -> dict[str, float]:
        """Return the weighted averages of the loss and of the metrics, each over the samples that have one.

        Args:
            totals: the numbers of `self.totals`, row by row.

        Raises:
            FloatingPointError: on all processes, if the loss of a sample on any of them is not finite.
            UserError: if every sample has weight 0.
        """
        sums, weights = totals[: len(self.names)], totals[len(self.names) + 1 : -1]
        if totals[-1]:
            rows = [rows.nonzero().flatten().tolist() for rows in self.not_finite]
            wrong = [batch.take(its) for batch, its in zip(self.micro_batches, rows, strict=True) if its]
            told = f"the loss of method={self.method} is not finite at update {self.number}"
            raise FloatingPointError(f"{told}, {of_samples(wrong, accelerator)}")
        if weights[0] == 0:
            raise UserError(f"no sample of update {self.number} counts; method={self.method} gave every one weight 0")
        rows = zip(self.names, sums, weights, strict=True)
        return {name: total / weight for name, total, weight in rows if weight > 0}


def read(
    figures: Sequence[tuple[str, Figures]], beside: Mapping[str, Tensor], accelerator: Accelerator
) -> tuple[dict[str, float], dict[str, float]]:
    """Wait for the device and bring all figures of an update to the CPU in one copy.

    Args:
        figures: of each loss, with what its names begin with.
        beside: further numbers, [] each.

    Returns:
        The averages of all losses, and the further numbers.

    Raises:
        FloatingPointError, UserError: see `Figures.averages`.
    """
    parts = [*(one.totals.flatten() for _, one in figures), *(one.double().reshape(1) for one in beside.values())]
    numbers = torch.cat(parts).tolist()
    averages: dict[str, float] = {}
    for prefix, one in figures:
        its, numbers = numbers[: one.totals.numel()], numbers[one.totals.numel() :]
        averages |= {f"{prefix}{name}": value for name, value in one.averages(its, accelerator).items()}
    return averages, dict(zip(beside, numbers, strict=True))


def update(
    method: Method,
    model: ModelAdapter,
    micro_batches: list[Batch],
    context: Context,
    parallel: Replicated,
    policy_parameters: list[nn.Parameter],
    own_parameters: list[nn.Parameter],
) -> Figures:
    """Accumulate the gradient of sum(values * weights) / sum(weights) over all micro-batches and processes.

    Nothing here waits for the device. Whether the gradient may be used is known when the figures are read.
    """
    accelerator = parallel.accelerator
    names: list[str] = []
    sums: Tensor | float = 0.0  # of values times weights, and of weights, of each name
    not_finite: list[Tensor] = []
    for number, micro_batch in enumerate(micro_batches):
        with parallel.micro_batch(model.policy, is_last=number + 1 == len(micro_batches)):
            with accelerator.autocast():
                loss = method.loss(model, micro_batch, context)
            parallel.backward((loss.values * loss.weights).sum())
        not_finite.append(~torch.isfinite(loss.values))
        if names not in ([], ["loss", *loss.metrics]):
            raise ValueError(f"the losses of method={method.name} have other metrics in each micro-batch of an update")
        names = ["loss", *loss.metrics]
        values = torch.stack([value.detach().double() for value in (loss.values, *loss.metrics.values())])
        known = loss.weights.double() * ~values.isnan()
        sums = sums + torch.stack([(values.nan_to_num() * known).sum(1), known.sum(1)])

    num_not_finite = torch.cat(not_finite).sum().double().expand(2, 1)
    totals = cast(Tensor, accelerator.reduce(torch.cat([cast(Tensor, sums), num_not_finite], dim=1), reduction="sum"))
    for parameter in own_parameters:  # methods call their networks as they are, so nothing exchanged these gradients
        if parameter.grad is not None:
            parameter.grad = cast(Tensor, accelerator.reduce(parameter.grad, reduction="mean"))
    # distributed training averages over processes what should be a sum over samples
    parallel.collect(policy_parameters + own_parameters, accelerator.num_processes / totals[1, 0])
    return Figures(method.name, context.step + 1, names, totals, micro_batches, not_finite)


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
