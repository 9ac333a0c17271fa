"""Which model families there are: one for each module of the folder `families`."""

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from alignbench.models import families
from alignbench.models.adapter import ModelAdapter


def _families() -> Iterator[tuple[str, type[ModelAdapter]]]:
    """Yield the name of each module, and the model adapter that it defines."""
    for found in iter_modules(families.__path__):
        module = import_module(f"{families.__name__}.{found.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, ModelAdapter) and kind.__module__ == module.__name__:
                yield found.name, kind


FAMILIES: Mapping[str, type[ModelAdapter]] = dict(_families())
