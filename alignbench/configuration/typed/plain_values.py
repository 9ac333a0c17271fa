"""What the values of a composed configuration mean: `~` is the home folder, and one value stands for a list of one."""

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, OmegaConfBaseException

from alignbench.configuration.sections import SECTIONS
from alignbench.configuration.targets import OURS, target_object
from alignbench.errors import UserError
from alignbench.settings.section import Section

Container = DictConfig | ListConfig
SHELL_VARIABLE = re.compile(r"\$(\w+)(?=/|$)")


def settle(cfg: DictConfig, sections: Mapping[str, type[Section]] = SECTIONS) -> DictConfig:
    """Put the home folder for `~` and lists for single values into a configuration, and return it.

    Raises:
        UserError: a value refers to something that is not there, as `${HOME}` does.
    """
    for node, key, value in list(_values(cfg)):
        if isinstance(value, str) and value.startswith("~"):
            node[key] = os.path.expanduser(value)
        elif isinstance(value, str) and (found := SHELL_VARIABLE.match(value)):
            name = _full_key(node, key)
            raise UserError(
                f"{name}={value} names a variable of the shell, which fills it in within double quotes and not within "
                f"single ones; type double ones, or '{name}=${{oc.env:{found[1]}}}{value[found.end() :]}'"
            )
    for section, declared in sections.items():
        node = OmegaConf.select(cfg, section) if section else cfg
        if isinstance(node, DictConfig):
            _make_lists(node, [name for name, schema in declared.schemas().items() if _is_list(schema)])
    _refuse_dangling(cfg)
    return cfg


def settle_arguments(cfg: DictConfig) -> DictConfig:
    """Put lists for single values where the constructor of this program that a node names takes a list; return `cfg`.

    Their modules are imported.
    """
    for node in _targets(cfg):
        parameters = inspect.signature(target_object(node._target_)).parameters
        _make_lists(node, [name for name, one in parameters.items() if get_origin(one.annotation) in (list, Sequence)])
    return cfg


def _make_lists(node: DictConfig, names: Sequence[str]) -> None:
    for name in names:
        if name not in node or OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        if isinstance(value := node[name], str | int | float) and not isinstance(value, bool):
            node[name] = [value]


def _is_list(schema: Mapping[str, Any]) -> bool:
    """Say whether a setting is a list, or null, and never anything else."""
    kinds = {option.get("type") for option in schema.get("anyOf", [schema])}
    return "array" in kinds and kinds <= {"array", "null"}


def _refuse_dangling(cfg: DictConfig) -> None:
    """Refuse references to values that the configuration has not."""
    for node, key, value in _values(cfg, interpolations=True):
        name = _full_key(node, key)
        try:
            _ = node[key]
        except InterpolationToMissingValueError:
            continue  # the value that is missing is told of by its own key
        except InterpolationKeyError as error:
            absent = re.search(r"key '([^']*)'", str(error))
            variable = absent[1] if absent else ""
            hint = f"; a variable of the shell is typed '${{oc.env:{variable}}}'" if variable.isupper() else ""
            raise UserError(f"{name}={value} refers to {variable}, which the configuration has not{hint}") from None
        except (OmegaConfBaseException, ValueError) as error:
            raise UserError(f"{name}={value} cannot be resolved: {_reason(error)}") from None


def _values(node: Container, interpolations: bool = False) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the container, the key and the text or number of every value that is there; or of every reference."""
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        child: Any = node._get_node(key)
        if child is None or child._is_missing():
            continue
        if child._is_interpolation():
            if interpolations:
                yield node, key, child._value()
        elif isinstance(child, DictConfig | ListConfig):
            yield from _values(child, interpolations)
        elif not interpolations:
            yield node, key, child._value()


def _targets(node: Container) -> Iterator[DictConfig]:
    """Yield every node that describes an object of this program."""
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    if isinstance(node, DictConfig) and not OmegaConf.is_missing(node, "_target_"):
        target = node.get("_target_")
        if isinstance(target, str) and target.split(".")[0] in OURS:
            yield node
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        child: Any = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            yield from _targets(child)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rpartition("while resolving interpolation: ")[2].strip("'\"")


def _full_key(node: Any, key: Any) -> str:
    return node._get_full_key(key)
