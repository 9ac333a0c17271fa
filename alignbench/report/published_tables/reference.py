"""Hold the published rows of this folder beside our own."""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.tables import Tables
from alignbench.statistics.resampling import Estimate
from alignbench.store.image_records import SamplingRecord
from alignbench.store.manifest import BASE, ResultsError
from alignbench.store.scores import ScoreInfo

NAMES = ("paper", "arxiv_id", "table", "model", "method", "evaluator")  # never empty
FOLDER = Path(__file__).resolve().parent
STATISTICS = ("median", "mean", "win_rate", "share")


@dataclass(frozen=True)
class PublishedValue:
    """One printed figure; the columns are explained in `README.md` beside this module.

    Attributes:
        value: as printed, `scale` times the evaluator's own scale.
        guidance_scale: None where the source does not say.
    """

    paper: str
    arxiv_id: str
    table: str
    model: str
    method: str
    variant: str
    opponent: str
    prompt_set: str
    evaluator: str
    evaluator_version: str
    statistic: str
    value: float
    scale: float
    start: str
    guidance_scale: float | None
    noise: str
    obstacle: str


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


def load(folder: Path = FOLDER) -> list[PublishedValue]:
    """Read all tables of a folder, in the order of their names.

    Raises:
        ResultsError: when a table has other columns, or a cell that cannot be what its column says.
    """
    columns = [entry.name for entry in fields(PublishedValue)]
    rows = []
    for file in sorted(Path(folder).glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            if reader.fieldnames != columns:
                raise ResultsError(f"{file} has the columns {reader.fieldnames}, expected {columns}")
            rows += [_parsed(row, f"{file}, line {reader.line_num}") for row in reader]
    return rows


def _parsed(row: dict[str, str], location: str) -> PublishedValue:
    problems = [f"{name} is empty" for name in NAMES if not row[name]]
    if row["statistic"] not in STATISTICS:
        problems.append(f"statistic is {row['statistic']!r}, expected one of {', '.join(STATISTICS)}")
    if row["noise"] not in ("", "constant", "per_prompt"):
        problems.append(f"noise is {row['noise']!r}, expected constant, per_prompt or nothing")
    if (row["statistic"] == "win_rate") != bool(row["opponent"]):
        problems.append("a win rate needs an opponent, and nothing else has one")
    if not (row["prompt_set"] or row["obstacle"]):
        problems.append("prompt_set is empty; say under obstacle why")
    values: dict[str, Any] = dict(row)
    for name in ("value", "scale", "guidance_scale"):
        try:
            values[name] = float(row[name]) if row[name] or name != "guidance_scale" else None
        except ValueError:
            problems.append(f"{name} is {row[name]!r}, expected a number")
    if values["scale"] not in (1.0, 100.0):
        problems.append(f"scale is {row['scale']}, expected 1 or 100")
    if problems:
        raise ResultsError(f"{location}: {'; '.join(problems)}")
    return PublishedValue(**values)


def matches(tables: Tables, model: str, prompt_set: str, published: Iterable[PublishedValue]) -> list[Match]:
    """Return the printed figures that our tables have a counterpart of, in the order of the printed ones."""
    return [match for entry in published for match in _matches(tables, model, prompt_set, entry)]


def _matches(tables: Tables, model: str, prompt_set: str, entry: PublishedValue) -> Iterator[Match]:
    if entry.variant or (entry.model, entry.prompt_set) != (model, prompt_set.partition("@")[0]):
        return
    sampling = tables.samplings[model, prompt_set]
    for row in tables.leaderboard:
        key = (row["model"], row["prompt_set"], row["group"], row["evaluator"], row["method"].partition("@")[0])
        if key != (model, prompt_set, ALL, entry.evaluator, entry.method):
            continue
        info = tables.evaluators[row["evaluator"], row["version"]]
        own = _own(tables, row, entry)
        if own is None:
            continue
        own = Estimate(*(entry.scale * end for end in (own.value, own.low, own.high)))
        half_width = (own.high - own.low) / 2
        gap = (own.value - entry.value) / half_width if half_width > 0 else math.nan
        reasons = list(_obstacles(entry, row, sampling, info, tables.starts[model, row["method"]]))
        if reasons:
            verdict = f"not comparable: {'; '.join(reasons)}"
        else:
            verdict = "within the interval" if own.low <= entry.value <= own.high else "outside"
        yield Match(entry, row["method"], own, gap, verdict)


def _own(tables: Tables, row: TableRow, entry: PublishedValue) -> Estimate | None:
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


def _obstacles(
    entry: PublishedValue, row: TableRow, sampling: SamplingRecord, info: ScoreInfo, from_checkpoint: bool
) -> Iterator[str]:
    """Say what keeps a printed figure and ours apart."""
    if entry.obstacle:
        yield entry.obstacle
    if row["subset"]:
        yield "fewer prompts here"
    if entry.evaluator_version not in ("", info.version):
        yield f"version {info.version} here, {entry.evaluator_version} there"
    if not entry.noise:
        yield "noise not stated"
    elif sampling.noise != entry.noise:
        yield f"noise {sampling.noise} here, {entry.noise} there"
    if entry.guidance_scale is None:
        yield "guidance not stated"
    elif sampling.guidance_scale != entry.guidance_scale:
        yield f"guidance {sampling.guidance_scale} here, {entry.guidance_scale:g} there"
    if sampling.base_bits is not None:
        yield f"network in {sampling.base_bits} bits here"
    for name in ("negative_prompt", "true_cfg_scale", "control"):  # of which no published table knows
        if getattr(sampling, name) is not None:
            yield f"{name} here"
    if not entry.start:
        yield "start not stated"
    elif from_checkpoint != (entry.start != "base"):
        yield f"start {'a checkpoint' if from_checkpoint else 'base'} here, {entry.start} there"
