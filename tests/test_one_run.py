"""A command that is one run is composed once, and its job is the one that Hydra would run."""

import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from alignbench import cli
from alignbench.configuration.compose import composed

WORDS = ["model=sd15_mini", "method=dpo", "train.max_train_steps=7", "evaluators=shapes"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs a command whose jobs do nothing, and gives what it composed and ran."""

    def call(*words):
        num, jobs = [], []
        load = ConfigLoaderImpl.load_configuration

        def counted(self, *arguments, **named):
            num.append(arguments)
            return load(self, *arguments, **named)

        def job(cfg):
            jobs.append((OmegaConf.to_container(cfg), OmegaConf.is_struct(cfg), list(HydraConfig.get().overrides.task)))

        monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
        monkeypatch.setattr(cli, "_job", job)
        monkeypatch.setattr(sys, "argv", ["alignbench", *WORDS, f"results={tmp_path}", *words])
        cli.main()
        return len(num), jobs

    return call


def test_one_run_is_composed_once(run, tmp_path):
    num, jobs = run()
    assert num == 1
    words = [*WORDS, f"results={tmp_path}"]
    assert jobs == [(OmegaConf.to_container(composed(words)), True, words)]


def test_hydra_runs_the_same_job(run, monkeypatch):
    _, once = run()
    monkeypatch.setattr(cli, "run_once", None)
    monkeypatch.setattr(cli, "unchecked", lambda words: None)
    num, by_hydra = run()
    assert num > 1
    assert once == by_hydra


def test_what_a_job_raises_ends_the_command(run, monkeypatch):
    def fails(task, tree):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_once", fails)
    with pytest.raises(SystemExit):
        run()
