"""Do from Python what the command line does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from alignbench.configuration.build import build
from alignbench.configuration.compose import check_command_line, composed
from alignbench.configuration.run_config import read_run_config
from alignbench.errors import UserError
from alignbench.interface.results import Results, load_results
from alignbench.report.comparison import ALL
from alignbench.stages.job import run as run_job
from alignbench.stages.start import load_weights
from alignbench.store.image_records import read_prompts
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder
from alignbench.videos import read_still


@dataclass(frozen=True)
class RunResult:
    """What one command made.

    Attributes:
        folder: of the run; of a comparison of existing images the last one.
        runs: names of all run folders that the command was about, base first.
    """

    folder: Path
    runs: tuple[str, ...]

    @property
    def results(self) -> Results:
        """All tables of the results folder, other runs included, as they are now."""
        return load_results(self.folder.parent)

    @property
    def table(self) -> pd.DataFrame:
        """The rows of `leaderboard.csv` over all prompts that these runs are behind."""
        rows = self.results.leaderboard
        own = rows["run"].map(lambda names: not set(self.runs).isdisjoint(names.split()))
        return rows.loc[own & (rows["group"] == ALL)].reset_index(drop=True)

    @property
    def policy(self) -> Path | None:
        """Folder of the trained weights in the format that diffusers loads; None where nothing was trained."""
        policy = RunFolder(self.folder).policy
        return policy if policy.exists() else None

    def images(self, n: int = 6) -> list[Image.Image]:
        """Return the first image of each of the first `n` prompts, RGB; `image.info["prompt"]` is its prompt.

        Of a video it is the middle frame. With several prompt sets or samplings, those of the one that was made last.

        Raises:
            ResultsError: the run has no images yet.
        """
        folders = sorted(self.folder.glob("images/*/*/prompts.jsonl"), key=lambda file: file.stat().st_mtime)
        if not folders:
            raise ResultsError(f"{self.folder} has no images; add generate to stages")
        folder = folders[-1].parent
        pictures = []
        for record in read_prompts(folder)[:n]:
            picture = read_still(folder / record.images[0])
            picture.info["prompt"] = record.prompt
            pictures.append(picture)
        return pictures

    def pipeline(self) -> Any:
        """Return the diffusers pipeline of the model with the trained weights, on the CPU.

        Adapters are added to the weights of their network. Without training these are the weights of `model.policy`, or
        those of the model as it came.

        Raises:
            ResultsError: the weights are not as they were written.
        """
        run = RunFolder(self.folder)
        cfg = read_run_config(run.config_file)
        model = build(cfg.model.adapter)
        load_weights(model, cfg, run)
        model.fold_adapters()
        return model.pipeline

    def _repr_html_(self) -> str:
        return self._short().to_html(index=False)

    def __repr__(self) -> str:
        return f"RunResult({str(self.folder)!r})\n{self._short().to_string(index=False)}"

    def _short(self) -> pd.DataFrame:
        table = self.table
        score = table["median"].where(table["summary"] == "median", table["mean"])
        shown = ["method", "evaluator", "n", "summary", "score", "win_rate_vs_base", "win_ci_low", "win_ci_high"]
        return table.assign(score=score).loc[:, [*shown, "trained_on"]]


def run(*overrides: str) -> RunResult:
    """Do what `python -m alignbench OVERRIDES` does, and return what came of it.

    What is done already is not done again, as on the command line.

    >>> run("method=dpo", "model=sd15_mini", "train.max_train_steps=50").table  # doctest: +SKIP

    Args:
        overrides: the words of the command, such as `"method=dpo"`.

    Raises:
        UserError: the command must be changed; the message says how.
    """
    words = list(overrides)
    if strange := next((word for word in words if not isinstance(word, str)), None):
        raise UserError(f'run() takes the words of a command, as in run("method=dpo"), not {strange!r}')
    if flags := [word for word in words if word.startswith("-")]:
        raise UserError(f"run() takes key=value, not {flags[0]}; for a sweep call run() for each of its jobs")
    if (num_jobs := check_command_line(words, multirun=False)) != 1:
        raise UserError(f"these words are a sweep of {num_jobs} jobs; give one value for each key and call run() again")
    cfg = composed(words)
    if cfg.dry_run:
        raise UserError(
            "dry_run=true prints an estimate and makes nothing; type it in a shell: python -m alignbench ..."
        )
    folders = run_job(cfg)
    return RunResult(folders[-1].path, tuple(folder.name for folder in folders))
