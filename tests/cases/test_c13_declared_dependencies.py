"""C13: what is imported is declared, and what is declared is imported or has a reason beside it in pyproject.toml.

What a setting asks for is an extra, and says so in a sentence where it is missing.
"""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml

from alignbench.sweeps.launch import LAUNCHERS

ROOT = Path(__file__).resolve().parents[2]
OURS = {"alignbench", "methods", "evaluators"}
NOT_WITH_OURS = {"mlflow", "swanlab"}  # no version of them takes all the versions that were tested
OPTIONAL = {"deepspeed", "av", "optuna", "rapidocr_onnxruntime", "joblib", "submitit", "ray", *NOT_WITH_OURS}
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def declared():
    """Return the declared dependencies, and those of them whose line gives a reason."""
    listed = {normalised(re.match(r"[\w-]+", text)[0]) for text in tomllib.loads(PYPROJECT)["project"]["dependencies"]}
    block = PYPROJECT.partition("\ndependencies = [")[2].partition("\n]")[0]
    lines = [line for line in block.splitlines() if line.strip()]
    reasoned = {normalised(re.match(r'\s*"([\w-]+)', line)[1]) for line in lines if "#" in line}
    return listed, reasoned


def extra(name):
    """Return the packages of an extra."""
    texts = tomllib.loads(PYPROJECT)["project"]["optional-dependencies"][name]
    return {normalised(re.match(r"[\w-]+", text)[0]) for text in texts}


def imported():
    """Return the distributions whose modules our packages import, wherever in their text."""
    modules = set()
    for file in (file for package in OURS for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.partition(".")[0])
    modules -= OURS | OPTIONAL | sys.stdlib_module_names
    known = packages_distributions()
    return {normalised(name) for module in modules for name in known[module]}


def test_every_import_is_a_declared_dependency():
    assert imported() - declared()[0] == set()


def test_every_dependency_is_imported_or_says_why_it_is_needed():
    listed, reasoned = declared()
    assert listed - imported() - reasoned == set()


def test_what_settings_ask_for_is_an_extra_and_nothing_else_is():
    optimizers = (yaml.safe_load(file.read_text()) for file in (ROOT / "conf" / "optimizer").glob("*.yaml"))
    packages = {file["_target_"].partition(".")[0] for file in optimizers if "_target_" in file}
    assert extra("gpu") == (packages | {"deepspeed"}) - declared()[0]
    trackers = {file.stem for file in (ROOT / "conf" / "tracker").glob("*.yaml")} - {"none"} - declared()[0]
    assert extra("tracking") == trackers - NOT_WITH_OURS
    packages = {package for _, package in LAUNCHERS.values()}
    assert extra("cluster") | extra("ray") == packages
    assert extra("search") == {"optuna"}
    assert extra("video") == {"av"}
    assert extra("ocr") == {"rapidocr-onnxruntime"}
    names = ("gpu", "tracking", "cluster", "ray", "search", "video", "ocr")
    assert not set().union(*map(extra, names)) & declared()[0]


def test_the_tests_have_the_extras_that_they_run():
    assert tomllib.loads(PYPROJECT)["dependency-groups"]["dev"][0] == "alignbench[gpu,cluster,search,video,ocr,dev]"
