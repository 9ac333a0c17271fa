"""What the runs of a results folder say of a row: which run is the row's, how it differs from it, and its figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import recipe, run_name
from alignbench.configuration.compose import composed
from alignbench.configuration.run_config import read_plain_config
from alignbench.errors import UserError
from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.published_tables.reference import obstacles, own_figure
from alignbench.report.readable import readable
from alignbench.report.tables import Tables, build
from alignbench.reproduce.rows import Figure, Row, figures, read_rows
from alignbench.reproduce.verdict import Measured
from alignbench.settings.section import shown
from alignbench.store.image_records import SamplingRecord
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder

# where weights and data lie, which does not say what they are
LOCATIONS = ("data.path", "data.revision", "model.policy", "model.policy_revision", "model.revision", "model.config",
             "model.pretrained_model_name_or_path", "model.adapter.pipeline")  # fmt: skip
# how an update is computed, which changes no more than rounding
DIVISIONS = ("train.micro_batch_size", "train.gradient_checkpointing", "train.decode_checkpointing",
             "method.rollout_batch_size")  # fmt: skip
SAMPLED = ("num_inference_steps", "scheduler", "resolution", "num_images_per_prompt", "seed", "strength")


@dataclass(frozen=True)
class Found:
    """The run of a row.

    Attributes:
        differences: settings that are not those of the row, as text; empty where all are.
    """

    run: RunFolder
    differences: tuple[str, ...]


def own_configuration(row: Row) -> DictConfig:
    """Return the configuration of a row, as its command composes it without weights or data."""
    return composed([*row.command, "dry_run=true"])


def find_run(row: Row, runs: Sequence[RunFolder]) -> Found | None:
    """Return the run of a row, or the one that is most like it; None where no run has its method on its model."""
    cfg = own_configuration(row)
    own = _flat(recipe(cfg))
    found = []
    for run in runs:
        manifest = run.manifest
        if (manifest.model, manifest.method) == (cfg.model.name, cfg.method.name):
            there = OmegaConf.create(read_plain_config(run.config_file) | {"dry_run": True})
            assert isinstance(there, DictConfig)
            found.append(Found(run, tuple(_differences(own, _flat(recipe(there))))))
    return min(found, key=lambda one: (len(one.differences), one.run.name != run_name(cfg)), default=None)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _differences(own: dict[str, Any], there: dict[str, Any]) -> Iterator[str]:
    """Yield the settings of a run that are not those of a row."""
    for key in sorted(own.keys() | there.keys()):
        if key.startswith(LOCATIONS) or key in DIVISIONS or own.get(key) == there.get(key):
            continue
        yield f"{key}={shown(there.get(key))} here, {shown(own.get(key))} in the row"


def measure(row: Row, results: Path) -> tuple[Found, list[Measured]]:
    """Return the run of a row in a results folder, and what it says of each printed figure.

    Raises:
        UserError: the folder holds no run of the row, or the run is damaged.
    """
    if not results.is_dir():
        raise UserError(f"{results} is no folder; give the results of finished runs by --results FOLDER")
    there = readable(results)
    found = find_run(row, there.runs)
    if found is None:
        hint = "".join(f"; {name} is left out: {why}" for name, why in there.left_out.items())
        raise UserError(
            f"{results} holds no run of {row.id}; make one by: python -m alignbench.reproduce {row.id} "
            f"results={results}{hint}"
        )
    tables = build(results, folders=there.runs, studies=there.studies, verdicts=there.verdicts, reader=there.reader)
    cfg = own_configuration(row)
    prompt_set = _prompt_set(tables, row, cfg)
    opponents = _opponents(row, there.runs, tables)
    measured = [_measured(one, row, found, tables, prompt_set, cfg, opponents) for one in figures(row)]
    return found, measured


def _prompt_set(tables: Tables, row: Row, cfg: DictConfig) -> str | None:
    """Return the row's prompt set by its name in the tables; of several samplings, the one that is most like the row's."""
    names = [name for model, name in tables.samplings if model == cfg.model.name and name.partition("@")[0] == row.prompts]
    return min(names, key=lambda name: len(list(_sampled(tables.samplings[cfg.model.name, name], cfg))), default=None)


def _sampled(sampling: SamplingRecord, cfg: DictConfig) -> Iterator[str]:
    """Yield how images were made otherwise than the row makes them; the printed figures say more of guidance and noise."""
    for name in ("guidance_scale", "noise", *SAMPLED):
        here, own = getattr(sampling, name), cfg.sampling[name]
        if name == "resolution" and here is None:
            here = own
        if here != own:
            yield f"sampling.{name}={shown(here)} here, {shown(own)} in the row"


def _opponents(row: Row, runs: Sequence[RunFolder], tables: Tables) -> dict[str, str | None]:
    """Return how the tables call the opponents of a row's win rates; None where their rows have no run here."""
    labels: dict[str, str | None] = {BASE: BASE}
    for other in read_rows().values():
        is_beside = (other.paper, other.table, other.model, other.prompts) == (row.paper, row.table, row.model, row.prompts)
        if is_beside and not other.variant and other.method not in labels:
            found = find_run(other, runs)
            labels[other.method] = None if found is None or found.differences else tables.labels[found.run.name]
    return labels


def _measured(
    figure: Figure,
    row: Row,
    found: Found,
    tables: Tables,
    prompt_set: str | None,
    cfg: DictConfig,
    opponents: dict[str, str | None],
) -> Measured:
    printed = figure.printed
    if prompt_set is None:
        return Measured(figure, None, missing=f"no scores on {row.prompts}")
    scored = [one for one in tables.leaderboard if _is_of(one, found.run, prompt_set) and one["evaluator"] == printed.evaluator]
    if not scored:
        return Measured(figure, None, missing=printed.obstacle or f"no scores by {printed.evaluator}")
    opponent = opponents.get(printed.opponent) if printed.opponent else ""
    if opponent is None:
        return Measured(figure, None, missing=f"no run of {printed.opponent} as in its own row, to compare with")
    own = own_figure(tables, scored[0], replace(printed, opponent=opponent))
    if own is None:
        return Measured(figure, None, missing=f"nothing compares it with {printed.opponent}")
    sampling = tables.samplings[row.model, prompt_set]
    info = tables.evaluators[printed.evaluator, scored[0]["version"]]
    started = tables.starts[row.model, scored[0]["method"]]
    kept_apart = [one.told for one in obstacles(printed, scored[0], sampling, info, started) if not one.is_unstated]
    return Measured(figure, own, (*kept_apart, *found.differences, *_more(_sampled(sampling, cfg), kept_apart)))


def _is_of(row: TableRow, run: RunFolder, prompt_set: str) -> bool:
    return run.name in row["run"].split() and (row["prompt_set"], row["group"]) == (prompt_set, ALL)


def _more(sampled: Iterator[str], told: Sequence[str]) -> list[str]:
    """Return how images were made otherwise, without what is told of noise and guidance already."""
    told_of = {one.split()[0] for one in told}
    return [one for one in sampled if one.removeprefix("sampling.").partition("=")[0].partition("_")[0] not in told_of]
