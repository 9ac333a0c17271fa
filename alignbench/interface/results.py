"""Read a results folder into pandas tables."""

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from alignbench.reading import read_json_lines
from alignbench.report.columns import (
    BEST_SETTING_COLUMNS,
    COMPARER_COLUMNS,
    DIAGNOSTIC_COLUMNS,
    GUIDANCE_COLUMNS,
    LEADERBOARD_COLUMNS,
    RANKING_COLUMNS,
    SENSITIVITY_COLUMNS,
    TURNING_POINT_COLUMNS,
    WIN_RATE_COLUMNS,
    read_table,
)
from alignbench.report.comparison import ALL
from alignbench.report.conflicts.scores import conflicts
from alignbench.report.contenders import Measurement
from alignbench.report.labels import recipe_labels, strength_label
from alignbench.report.readable import readable
from alignbench.report.tables import measurements
from alignbench.scoring.evidence import read_evidence
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder, run_folders

RUN_COLUMNS = ("model", "method", "run", "seed")
EVIDENCE_COLUMNS = (
    *RUN_COLUMNS, "prompt_set", "sampling", "evaluator", "version", "prompt_id", "prompt", "image", "frame", "score",
    "evidence",
)  # fmt: skip
SCORE_COLUMNS = (
    *RUN_COLUMNS, "prompt_set", "sampling", "evaluator", "version", "prompt_id", "prompt", "image", "score",
)  # fmt: skip


class Results:
    """The tables of a results folder. Each is read when it is first asked for.

    Attributes:
        folder: of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """Medians, means and win rates over the base model: the columns of `leaderboard.csv`."""
        return self._table("leaderboard.csv", LEADERBOARD_COLUMNS)

    @cached_property
    def win_rates(self) -> pd.DataFrame:
        """Win rates of all pairs of methods: the columns of `win_rates.csv`."""
        return self._table("win_rates.csv", WIN_RATE_COLUMNS)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """Bradley-Terry strengths: the columns of `ranking.csv`."""
        return self._table("ranking.csv", RANKING_COLUMNS)

    @cached_property
    def diagnostics(self) -> pd.DataFrame:
        """Signs of reward hacking: the columns of `diagnostics.csv`."""
        return self._table("diagnostics.csv", DIAGNOSTIC_COLUMNS)

    @cached_property
    def guidance(self) -> pd.DataFrame:
        """Win rates over base at other guidance: the columns of `guidance.csv`."""
        return self._table("guidance.csv", GUIDANCE_COLUMNS)

    @cached_property
    def comparers(self) -> pd.DataFrame:
        """How far position and failures decided the verdicts of comparers: the columns of `comparers.csv`."""
        return self._table("comparers.csv", COMPARER_COLUMNS)

    @cached_property
    def turning_points(self) -> pd.DataFrame:
        """Where the curves of validation turn: the columns of `turning_points.csv`."""
        return self._table("turning_points.csv", TURNING_POINT_COLUMNS)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """Win rates over base by the value of one setting: the columns of `sensitivity.csv`."""
        return self._table("sensitivity.csv", SENSITIVITY_COLUMNS)

    @cached_property
    def best_settings(self) -> pd.DataFrame:
        """The best setting of each method within equal budgets: the columns of `best_settings.csv`."""
        return self._table("best_settings.csv", BEST_SETTING_COLUMNS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row for each image and evaluator, with the columns SCORE_COLUMNS; `score` is on the published scale.

        Raises:
            ResultsError: scores or prompts are not as their run wrote them.
        """
        frames = []
        for entry in self._measurements:
            scores = entry.scores
            columns = {
                **self._origin(entry),
                "prompt_id": scores.prompt_id,
                "prompt": [entry.prompts[one].prompt for one in scores.prompt_id],
                "image": scores.image,
                "score": scores.score,
            }
            frames.append(pd.DataFrame(columns).astype({"seed": "Int64"}))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(SCORE_COLUMNS))

    @cached_property
    def evidence(self) -> pd.DataFrame:
        """What scores were made of, by the evaluators that say so: a row for each image, or each frame of a video.

        The columns are EVIDENCE_COLUMNS; `evidence` holds an object, which `pd.json_normalize(table["evidence"])` turns
        into columns. `score` is that of the whole video.

        Raises:
            ResultsError: scores, prompts or evidence are not as their run wrote them.
        """
        rows = []
        for entry in self._measurements:
            info = entry.scores.info
            folder = RunFolder(self.folder / entry.manifest.run)
            file = folder.score_file(entry.sampling.prompt_set, entry.sampling_hash, info.evaluator, info.version)
            for image, frames in read_evidence(file, entry.scores, entry.sampling.num_frames).items():
                about = {"prompt_id": image[0], "prompt": entry.prompts[image[0]].prompt, "image": image[1]}
                row = {**self._origin(entry), **about, "score": entry.by_image[image]}
                rows += [{**row, "frame": number, "evidence": one} for number, one in enumerate(frames)]
        return pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS)).astype({"seed": "Int64"})

    @cached_property
    def training(self) -> pd.DataFrame:
        """What runs logged while they trained: RUN_COLUMNS, `step`, and the figures of the methods, NaN where none."""
        frames = []
        for folder in self._folders:
            if folder.train_log.exists():
                # a step that a resumed run made and logged again counts as it was logged last
                frame = pd.DataFrame(read_json_lines(folder.train_log)).drop_duplicates("step", keep="last")
                frames.append(self._with_run(frame, folder.name))
        return self._joined(frames, "step")

    @cached_property
    def validation(self) -> pd.DataFrame:
        """What was measured while runs trained: RUN_COLUMNS and the columns of their `validation.csv`."""
        tables = ((folder.validation_table, folder.name) for folder in self._folders)
        frames = [self._with_run(read_table(table), name) for table, name in tables if table.exists()]
        return self._joined(frames, "step")

    def _repr_html_(self) -> str:
        return self.summary.to_html()

    def __repr__(self) -> str:
        return f"Results({str(self.folder)!r})\n{self.summary.to_string()}"

    @property
    def summary(self) -> pd.DataFrame:
        """Win rates over the base model in %, one row for each model and method, over all prompts."""
        rows = self.leaderboard[(self.leaderboard["group"] == ALL)]
        table = rows.pivot_table(
            index=["model", "prompt_set", "method"], columns="evaluator", values="win_rate_vs_base", sort=False
        )
        return (100 * table).round(1)

    # ---- parts

    @cached_property
    def _measurements(self) -> list[Measurement]:
        """All scores but those that the tables leave out, because they cannot be compared with the others."""
        scored = [entry for folder in self._folders for entry in measurements(folder)]
        contradicting = conflicts(scored)
        self._warn(contradicting.left_out())
        return [entry for entry in scored if entry not in contradicting]

    def _origin(self, entry: Measurement) -> dict[str, Any]:
        """Return the columns that say where scores come from."""
        manifest, sampling, info = entry.manifest, entry.sampling, entry.scores.info
        return {
            "model": manifest.model,
            "method": self._labels[manifest.run] + strength_label(sampling.strength, sampling.strength_kind),
            "run": manifest.run,
            "seed": manifest.seed,
            "prompt_set": sampling.prompt_set,
            "sampling": entry.sampling_hash,
            "evaluator": info.evaluator,
            "version": info.version,
        }

    @cached_property
    def _folders(self) -> list[RunFolder]:
        found = readable(self.folder)
        self._warn(found.left_out)
        return found.runs

    @cached_property
    def _labels(self) -> dict[str, str]:
        of_recipes = recipe_labels(self._folders)
        return {one.name: of_recipes[one.manifest.model, one.manifest.recipe_hash] for one in self._folders}

    def _warn(self, left_out: Mapping[str, str]) -> None:
        for name, reason in left_out.items():
            warnings.warn(f"{name} is left out: {reason}", stacklevel=3)

    def _table(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        path = self.folder / name
        if not path.exists():
            raise ResultsError(f"{path} is missing; repeat a command of these results with stages=[report]")
        table = read_table(path)
        if missing := [column for column in columns if column not in table]:
            raise ResultsError(
                f"{path} has no column {missing[0]}, another version wrote it; repeat a command of these results with "
                "stages=[report]"
            )
        return table

    def _with_run(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        manifest = next(one.manifest for one in self._folders if one.name == name)
        values = (manifest.model, self._labels[name], name, manifest.seed)
        for place, (column, value) in enumerate(zip(RUN_COLUMNS, values, strict=True)):
            frame.insert(place, column, value)
        return frame.astype({"seed": "Int64"})

    @staticmethod
    def _joined(frames: list[pd.DataFrame], key: str) -> pd.DataFrame:
        if not frames:
            return pd.DataFrame(columns=[*RUN_COLUMNS, key])
        return pd.concat(frames, ignore_index=True)


def load_results(folder: str | Path = "results") -> Results:
    """Return the tables of a results folder.

    Raises:
        ResultsError: it does not exist, or has no runs.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ResultsError(f"{path} is no folder; give that of `results=`")
    if not run_folders(path):
        raise ResultsError(f"{path} has no runs; give the folder of `results=`, which holds leaderboard.csv")
    return Results(path)
