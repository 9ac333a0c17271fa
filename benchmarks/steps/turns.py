"""Let the program and plain steps take turns in the program's own loop, and time each turn."""

import io
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.context import Context
from alignbench.evaluator import Evaluator
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import draw_spread_timesteps
from alignbench.objectives.inverted_pairs import draw_order
from alignbench.stages.prepare import Preparation, build_adapter
from alignbench.stages.training_terms import build_terms
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import train as train_by_program
from alignbench.training.validation import Validation
from alignbench.work_share import WorkShare
from benchmarks.reference_steps.build import Parts, plain_step
from benchmarks.reference_steps.model import Draws, Sample
from benchmarks.reference_steps.rewards import PlainReward
from benchmarks.reference_steps.step import PlainStep
from benchmarks.reference_steps.step import train as train_plainly
from benchmarks.steps.data import read_samples
from benchmarks.steps.interval import Interval
from benchmarks.steps.meter import Meter
from benchmarks.steps.rows import COMMON, Against, Row
from evaluators.clip_reward import ClipReward

CPU = torch.device("cpu")


@dataclass
class Turns:
    """What one side did, turn by turn.

    Attributes:
        name: `alignbench`, or the micro-batch of a plain step.
        meter: counts its network passes.
        seconds: CPU seconds of each turn.
        network_seconds: of these, those inside networks.
        rows: rows that went through each network in each turn.
        all_seconds: CPU seconds inside each network in all turns.
    """

    name: str
    meter: Meter = field(default_factory=Meter)
    seconds: list[float] = field(default_factory=list)
    network_seconds: list[float] = field(default_factory=list)
    rows: list[Counter[str]] = field(default_factory=list)
    all_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def note(self, seconds: float) -> None:
        """End a turn."""
        self.seconds.append(seconds)
        self.network_seconds.append(self.meter.total)
        self.rows.append(self.meter.rows.copy())
        for name, inside in self.meter.seconds.items():
            self.all_seconds[name] += inside
        self.meter.clear()

    def row_seconds(self) -> dict[str, float]:
        """Return CPU seconds of one row in each network, mean over all turns."""
        rows = sum(self.rows, Counter())
        return {name: self.all_seconds[name] / rows[name] for name in sorted(rows)}


class SameTimesteps(Draws):
    """Fresh random numbers but for timesteps: those are the program's, because they decide how long an inversion is.

    Several timesteps of a sample are the points that the program makes of one inversion, in its order.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    def timesteps(self, adapter: ModelAdapter, rows: Sequence[int]) -> Tensor:
        generators = [self.context.sample_generator(row, "timesteps") for row in rows]
        return torch.cat([adapter.sample_timesteps(1, generator) for generator in generators])

    def points(self, adapter: ModelAdapter, rows: Sequence[int], num: int) -> Tensor:
        if num == 1:
            return super().points(adapter, rows, num)
        index, latents = torch.tensor(rows), torch.empty(len(rows), *adapter.latent_shape)
        timesteps = draw_spread_timesteps(adapter, index, latents, num, self.context)
        return timesteps.gather(1, draw_order(index, num, self.context))


class Plain(Turns):
    """A plain step that has turns."""

    def __init__(
        self,
        name: str,
        step: PlainStep,
        reward: Evaluator | None,
        samples: Iterator[Sequence[Sample]],
        train: DictConfig,
    ) -> None:
        super().__init__(name)
        self.step, self.samples, self.max_norm = step, samples, train.max_grad_norm
        self.optimizer = build(train.optimizer)(step.model.parameters, lr=train.learning_rate)
        self.meter.watch(step.model.adapter, reward)

    def turn(self) -> float:
        """Train on one batch; return CPU seconds of this thread."""
        samples = next(self.samples)
        began = time.thread_time()
        with self.meter.counting():
            train_plainly(self.step, samples, self.optimizer, self.max_norm)
        seconds = time.thread_time() - began
        self.note(seconds)
        return seconds


class Referee:
    """Stands where the loop looks for somebody to validate, which it does before each rollout; lets the others turn.

    The program's time of a turn is that of the whole process without the plain steps: threads that work for it while
    they have their turns count.
    """

    best_step = None
    exhausted = False

    def __init__(self, program: Turns, others: Sequence[Plain]) -> None:
        self.program, self.others = program, others
        self._began: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def due(self, step: int, network_passes: int, is_end: bool = False) -> bool:
        """End the program's turn, and have one of each other."""
        now = time.process_time()
        if self._began is not None:
            self.program.note(now - self._began)
        self._began = now
        if not is_end:
            self._began += sum(other.turn() for other in self.others)
        return False


@dataclass(frozen=True)
class Measured:
    """One row: what the program and the plain steps did in turns; the first turn, which warms up, is left out.

    Attributes:
        batch: samples that are trained in a turn; one that is trained at several points counts at each of them.
    """

    row: Row
    model: str
    batch: int
    program: Turns
    others: Sequence[Turns]

    def ratio(self, other: Turns) -> Interval:
        """Return how many times as much CPU time as the program a plain step took."""
        return Interval.of(_ratios(other.seconds, self.program.seconds))

    def ceiling(self, other: Turns) -> Interval:
        """Return that ratio if the program's network passes were all that it did."""
        return Interval.of(_ratios(other.seconds, self.program.network_seconds))

    def outside(self, one: Turns) -> Interval:
        """Return the share of a turn outside networks, 0..1, optimizer included."""
        shares = [1 - inside / all_of_it for inside, all_of_it in zip(one.network_seconds, one.seconds, strict=True)]
        return Interval.of(shares[1:])

    def passes(self, one: Turns) -> dict[str, float]:
        """Return the rows of each network for each trained sample, mean over turns."""
        total = sum(one.rows[1:], Counter())
        return {name: rows / self.batch / len(one.rows[1:]) for name, rows in sorted(total.items())}


def _ratios(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(seconds[1:], others[1:], strict=True)]


def measure(row: Row, model: str | None, data: Path, updates: int, overrides: Sequence[str] = ()) -> Measured:
    """Measure one row.

    Args:
        model: in place of the row's own.
        data: folder of pairs.
        updates: turns after the first.
        overrides: further settings, of the program and of the plain steps.
    """
    command = [f"model={model or row.model}", f"method={row.method}", "data=local", f"data.path={data}"]
    cfg = composed([*command, *COMMON, *row.options, *overrides])
    num_points = cfg.method.get("points_per_inversion", 1)
    cfg.train.max_train_steps = (updates + 1) * cfg.method.get("updates_per_round", num_points)
    with (
        tempfile.TemporaryDirectory() as temporary,
        redirect_stderr(io.StringIO()),  # no progress bars
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="ReNoise does not contract")  # few steps on few pixels
        root = Path(temporary)
        others = [_plain(cfg, against) for against in row.against]
        program = _by_program(cfg, root, others, row.prepared)
    return Measured(row, cfg.model.name, cfg.train.total_batch_size * num_points, program, others)


def _by_program(cfg: DictConfig, root: Path, others: Sequence[Plain], prepared: bool) -> Turns:
    """Train by the program, as its train stage does, and let plain steps have turns in between."""
    terms, left_out = build_terms(cfg), list[str]()
    if prepared:
        preparation = Preparation(cfg, terms, root / "cache", CPU)
        preparation.run(WorkShare(), Console(file=io.StringIO()))
        left_out = preparation.left_out()
    (method, source), *_ = terms
    model, program = build_adapter(cfg.model, left_out), Turns("alignbench")
    program.meter.watch(model, method.reward)
    referee = Referee(program, others)
    with program.meter.counting():
        train_by_program(
            cfg,
            model,
            method,
            source,
            RunFolder(root / "run"),
            Accelerator(cpu=True),
            validation=cast(Validation, referee),
        )
    return program


def _plain(cfg: DictConfig, against: Against) -> Plain:
    """Return a plain step that takes its samples from the same files."""
    method, adapter = build(cfg.method), build(cfg.model.adapter)
    micro_batch_size = cfg.train.micro_batch_size if against == "equal" else against
    samples = read_samples(Path(cfg.data.path), method.batch_type, method.scorer)
    reward = PlainReward(method.reward) if isinstance(method.reward, ClipReward) else None
    features = None
    if method.name == "srpo":
        features = {text: adapter.encode_prompts([text]) for text in {sample.prompt for sample in samples}}
    scores = [score for sample in samples for score in sample.scores] or [0.0, 1.0]
    draws = SameTimesteps(Context(0, cfg.seed, micro_batch_size))
    parts = Parts(cfg.method, adapter, micro_batch_size, draws, reward, (min(scores), max(scores)), features)
    name = f"micro-batch {micro_batch_size}"
    turns = batches(samples, method.group_size, cfg.train.total_batch_size)
    return Plain(name, plain_step(parts), method.reward, turns, cfg.train)


def batches(samples: Sequence[Sample], group_size: int, size: int) -> Iterator[list[Sample]]:
    """Yield batches without end, each sample `group_size` times in a row, numbered as the program numbers its own."""
    endless = enumerate(cycle(sample for sample in samples for _ in range(group_size)))
    while True:
        yield [replace(sample, index=number) for number, sample in islice(endless, size)]
