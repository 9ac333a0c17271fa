"""Two small results folders, as two groups have them: the same base run, and a method each; and their capsules."""

import shutil

import pytest

from alignbench.capsule.pack import pack
from alignbench.files import write_text
from alignbench.store.run_folder import RunFolder, run_folders
from tests.report.conftest import World

BASE, DPO, SFT = "base-sd15_mini-rNone", "dpo-sd15_mini-r0", "sft-sd15_mini-r0"
CONFIG = "train: {learning_rate: 0.001}\nmethod: {name: sft}\nprompts: {path: null}\n"


@pytest.fixture(scope="session")
def _made(tmp_path_factory):
    root = tmp_path_factory.mktemp("capsules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        for group, method, gain in (("a", "dpo", 0.2), ("b", "sft", 0.1)):
            world = World(root / group / "results")
            for name, change in (("base", 0.0), (method, gain)):
                picture = "white" if name == "base" else "red"
                world.run(name, [0.1 + change, 0.2 + change, 0.3, 0.4 + change], picture=picture)
                world.run(name, [1.0, 2.0, 3.0, 4.0 - change], evaluator="aesthetic", picture=picture)
            for run in run_folders(world.root):
                run.store(run.config_file, lambda file: write_text(file, CONFIG))
                if run.manifest.seed is not None:
                    run.complete("train", files=[run.train_log])
            pack([world.root / f"{method}-sd15_mini-r0"], root / f"{group}.tar")
    return root


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Whether files survive a power cut is no question here."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def capsules(_made):
    """The capsules of both groups, which no test changes."""
    return _made / "a.tar", _made / "b.tar"


@pytest.fixture
def groups(_made, tmp_path):
    """Copies of both results folders at another path."""
    return [shutil.copytree(_made / group, tmp_path / group) / "results" for group in "ab"]


@pytest.fixture
def dpo(groups):
    return RunFolder(groups[0] / DPO)
