"""The command that makes a run, read off its configuration; paths of the machine that it ran on are left out."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from alignbench.configuration.build import choices, conf_folder
from alignbench.configuration.compose import composed
from alignbench.configuration.run_config import read_plain_config
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder

# choices of the configuration that are told by what they set
GROUPS = {
    "method": "method.name",
    "model": "model.name",
    "data": "data.name",
    "prompts": "prompts.name",
    "reward": "method.reward.name",
    "optimizer": "train.optimizer._target_",
}
SECTIONS = ("model", "method", "data", "train", "validation", "prompts", "sampling")
HIDDEN = "model.adapter."  # repeats what the keys of the model say
PLAIN_TEXT = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_][\w./-]*", re.IGNORECASE)


class Command(NamedTuple):
    """A shell command, and whether it sets all that the run differs in from the defaults."""

    text: str
    is_whole: bool


def command_of(run: RunFolder) -> Command | None:
    """Return the shell command that makes a run, with words for all that differs from the defaults.

    Absolute paths are replaced by the last part of their key in capitals. None for images that existed already, and for
    a configuration whose method or model is not known here.

    Raises:
        UserError: the configuration of the run is damaged.
    """
    if not run.config_file.is_file():
        return None
    values = read_plain_config(run.config_file)
    found = _leaves({key: values.get(key) for key in (*SECTIONS, "seed")})
    if found.get("method.name") == BASE:  # which reads no data, and is trained by nothing
        found = {key: value for key, value in found.items() if not key.startswith(("data.", "train.", "validation."))}
    chosen = {group: _choice(group, found.get(key)) for group, key in GROUPS.items()}
    if chosen["method"] is None or chosen["model"] is None:
        return None
    words = [f"{group}={name}" for group, name in chosen.items() if name is not None]
    defaults = _leaves(OmegaConf.to_container(composed(words), resolve=True, throw_on_missing=False))
    changed = [key for key, value in found.items() if defaults.get(key, "") != value and not key.startswith(HIDDEN)]
    words += [f"{key}={_typed(key, found[key])}" for key in changed if key in defaults]
    return Command(f"python -m alignbench {shlex.join(words)}", all(key in defaults for key in changed))


def _choice(group: str, value: Any) -> str | None:
    """Return the choice of a group that sets a value; that of most groups is called so."""
    if value is None:
        return None
    if group != "optimizer":
        return value if value in choices(group) else None
    files = {name: OmegaConf.load(conf_folder() / group / f"{name}.yaml") for name in choices(group)}
    return next((name for name, file in files.items() if OmegaConf.select(file, "_target_") == value), None)


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return plain values by their full keys; lists are whole."""
    if not isinstance(values, Mapping) or not values:
        return {prefix[:-1]: values}
    return {key: leaf for name, value in values.items() for key, leaf in _leaves(value, f"{prefix}{name}.").items()}


def _typed(key: str, value: Any) -> str:
    """Return a value as Hydra reads it from a command."""
    if isinstance(value, list):
        return f"[{','.join(_typed(key, one) for one in value)}]"
    if isinstance(value, str):
        if Path(value).is_absolute():
            return key.rpartition(".")[2].upper()
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return value if PLAIN_TEXT.fullmatch(value) else f"'{escaped}'"
    return json.dumps(value)
