"""What the runs of a results folder say of a row: which run is the row's, how it differs from it, and its figures."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder

# where weights and data lie, which does not say what they are
LOCATIONS = ("data.path", "data.revision", "model.policy", "model.policy_revision", "model.revision", "model.config",
             "model.pretrained_model_name_or_path", "model.adapter.pipeline")  # fmt: skip
# how an update is computed, which changes no more than rounding
DIVISIONS = ("train.micro_batch_size", "train.gradient_checkpointing", "train.decode_checkpointing",
             "method.rollout_batch_size")  # fmt: skip
# what no printed figure says of images; of guidance and noise most do
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
            f"{shlex.quote(f'results={results}')}{hint}"
        )
    tables = build(results, folders=there.runs, studies=there.studies, verdicts=there.verdicts, reader=there.reader)
    expected = figures(row)
    opponents = _opponents(row, {one.printed.opponent for one in expected}, there.runs, tables)
    place = _Place(row, own_configuration(row), found, tables, opponents)
    return found, [place.measured(one) for one in expected]


def _opponents(row: Row, names: set[str], runs: Sequence[RunFolder], tables: Tables) -> dict[str, str | None]:
    """Return how the tables call the opponents of a row's win rates; None where their rows have no run here."""
    labels: dict[str, str | None] = {BASE: BASE} | dict.fromkeys(names - {"", BASE})
    for other in read_rows().values() if len(labels) > 1 else ():
        if _table_of(other) == _table_of(row) and not other.variant and labels.get(other.method, "") is None:
            found = find_run(other, runs)
            if found is not None and not found.differences:
                labels[other.method] = tables.labels[found.run.name]
    return labels


def _table_of(row: Row) -> tuple[str, ...]:
    return row.paper, row.table, row.model, row.prompts


@dataclass(frozen=True)
class _Place:
    """A row in the tables of a results folder.

    Attributes:
        opponents: how the tables call those of its win rates.
    """

    row: Row
    cfg: DictConfig
    found: Found
    tables: Tables
    opponents: dict[str, str | None]

    @cached_property
    def prompt_set(self) -> str | None:
        """How the tables call the row's prompt set; of several samplings, the one that is most like the row's."""
        own = {one["prompt_set"] for one in self.tables.leaderboard if self.found.run.name in one["run"].split()}
        names = sorted(name for name in own if name.partition("@")[0] == self.row.prompts)
        settings = ("guidance_scale", "noise", *SAMPLED)
        return min(names, key=lambda name: len(list(self._sampled_otherwise(name, settings))), default=None)

    def _sampled_otherwise(self, prompt_set: str, settings: Sequence[str]) -> Iterator[str]:
        """Yield how images were made otherwise than the row makes them."""
        sampling = self.tables.samplings[self.cfg.model.name, prompt_set]
        for name in settings:
            here, own = getattr(sampling, name), self.cfg.sampling[name]
            if here != own and not (name == "resolution" and here is None):  # None is the model's own, as in the row
                yield f"sampling.{name}={shown(here)} here, {shown(own)} in the row"

    def measured(self, figure: Figure) -> Measured:
        """Return what is found of one figure."""
        printed, prompt_set = figure.printed, self.prompt_set
        if prompt_set is None:
            return Measured(figure, None, missing=f"no scores on {self.row.prompts}")
        scored = [one for one in self.tables.leaderboard if self._is_own(one) and one["evaluator"] == printed.evaluator]
        if not scored:
            return Measured(figure, None, missing=printed.obstacle or f"no scores by {printed.evaluator}")
        opponent = self.opponents[printed.opponent] if printed.opponent else ""
        if opponent is None:
            return Measured(figure, None, missing=f"no run of {printed.opponent} as in its own row, to compare with")
        own = own_figure(self.tables, scored[0], replace(printed, opponent=opponent))
        if own is None:
            return Measured(figure, None, missing=f"nothing compares it with {printed.opponent}")
        sampling = self.tables.samplings[self.row.model, prompt_set]
        info = self.tables.evaluators[printed.evaluator, scored[0]["version"]]
        started = self.tables.starts[self.row.model, scored[0]["method"]]
        kept_apart = [one.told for one in obstacles(printed, scored[0], sampling, info, started) if not one.is_unstated]
        untold = {"guidance_scale": printed.guidance_scale is None, "noise": not printed.noise}
        otherwise = self._sampled_otherwise(prompt_set, (*(name for name, is_so in untold.items() if is_so), *SAMPLED))
        return Measured(figure, own, (*kept_apart, *self.found.differences, *otherwise))

    def _is_own(self, row: TableRow) -> bool:
        """Say whether a row of the leaderboard is of the run, on the whole prompt set."""
        return self.found.run.name in row["run"].split() and (row["prompt_set"], row["group"]) == (self.prompt_set, ALL)
