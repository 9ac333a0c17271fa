"""Which classes and functions a `_target_` may name.

Only the shipped configuration and the words of a command name any: no file of a run, a judge, a study, a model or a
data set does (docs/security.md). What they name in this program must be defined in the module that is named, so that
`evaluators.aesthetic.torch.hub.load` is no way around that.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from alignbench.errors import UserError

OURS = ("alignbench", "methods", "evaluators")
ROOT = Path(__file__).resolve().parents[2]  # of the three
FROM_FOLDERS = "hydra.searchpath"  # would add a folder of configuration files


def check_overrides(keys: Sequence[str]) -> None:
    """Refuse words of a command that would take configuration from a folder.

    Raises:
        UserError: naming the word.
    """
    if any(key == FROM_FOLDERS or key.startswith(f"{FROM_FOLDERS}.") for key in keys):
        raise UserError(
            f"{FROM_FOLDERS} would run what files of a folder name; put your configuration files into conf/, or type "
            "their values"
        )


def check_targets(values: Any) -> None:
    """Refuse targets of this program that are not defined in the module they name; nothing is imported.

    Args:
        values: a configuration as plain values.

    Raises:
        UserError: naming the target.
    """
    for target in _targets(values):
        if target.split(".")[0] in OURS and not _is_defined(*target.rpartition(".")[::2]):
            raise _refused(target)


def target_object(target: str) -> Any:
    """Return the class or function that a target names.

    Raises:
        UserError: there is none; or another module, or another package where the target is not of this program,
            defines it.
    """
    check_targets({"_target_": target})
    try:
        found = get_object(target)
    except (ImportError, ValueError) as error:  # as Hydra tells that there is none
        raise UserError(f"_target_={target} cannot be found: {str(error).splitlines()[0]}") from None
    module = inspect.getmodule(found)
    if module is None or module.__name__.split(".")[0] != target.split(".")[0]:
        raise _refused(target)
    return found


def target_class(target: str) -> Any:
    """Return the class that a target names.

    Raises:
        UserError: as `target_object`, or it is no class.
    """
    found = target_object(target)
    if not inspect.isclass(found):
        raise UserError(f"_target_={target} is no class, and one is needed here")
    return found


def _targets(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        if "_target_" in values and not isinstance(target := values["_target_"], str | None):
            raise UserError(f"_target_={target} must be text, the name of a class or function")
        if isinstance(target := values.get("_target_"), str):
            yield target
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _targets(value)


def _is_defined(module: str, name: str) -> bool:
    """Say whether the text of a module of this program defines a class or a function."""
    path = ROOT.joinpath(*module.split("."))
    file = next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)
    definition = rf"^(class|def) {re.escape(name)}\b"
    return file is not None and re.search(definition, file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _refused(target: str) -> UserError:
    where, _, name = target.rpartition(".")
    return UserError(f"_target_={target} is refused: {where} defines no class or function {name}; name the place of it")
