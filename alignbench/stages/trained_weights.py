"""Which trained weights a path means, and what they were made of: of a run, which says so itself, or from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from alignbench.configuration.build import row_name, trains
from alignbench.configuration.checks import check_start
from alignbench.configuration.compose import composed
from alignbench.configuration.run_config import read_run_config
from alignbench.errors import UserError
from alignbench.store.run_folder import RunFolder, run_folders


@dataclass(frozen=True)
class Source:
    """Trained weights and what they were made of.

    Attributes:
        cfg: what says of which model it was made.
        policy: the trained weights, a path or hub id, with their revision.
        run: the run that trained them, or that measures weights made elsewhere; None without a run.
    """

    cfg: DictConfig
    policy: str
    revision: str | None
    run: RunFolder | None

    @property
    def name(self) -> str:
        return row_name(self.cfg).removeprefix("published_") if self.run is None else self.run.name

    @property
    def start(self) -> str | None:
        """Trained weights that training itself started from."""
        return self.cfg.model.policy if trains(self.cfg) else None


def find_source(path: str, settings: Sequence[str]) -> Source:
    """Return what a path or hub id stands for.

    Args:
        settings: words of a command that say what weights without a run were made of.

    Raises:
        UserError: if there are no trained weights, or nothing says what they were made of.
    """
    run = RunFolder(Path(path))
    if not run.manifest_file.exists() and (runs := run_folders(Path(path))):
        raise UserError(f"{path} holds runs; give one of them: {', '.join(str(one.path) for one in runs)}")
    if not run.manifest_file.exists():
        if not any(word.startswith("model=") for word in settings):
            raise UserError(f"{path} is not a run and does not say what it was made of; add model=NAME and its weights")
        cfg = composed(["method=base", *settings])
        revision = cfg.model.policy_revision
        cfg.model.policy = path
        check_start(cfg.model)
        return Source(cfg, path, revision, None)
    if settings:
        raise UserError(f"{path} is a run, which says itself what it was made of; leave out {' '.join(settings)}")
    cfg = read_run_config(run.config_file)
    if trains(cfg):
        return Source(cfg, str(run.verified(run.policy)), None, run)
    if cfg.model.policy is None:
        raise UserError(f"{path} is the untouched model, which has no trained weights; give a run that trains")
    check_start(cfg.model)
    return Source(cfg, cfg.model.policy, cfg.model.policy_revision, run)
