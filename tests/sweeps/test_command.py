"""The command of a sweep: what it writes before its first job, what of it fails, and what it refuses at the start."""

import shlex
import subprocess
import sys

import pytest
from hydra.core.config_store import ConfigStore

from alignbench import cli
from alignbench.configuration.compose import check_command_line, checked_jobs, launcher_of
from alignbench.errors import StopRequested, UserError
from alignbench.sweeps.launch import launcher_settings
from alignbench.sweeps.record import read_sweeps
from alignbench.sweeps.standing import standing_of
from tests.program import alignbench

WORDS = ["method=sft", "model=sd15_mini", "stages=[train]", "tracker=none"]


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Run a sweep over three seeds whose jobs do what is given; return the command that ended."""

    def run(*jobs, more=()):
        seen = []

        def job(cfg):
            (recorded,), _ = read_sweeps(tmp_path)
            assert len(recorded.cells) == 3, "it is written before the first job"
            seen.append(cfg.seed)
            if (error := jobs[cfg.seed]) is not None:
                raise error

        monkeypatch.setattr(cli, "_job", job)
        done = alignbench("-m", *WORDS, "seed=0,1,2", f"results={tmp_path}", *more, check=False)
        return done, seen

    return run


def standings(root):
    (recorded,), _ = read_sweeps(root)
    return [(row.standing, row.state.reason) for row in standing_of(root, recorded)]


def test_a_refusal_ends_no_other_job_and_all_that_failed_is_told_in_a_line_each(sweep, tmp_path):
    done, seen = sweep(UserError("the run is damaged"), None, UserError("the disk is full"))
    assert (done.returncode, seen) == (2, [0, 1, 2])
    assert standings(tmp_path) == [("failed", "the run is damaged"), ("done", None), ("failed", "the disk is full")]
    assert "seed=0: failed: the run is damaged\nseed=2: failed: the disk is full\n" in done.stdout
    assert "alignbench: job 1 of 3 failed: the run is damaged\n" in done.stderr
    assert done.stderr.endswith("alignbench: 2 of 3 jobs failed, as told above\n")


@pytest.mark.matrix
def test_a_defect_gives_the_sweep_its_exit_status_and_names_its_file(sweep, tmp_path):
    done, _ = sweep(UserError("the run is damaged"), RuntimeError("shapes do not fit"), None)
    assert done.returncode == 1
    (file,) = (tmp_path / "defects").iterdir()
    assert str(file) in standings(tmp_path)[1][1]


@pytest.mark.matrix
def test_only_what_failed_is_run_again_and_the_sweep_is_the_same(sweep, tmp_path):
    sweep(None, UserError("the run is damaged"), None)
    done, seen = sweep(None, None, None, more=["--failed"])
    assert (done.returncode, seen) == (0, [1])
    assert standings(tmp_path) == [("done", None)] * 3
    (recorded,), _ = read_sweeps(tmp_path)
    assert recorded.command == ["-m", *WORDS, "seed=0,1,2", f"results={tmp_path}"]


@pytest.mark.matrix
def test_a_signal_leaves_a_table_that_names_what_is_missing(sweep, tmp_path):
    done, _ = sweep(None, StopRequested(15), None)
    assert done.returncode == 143
    assert [one for one, _ in standings(tmp_path)] == ["done", "pre-empted", "waiting"]


@pytest.mark.matrix
def test_the_words_of_a_job_run_it_alone():
    experiment = ["experiment=mini_table", "seed=0", "model=sd15_mini"]
    jobs = checked_jobs([*experiment, "method=sft,dpo", "hydra/launcher=joblib"], False)
    alone = [checked_jobs(job.words, False) for job in jobs]
    assert [job.cfg for (job,) in alone] == [job.cfg for job in jobs]
    assert all("hydra/launcher=joblib" not in job.words for job in jobs)


@pytest.mark.parametrize("name", ["optuna", "another"])
def test_a_sweeper_that_searches_is_refused_at_the_start(name, monkeypatch):
    if name == "another":  # as a plugin adds it
        store = ConfigStore.instance()
        monkeypatch.setitem(store.repo["hydra"]["sweeper"], "another.yaml", store.load("hydra/sweeper/basic.yaml"))
    with pytest.raises(UserError, match=f"hydra/sweeper={name} searches by the value that a job returns"):
        check_command_line([*WORDS, "seed=0,1", f"hydra/sweeper={name}"], multirun=True)
    with pytest.raises(UserError, match="searches by the value that a job returns"):
        check_command_line([*WORDS, "seed=0,1", "hydra.sweeper._target_=some.Sweeper"], multirun=True)


def test_every_launcher_is_configured_and_its_settings_are_checked():
    for name in ("joblib", "submitit_local", "submitit_slurm"):
        assert launcher_settings(*launcher_of([*WORDS, f"hydra/launcher={name}"]))
    assert launcher_of(WORDS)[0] == "basic"
    words = [*WORDS, "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=0"]
    with pytest.raises(UserError, match=r"hydra.launcher.timeout_min=0 must be a whole number of at least 1"):
        launcher_settings(*launcher_of(words))
    name, values = launcher_of([*WORDS, "hydra/launcher=ray", "hydra.launcher.num_gpus=0.5"])
    assert (name, values["num_gpus"]) == ("ray", 0.5)


def test_jobs_of_several_results_folders_are_no_sweep(tmp_path):
    done = alignbench("-m", *WORDS, f"results={tmp_path}/a,{tmp_path}/b", check=False)
    assert done.returncode == 2
    assert "the jobs of a sweep share one results folder" in done.stderr


@pytest.mark.matrix
def test_a_base_run_is_made_by_a_command_of_its_own(tmp_path):
    words = [*WORDS[:2], "tracker=none", "prompts.limit=2", "sampling.num_inference_steps=1", "stages=[train,generate]"]
    command = [sys.executable, "-m", "alignbench.sweeps.base_run", *words, f"results={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, shlex.join(command) + done.stderr
    (images,) = tmp_path.glob("base-sd15_mini-*/images/*/*")
    assert len(list(images.glob("*.png"))) == 2
