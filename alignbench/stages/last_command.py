"""What a finished command printed, kept beside its run: the same command again tells it at once, and loads nothing."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import conf_folder
from alignbench.errors import UserError
from alignbench.files import CHECK, is_intact, with_check, without_check, write_json
from alignbench.reading import check_record, is_file_name, read_json_object
from alignbench.store.run_folder import RunFolder

FILE = "last_command.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
IN_TABLES = ("*/manifest.json", "judges/*/*", "studies/*/*", "comparisons/*/*/*.jsonl", "leaderboard.*",
             "win_rates.csv", "ranking.csv", "comparers.csv", "questions.csv", "diagnostics.csv", "guidance.csv",
             "turning_points.csv", "sensitivity.csv", "best_settings.csv", "index.html")  # fmt: skip


@dataclass(frozen=True)
class LastCommand:
    """What a finished command came to.

    Attributes:
        state: digest of its settings and of all files that it read and wrote.
        runs: names of the runs that it was about.
        text: what it printed.
    """

    state: str
    runs: list[str]
    text: str


def remember(cfg: DictConfig, runs: Iterable[RunFolder], text: str) -> None:
    """Note what a command came to, in the folder of the last of its runs."""
    *_, own = runs = list(runs)
    state = _state(cfg, runs)
    if state is not None:
        write_json(own.path / FILE, with_check(asdict(LastCommand(state, [run.name for run in runs], text))))


def recall(cfg: DictConfig, own: RunFolder) -> str | None:
    """Return what the same command printed before, if everything that it read and wrote is as it was left.

    None where anything has changed: settings, code, weights, data, runs, judges, votes or tables; where a process of
    several asks; and where a hub id is used, which may have moved.
    """
    noted = _noted(cfg, own)
    return None if noted is None else noted.text


@contextmanager
def still_remembered(cfg: DictConfig, own: RunFolder) -> Iterator[None]:
    """Remember a command beyond what is done inside: additions to the tables, which it would neither undo nor make."""
    noted = _noted(cfg, own)
    yield
    if noted is not None:
        remember(cfg, _folders(own, noted), noted.text)


def _noted(cfg: DictConfig, own: RunFolder) -> LastCommand | None:
    file = own.path / FILE
    if "RANK" in os.environ or not os.path.isfile(file):  # also where a name is too long for a file
        return None
    try:
        values = read_json_object(file)
        check_record(LastCommand, without_check(values), str(file))
    except UserError:  # damaged: the stages say what is there
        return None
    if CHECK not in values or not is_intact(values):
        return None
    noted = LastCommand(**without_check(values))
    if not all(map(is_file_name, noted.runs)):
        return None
    return noted if noted.state == _state(cfg, _folders(own, noted)) else None


def _folders(own: RunFolder, noted: LastCommand) -> list[RunFolder]:
    return [RunFolder(own.path.parent / name) for name in noted.runs]


def _state(cfg: DictConfig, runs: Iterable[RunFolder]) -> str | None:
    """Return a digest of the settings and of size and time of every file that has to do with a command."""
    settings = OmegaConf.to_container(cfg, resolve=True)
    words = [word for word in _texts(settings) if "/" in word or os.sep in word]
    if any(HUB_ID.fullmatch(word) and not Path(word).exists() for word in words):
        return None
    root = Path(cfg.results)
    places = [Path(word).expanduser() for word in words if Path(word).expanduser() != root]
    code = [Path(__file__).parents[1], *(Path(__file__).parents[2] / name for name in ("methods", "evaluators"))]
    files = [file for pattern in IN_TABLES for file in root.glob(pattern)]
    for place in [*(run.path for run in runs), *places, *code, conf_folder()]:
        files += [place] if place.is_file() else _files_under(place)
    seen = sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in set(files))
    return hashlib.sha256(json.dumps([settings, seen], sort_keys=True).encode()).hexdigest()


def _files_under(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(parent) / name for name in names if name != FILE and not name.endswith(".lock"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value
