"""The packaged program, unpacked elsewhere, runs the default job."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.matrix
def test_the_wheel_unpacked_elsewhere_runs_the_default_job(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    site = tmp_path / "site"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(site)
    assert not (site / "tests").exists()
    assert (site / "alignbench" / "report" / "published_tables" / "smpo.csv").is_file()
    assert (site / "alignbench" / "reproduce" / "rows" / "smpo.yaml").is_file()
    assert (site / "alignbench" / "study" / "page" / "page.js").is_file()
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    few = ["train.max_train_steps=1", "train.total_batch_size=2", "prompts.limit=4", "sampling.num_inference_steps=2"]
    command = [sys.executable, "-m", "alignbench", *few, "method.num_rollout_steps=2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "results" / "leaderboard.csv").is_file()
    assert (tmp_path / "results" / "index.html").is_file(), "with what the page is made of"
    where = [sys.executable, "-c", "import alignbench, methods, evaluators; print(methods.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(site))
