"""Which model families there are: one for each module of this folder that defines a model adapter."""

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from alignbench.models.adapter import ModelAdapter


def _families() -> Iterator[tuple[str, type[ModelAdapter]]]:
    """Yield the name of each module that defines a model adapter, and that class."""
    for found in iter_modules([str(Path(__file__).parent)]):
        if found.ispkg or f"{__package__}.{found.name}" == __name__:
            continue
        module = import_module(f"{__package__}.{found.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, ModelAdapter) and kind.__module__ == module.__name__ and not inspect.isabstract(kind):
                yield found.name, kind


FAMILIES: Mapping[str, type[ModelAdapter]] = dict(_families())
