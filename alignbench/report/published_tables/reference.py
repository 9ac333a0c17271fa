"""Hold the published rows of this folder beside our own."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.published_tables.values import PublishedValue
from alignbench.report.tables import Tables
from alignbench.statistics.resampling import Estimate
from alignbench.store.image_records import SamplingRecord
from alignbench.store.manifest import BASE
from alignbench.store.scores import ScoreInfo


@dataclass(frozen=True)
class Match:
    """A printed figure beside our own.

    Attributes:
        own: our figure with its 95 % interval, in the printed scale.
        gap: own minus printed, in half-widths of that interval; NaN where it has none.
        verdict: `within the interval`, `outside`, or `not comparable: ` and the reasons.
    """

    published: PublishedValue
    method: str
    own: Estimate
    gap: float
    verdict: str


def matches(tables: Tables, model: str, prompt_set: str, published: Iterable[PublishedValue]) -> list[Match]:
    """Return the printed figures that our tables have a counterpart of, in the order of the printed ones."""
    rows = [
        row for row in tables.leaderboard if (row["model"], row["prompt_set"], row["group"]) == (model, prompt_set, ALL)
    ]
    return [match for entry in published for match in _matches(tables, model, prompt_set, rows, entry)]


def _matches(
    tables: Tables, model: str, prompt_set: str, rows: Sequence[TableRow], entry: PublishedValue
) -> Iterator[Match]:
    if entry.variant or (entry.model, entry.prompt_set) != (model, prompt_set.partition("@")[0]):
        return
    sampling = tables.samplings[model, prompt_set]
    for row in rows:
        if (row["evaluator"], row["method"].partition("@")[0]) != (entry.evaluator, entry.method):
            continue
        info = tables.evaluators[row["evaluator"], row["version"]]
        own = own_figure(tables, row, entry)
        if own is None:
            continue
        own = Estimate(*(entry.scale * end for end in (own.value, own.low, own.high)))
        half_width = (own.high - own.low) / 2
        gap = (own.value - entry.value) / half_width if half_width > 0 else math.nan
        reasons = [one.told for one in obstacles(entry, row, sampling, info, tables.starts[model, row["method"]])]
        if reasons:
            verdict = f"not comparable: {'; '.join(reasons)}"
        else:
            verdict = "within the interval" if own.low <= entry.value <= own.high else "outside"
        yield Match(entry, row["method"], own, gap, verdict)


def own_figure(tables: Tables, row: TableRow, entry: PublishedValue) -> Estimate | None:
    """Return our figure of the printed kind, in the evaluator's own scale; None where we have none."""
    if entry.statistic in ("median", "mean"):
        return Estimate(
            *(row[name] for name in (entry.statistic, f"{entry.statistic}_ci_low", f"{entry.statistic}_ci_high"))
        )
    if entry.opponent == BASE:
        figures = (row["win_rate_vs_base"], row["win_ci_low"], row["win_ci_high"])
        return None if math.isnan(row["win_rate_vs_base"]) else Estimate(*figures)
    key = {name: row[name] for name in ("model", "prompt_set", "group", "evaluator")}
    for pair in tables.win_rates:
        if key.items() <= pair.items():
            value, low, high = pair["win_rate"], pair["ci_low"], pair["ci_high"]
            if (pair["method_a"], pair["method_b"]) == (row["method"], entry.opponent):
                return Estimate(value, low, high)
            if (pair["method_b"], pair["method_a"]) == (row["method"], entry.opponent):
                return Estimate(1 - value, 1 - high, 1 - low)
    return None


class Obstacle(NamedTuple):
    """What keeps a printed figure and ours apart.

    Attributes:
        is_unstated: the source does not say how it was there, so that it may have been the same.
    """

    told: str
    is_unstated: bool = False


def obstacles(
    entry: PublishedValue, row: TableRow, sampling: SamplingRecord, info: ScoreInfo, from_checkpoint: bool
) -> Iterator[Obstacle]:
    """Yield what keeps a printed figure and ours apart.

    Args:
        row: ours, of `leaderboard.csv`.
        from_checkpoint: whether our training started from a checkpoint instead of the untouched model.
    """
    if entry.obstacle:
        yield Obstacle(entry.obstacle)
    if row["subset"]:
        yield Obstacle("fewer prompts here")
    if entry.evaluator_version not in ("", info.version):
        yield Obstacle(f"version {info.version} here, {entry.evaluator_version} there")
    if not entry.noise:
        yield Obstacle("noise not stated", is_unstated=True)
    elif sampling.noise != entry.noise:
        yield Obstacle(f"noise {sampling.noise} here, {entry.noise} there")
    if entry.guidance_scale is None:
        yield Obstacle("guidance not stated", is_unstated=True)
    elif sampling.guidance_scale != entry.guidance_scale:
        yield Obstacle(f"guidance {sampling.guidance_scale} here, {entry.guidance_scale:g} there")
    if sampling.base_bits is not None:
        yield Obstacle(f"network in {sampling.base_bits} bits here")
    for name in ("negative_prompt", "true_cfg_scale", "control"):  # of which no published table knows
        if getattr(sampling, name) is not None:
            yield Obstacle(f"{name} here")
    if not entry.start:
        yield Obstacle("start not stated", is_unstated=True)
    elif from_checkpoint != (entry.start != "base"):
        yield Obstacle(f"start {'a checkpoint' if from_checkpoint else 'base'} here, {entry.start} there")
