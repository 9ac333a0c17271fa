"""Values of a constructor's arguments against their annotations, which declare what each may be."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from alignbench.settings.section import sentence, shown

OURS = ("alignbench", "methods", "evaluators")  # packages whose classes are built from settings by name
STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def wrong_arguments(kind: Callable[..., Any], values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return a sentence for each plain value that a class or function is not annotated for.

    Text, numbers, true and false, null, choices (Literal), lists of numbers and mappings of names to numbers are
    checked, numbers with their range (Annotated); all else is left to the constructor. Numbers are finite.

    Args:
        prefix: the key of the values in a configuration, with a dot behind it.
    """
    parameters, found = inspect.signature(kind).parameters, []
    for key in values.keys() & parameters.keys():
        value, annotation = values[key], parameters[key].annotation
        is_null = value is None and not _may_be_null(annotation)
        if _is_object(annotation) and (is_null or isinstance(value, str | int | float | list)):
            found.append(f"{prefix}{key}={shown(value)} must be settings by name, as in {prefix}{key}.NAME=VALUE")
    for key in (key for key in values if key in parameters and _is_plain(parameters[key].annotation)):
        declared = TypeAdapter(parameters[key].annotation, config=STRICT)
        try:
            declared.validate_python(values[key])
        except ValidationError as error:
            place, schema = error.errors()[0]["loc"], declared.json_schema()
            if "additionalProperties" in schema and place:
                name = str(place[0])
                found.append(sentence(f"{prefix}{key}.{name}", values[key][name], schema["additionalProperties"]))
                continue
            inner: list[int | str] = [one for one in place if isinstance(one, int)]
            found.append(sentence(f"{prefix}{key}", values[key], schema, inner))
    return found


def _is_object(kind: Any) -> bool:
    """Return whether an annotation allows nothing but an object of one class, or null."""
    options = (
        [one for one in get_args(kind) if one is not NoneType] if get_origin(kind) in (Union, UnionType) else [kind]
    )
    return all(  # a name in quotes stands for a class that is imported later
        isinstance(one, str) or (inspect.isclass(one) and one.__module__.split(".")[0] in OURS) for one in options
    )


def _may_be_null(kind: Any) -> bool:
    """Return whether an annotation allows null; one in quotes says so in its text."""
    return "None" in kind if isinstance(kind, str) else NoneType in get_args(kind)


def _is_plain(kind: Any) -> bool:
    """Return whether an annotation allows nothing but plain values, and lists and mappings of numbers."""
    origin = get_origin(kind)
    if origin is Sequence:
        return get_args(kind)[0] in (int, float)
    if origin is Mapping:
        return get_args(kind)[1] in (int, float)
    if origin is Annotated:
        return _is_plain(get_args(kind)[0])
    if origin in (Union, UnionType):
        return all(map(_is_plain, get_args(kind)))
    return origin is Literal or kind in (int, float, bool, str, NoneType)
