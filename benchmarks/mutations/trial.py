"""Make a mistake in a module of the program, in a process of its own, and see whether a test finds it."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from multiprocessing import get_context
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("alignbench", "methods", "evaluators", "tests")


@dataclass(frozen=True)
class Mutation:
    """A mistake in the source of a module.

    Attributes:
        name: the family and what is wrong.
        module: dotted name of the module.
        old: text that the module has once.
        new: what stands there instead.
        test: the smallest test that has to find it, as pytest names it.
    """

    name: str
    module: str
    old: str
    new: str
    test: str

    @property
    def file(self) -> Path:
        """Where the source of the module is."""
        return ROOT.joinpath(*self.module.split(".")).with_suffix(".py")

    def applied(self, source: str) -> str:
        """Return the source with the mistake.

        Raises:
            ValueError: if it does not have the old text exactly once.
        """
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.module} has {source.count(self.old)} times what is to be changed")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """What came of tests.

    Attributes:
        status: exit status of pytest; 0 if all passed, 1 if some failed.
        reasons: of each test that failed, the name of the exception.
    """

    status: int
    reasons: list[str]

    @property
    def found(self) -> bool:
        """Whether a test found that something is not as it has to be.

        Code that cannot run shows in any test; a mistake that is found so says nothing about the tests.
        """
        return self.status == 1 and set(self.reasons) <= {"AssertionError", "Failed"}


def tested(mutation: Mutation | None, tests: Sequence[str]) -> Outcome:
    """Run tests on the program with a mistake, or on the program as it is, in a forked process.

    What this process has imported beside the program and its tests is not imported again.
    """
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(_run, mutation, tests).result()


def _run(mutation: Mutation | None, tests: Sequence[str]) -> Outcome:
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    if mutation is not None:
        sys.meta_path.insert(0, _Finder(mutation))
    reasons = _Reasons()
    options = ["-n0", "-q", "-m", "", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    status = pytest.main([*options, *(str(ROOT / test) for test in tests)], plugins=[reasons])
    return Outcome(int(status), reasons.found)


class _Reasons:
    """A plugin of pytest that notes why tests failed."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            self.found.append(call.excinfo.typename)


@dataclass(frozen=True)
class _Finder(MetaPathFinder):
    """Finds one module, with its mistake."""

    mutation: Mutation

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if fullname != self.mutation.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        spec.loader = _Loader(self.mutation)
        return spec


class _Loader(SourceFileLoader):
    """Compiles the source of a module with its mistake, and keeps nothing on the disk."""

    def __init__(self, mutation: Mutation) -> None:
        super().__init__(mutation.module, str(mutation.file))
        self.mutation = mutation

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.mutation.applied(self.get_source(fullname) or ""), self.path, "exec")
