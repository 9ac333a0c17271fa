"""Build an evaluator by its name, from its file in conf/evaluator, with some values replaced."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import UnsupportedValueType

from alignbench.configuration.build import build, conf_folder
from alignbench.configuration.typed.plain_values import settle, settle_arguments
from alignbench.configuration.typed.words import parse_words, with_home
from alignbench.errors import UserError, did_you_mean
from alignbench.evaluator import Evaluator


def build_evaluator(name: str, values: Mapping[str, Any]) -> Evaluator:
    """Build an evaluator; no weights are read.

    Args:
        name: name of a file in conf/evaluator.
        values: values that replace those of the file; a mapping replaces a mapping key by key.

    Raises:
        UserError: the name or a key is unknown, a value is missing, or the evaluator refuses a value.
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
    return build(settle_arguments(settle(node, {})))


def evaluator_names() -> list[str]:
    """Return the names of all files in conf/evaluator."""
    return sorted(file.stem for file in (conf_folder() / "evaluator").glob("*.yaml"))


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` words as on the command line; a key with dots gives nested values.

    Raises:
        UserError: a word is not of the form key=value; the message names it.
    """
    values: dict[str, Any] = {}
    for text in with_home(settings):
        override = parse_words([text])[0]
        if override.type != OverrideType.CHANGE or override.is_sweep_override() or not override.key_or_group:
            raise UserError(f"{text!r} is not understood; expected key=value, as in source=FOLDER")
        *path, last = override.key_or_group.split(".")
        node = values
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"{text!r} contradicts the value that was given to {part} before")
        node[last] = override.value()
    return values


def _compose(path: str) -> DictConfig:
    outer = GlobalHydra.instance().hydra  # set if the calling program uses Hydra
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
