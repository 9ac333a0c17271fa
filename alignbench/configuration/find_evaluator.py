"""An evaluator by its name: its file in conf/evaluator with some values replaced, built."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import UnsupportedValueType

from alignbench.configuration.build import build, conf_folder
from alignbench.errors import UserError, did_you_mean
from alignbench.evaluator import Evaluator


def build_evaluator(name: str, values: Mapping[str, Any]) -> Evaluator:
    """Build an evaluator; no weights are read.

    Args:
        name: of a file in conf/evaluator.
        values: in place of those of the file; a mapping replaces key by key where the file has a mapping too.

    Raises:
        UserError: the name or a key is unknown, a value is missing, or the evaluator refuses one.
    """
    available = evaluator_names()
    if name not in available:
        raise UserError(f"evaluator {name} is unknown;{did_you_mean(name, available)}")
    node = _compose(f"evaluator/{name}").evaluator
    _replace(node, values, name)
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        key = missing[0].removeprefix("evaluator.")
        raise UserError(f"evaluator {name} needs {key}; give {key}=VALUE")
    return build(node)


def evaluator_names() -> list[str]:
    """Return the names of all evaluators, as files have them."""
    return sorted(file.stem for file in (conf_folder() / "evaluator").glob("*.yaml"))


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` words as values, nested where a key has dots: the grammar of the command line.

    Raises:
        UserError: naming the word that is something else.
    """
    values: dict[str, Any] = {}
    for text in settings:
        try:
            override = OverridesParser.create().parse_overrides([text])[0]
        except OverrideParseException:
            override = None
        if (
            override is None
            or override.type != OverrideType.CHANGE
            or override.is_sweep_override()
            or not override.key_or_group
        ):
            raise UserError(f"{text!r} is not understood; expected key=value, as in source=FOLDER")
        *path, last = override.key_or_group.split(".")
        node = values
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"{text!r} contradicts the value that {part} has already")
        node[last] = override.value()
    return values


def _compose(path: str) -> DictConfig:
    outer = GlobalHydra.instance().hydra  # of a program that uses Hydra itself
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return compose(path)
    finally:
        GlobalHydra.instance().hydra = outer


def _replace(node: DictConfig, values: Mapping[str, Any], where: str) -> None:
    keys = [str(key) for key in node if not str(key).startswith("_")]
    for key, value in values.items():
        if key not in keys:
            raise UserError(f"{where}.{key} is unknown; {where} has no key {key!r};{did_you_mean(key, keys)}")
        child = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(child, DictConfig) and isinstance(value, Mapping):
            _replace(child, value, f"{where}.{key}")
            continue
        try:
            node[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
        except UnsupportedValueType:
            raise UserError(
                f"{where}.{key} is a {type(value).__name__}; expected text, a number, a list or a mapping"
            ) from None
