"""Values of a `_target_` node against the annotations of its constructor, which declare what each may be."""

import inspect
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from alignbench.errors import UserError
from alignbench.settings.section import sentence

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def check_arguments(node: DictConfig) -> None:
    """Refuse plain values that a constructor is not annotated for, in a node and in those within.

    Text, numbers, true and false, null and choices (Literal) are checked; all else is left to the constructor.

    Raises:
        UserError: one line for each wrong value.
    """
    if wrong := _wrong(OmegaConf.to_container(node, resolve=True), node._get_full_key(None)):
        raise UserError("\n".join(wrong))


def _wrong(values: Any, prefix: str) -> list[str]:
    if not isinstance(values, dict):
        return []
    found = [line for key, value in values.items() for line in _wrong(value, f"{prefix}.{key}".lstrip("."))]
    if values.get("_target_") is None:
        return found
    parameters = inspect.signature(get_object(values["_target_"])).parameters
    for key in (key for key in values if key in parameters and _is_plain(parameters[key].annotation)):
        declared = TypeAdapter(parameters[key].annotation, config=STRICT)
        try:
            declared.validate_python(values[key])
        except ValidationError:
            found.append(sentence(f"{prefix}.{key}".lstrip("."), values[key], declared.json_schema()))
    return found


def _is_plain(kind: Any) -> bool:
    """Return whether an annotation allows nothing but single plain values."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _is_plain(get_args(kind)[0])
    if origin in (Union, UnionType):
        return all(map(_is_plain, get_args(kind)))
    return origin is Literal or kind in (int, float, bool, str, NoneType)
