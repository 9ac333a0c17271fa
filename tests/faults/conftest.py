"""What is damaged in these tests: a results folder of three runs, filled once and copied for each test."""

import shutil
import signal

import numpy as np
import pytest

from alignbench.files import write_text
from alignbench.report.readable import readable
from alignbench.store.run_folder import run_folders
from alignbench.store.training_data import write_training_data
from tests.report.conftest import World, filled, world

__all__ = ["world"]

CONFIG = "train: {learning_rate: 0.001}\nmethod: {name: sft}\nprompts: {path: null}\n"
VALIDATION = "step,evaluator,version,win_rate,ci_low,ci_high,network_passes\n20,clip,1,0.5,0.4,0.6,800\n"


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal():
    """Hear what `nohup` and shells in the background make a process, and those that it starts, ignore."""
    for one, heard in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(one) is signal.SIG_IGN:
            signal.signal(one, heard)


@pytest.fixture(scope="session")
def filled_results(tmp_path_factory):
    """Three runs that have all that a report reads, with a digest where runs have one."""
    root = tmp_path_factory.mktemp("filled") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        filled(World(root))
        for run in run_folders(root):
            run.store(run.config_file, lambda file: write_text(file, CONFIG))
            write_training_data(run, np.array([len(run.name)], np.uint64))
            if run.train_log.exists():
                write_text(run.validation_table, VALIDATION)
                run.complete("train", files=[run.train_log, run.validation_table])
        assert readable(root, with_images=True).left_out == {}
    return root


@pytest.fixture
def results(filled_results, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    return shutil.copytree(filled_results, tmp_path / "results")
