"""The examples of a method and of a model, added to a copy of the program as the pages say, work and pass its tests."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import README, ROOT, block_that_begins

DOCS = ROOT / "docs"
COPIED = ("alignbench", "methods", "evaluators", "conf", "docs", "tests", "results/published")
FILES = [  # of each its page, its language and how it begins
    (README, "python", "# methods/likelihood_gap.py"),
    (README, "yaml", "# conf/method/likelihood_gap.yaml"),
    (DOCS / "adding_a_method.md", "python", "# tests/methods/test_likelihood_gap.py"),
    (DOCS / "adding_a_method.md", "python", "# methods/ram.py"),
    (DOCS / "adding_a_method.md", "yaml", "# conf/method/ram.yaml"),
    (DOCS / "adding_a_model.md", "python", "# alignbench/models/families/aura_flow.py"),
    (DOCS / "adding_a_model.md", "yaml", "# conf/model/aura_flow.yaml"),
    (DOCS / "adding_a_model.md", "python", "# alignbench/models/tiny_random/aura_flow.py"),
]
QUIETLY = ("-n0", "-q", "-p", "no:cacheprovider")
FEW = [
    "train.max_train_steps=2", "train.total_batch_size=2", "train.micro_batch_size=2", "sampling.num_inference_steps=2",
    "prompts.limit=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the program with three files of a method and three of a model."""
    root = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    for page, language, start in FILES:
        file = root / start.removeprefix("# ")
        assert not file.exists()
        file.write_text(block_that_begins(page, language, start))
    return root


def call(copy: Path, *arguments: str) -> str:
    """Run a module of Python on the copy; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-5000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.matrix
def test_the_example_of_a_method_trains_the_example_of_a_model_and_its_images_are_ranked(copy):
    save = "from alignbench.models.tiny_random import TINY; TINY['aura_flow'].pipeline().save_pretrained('weights')"
    environment = os.environ | {"PYTHONPATH": str(copy)}
    subprocess.run([sys.executable, "-c", save], cwd=copy, env=environment, check=True, capture_output=True)
    call(
        copy, "alignbench", "method=likelihood_gap", "model=aura_flow", "model.pretrained_model_name_or_path=weights",
        "model.adapter.pipeline.torch_dtype=float32", "model.resolution=32", "data=shapes", "prompts=shapes",
        "evaluators=shapes", *FEW,
    )  # fmt: skip
    (run,) = (copy / "results").glob("likelihood_gap-aura_flow-*")
    assert len(list((run / "images").rglob("*.png"))) == 2
    assert "aura_flow,likelihood_gap," in (copy / "results" / "leaderboard.csv").read_text()


@pytest.mark.matrix
def test_the_example_of_an_online_method_trains_and_moves_away_from_its_start(copy):
    call(
        copy, "alignbench", "method=ram", "model=flux_mini", "stages=[train]", "results=online", *FEW,
        "train.total_batch_size=4", "method.group_size=4", "method.num_rollout_steps=2",
        "method.levels.num=1", "method.levels.stop=2",
    )  # fmt: skip
    (log,) = (copy / "online").glob("ram-flux_mini-*/train.jsonl")
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert first["kl"] == 0
    assert second["kl"] > 0


@pytest.mark.matrix
def test_what_is_tested_of_every_method_holds_for_one_without_page_and_row(copy):
    files = ["methods/test_likelihood_gap.py", "configuration/test_configuration.py", "training/test_train.py"]
    files += ["docs/test_docs.py", "docs/test_pages.py", "test_imports.py"]
    chosen = "likelihood_gap or method_of_the_table or table_of_methods or method_class_agrees"
    told = call(copy, "pytest", *QUIETLY, *(f"tests/{file}" for file in files), "-k", chosen)
    assert " passed" in told


@pytest.mark.matrix
def test_what_is_tested_of_every_family_holds_for_one_more(copy):
    told = call(
        copy,
        "pytest",
        "-n0",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/models/test_adapters.py",
        "-k",
        "aura_flow or tiny_pipeline",
    )
    assert " passed" in told
