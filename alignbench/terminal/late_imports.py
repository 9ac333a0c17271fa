"""Load some packages at their first use: other libraries import them at every start and rarely use them.

diffusers imports bitsandbytes, which compiles two functions, and `scipy.stats` whatever it is asked for. Together they
take a fifth of what is spent before the first update.
"""

import importlib.abc
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAMES = ("bitsandbytes", "scipy.stats")
_LOCK = threading.RLock()
_LOADING: set[ModuleType] = set()  # what they import may ask them for more


class LateModule(ModuleType):
    """A module that is loaded when one of its submodules or an attribute that it does not have yet is asked for.

    Unlike that of `importlib.util.LazyLoader`, it answers for its file and path without being loaded: `inspect` asks
    all modules for them.
    """

    def __getattr__(self, name: str) -> Any:
        self.load()
        return ModuleType.__getattribute__(self, name)

    def load(self) -> None:
        """Run the module's code, unless this thread is at it already."""
        with _LOCK:
            if type(self) is not LateModule or self in _LOADING:
                return
            assert self.__spec__ is not None
            assert self.__spec__.loader is not None
            _LOADING.add(self)
            try:
                self.__spec__.loader.exec_module(self)
            finally:
                _LOADING.remove(self)
            object.__setattr__(self, "__class__", ModuleType)


class _LateLoader(importlib.abc.Loader):
    """Leaves a module unloaded, with the loader that will load it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        module.__class__ = LateModule


class _LateFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if isinstance(parent, LateModule):
            parent.load()
        spec = PathFinder.find_spec(fullname, path, target) if fullname in NAMES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LateLoader(spec.loader)
        return spec


def import_late() -> None:
    """Let imports of the packages `NAMES` in this process load them at their first use; a second call has no effect."""
    if not any(isinstance(finder, _LateFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LateFinder())
