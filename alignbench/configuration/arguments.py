"""Values of a `_target_` node against the annotations of its constructor."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.targets import target_object
from alignbench.errors import UserError
from alignbench.settings.arguments import wrong_arguments


def check_arguments(node: DictConfig) -> None:
    """Refuse plain values that a constructor is not annotated for, in a node and in those within.

    Raises:
        UserError: one line for each wrong value; or a `_target_` is an alias, see `target_object`.
    """
    if wrong := _wrong(OmegaConf.to_container(node, resolve=True), node._get_full_key(None)):
        raise UserError("\n".join(wrong))


def _wrong(values: Any, prefix: str) -> list[str]:
    if not isinstance(values, dict):
        return []
    found = [line for key, value in values.items() for line in _wrong(value, f"{prefix}.{key}".lstrip("."))]
    if "_target_" not in values:
        return found
    if values["_target_"] is None:
        return [*found, f"{prefix}._target_=null must be the name of a class or function"]
    if not isinstance(values.get("_partial_", True), bool):
        found.append(f"{prefix}._partial_={values['_partial_']} must be true or false")
    found += [f"{prefix}.{key} is no setting" for key in ("_recursive_", "_convert_", "_args_") if key in values]
    return found + wrong_arguments(target_object(values["_target_"]), values, f"{prefix}.".lstrip("."))
