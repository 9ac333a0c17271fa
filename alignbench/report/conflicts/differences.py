"""In what two records differ, as text."""

from collections.abc import Mapping
from typing import Any


def differences(own: Mapping[str, Any], its: Mapping[str, Any]) -> str:
    """Write the entries in which two records differ, with both values; empty where none does.

    >>> differences({"weights": "a", "precision": "float32"}, {"weights": "b", "precision": "float32"})
    "weights ('a' and 'b')"
    """
    keys = dict.fromkeys([*own, *its])
    return ", ".join(f"{key} ({own.get(key)!r} and {its.get(key)!r})" for key in keys if own.get(key) != its.get(key))
