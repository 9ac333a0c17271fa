"""Packages that are loaded at their first use."""

import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

from alignbench.terminal import late_imports
from alignbench.terminal.late_imports import LateModule, import_late


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package that notes each time its code runs in `sys.loads_of_slow`."""
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import sys\nsys.loads_of_slow.append(__name__)\nfrom slow_package import inner\nvalue = inner.value\n"
    )
    (folder / "inner.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(late_imports, "NAMES", ("slow_package",))
    monkeypatch.setattr(sys, "loads_of_slow", [], raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    import_late()
    yield "slow_package"
    for name in [name for name in sys.modules if name.startswith("slow_package")]:
        del sys.modules[name]


def test_a_package_runs_when_an_attribute_is_asked_for_and_only_once(package):
    module = importlib.import_module(package)
    inspect.getmodule(test_a_package_runs_when_an_attribute_is_asked_for_and_only_once)  # looks at all modules
    assert importlib.util.find_spec(package) is not None
    assert isinstance(module, LateModule)
    assert sys.loads_of_slow == []
    assert module.value == 7
    assert type(module) is ModuleType
    assert not hasattr(module, "nothing")
    assert sys.loads_of_slow == [package]


def test_a_package_runs_before_its_submodules(package):
    importlib.import_module(package)
    assert importlib.import_module(f"{package}.inner").value == 7
    assert sys.loads_of_slow == [package]


def test_a_second_call_adds_no_second_finder(package):
    before = list(sys.meta_path)
    import_late()
    assert sys.meta_path == before


@pytest.mark.matrix
def test_a_network_of_diffusers_loads_neither_bitsandbytes_nor_scipy_stats():
    code = (
        "import sys, alignbench, diffusers.models.unets.unet_2d_condition; from scipy import stats; "
        "late = [sys.modules[n] for n in ('bitsandbytes', 'scipy.stats') if n in sys.modules]; "
        "assert late; print({type(one).__name__ for one in late}, 'torch._inductor.compile_fx' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{'LateModule'} False"
