"""Who may import whom: rooms lie on floors, and imports run downwards only, those in functions too."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("alignbench", "methods", "evaluators")
# From the roof to the ground. A room imports from its own floor's line no other room, and from the floors below it any.
FLOORS = """
    __main__
    calibrate  capsule  card  export  interface  plan  reproduce  search  soup  study  train_reward
    serve
    cli
    sweeps
    stages
    exports
    report
    votes
    training
    scoring
    configuration
    generation
    data
    store
    online
    method  objectives  pairwise  reward_model
    evaluator  miniature
    models
    diffusion
    videos
    batch  context  crop  devices  files  former_names  images  settings  statistics  terminal  text  work_share
    reading
    errors
"""
FLOOR = {room: number for number, line in enumerate(reversed(FLOORS.split("\n"))) for room in line.split()}
# Beside the ground floors, up to the line of `online`: what one may know who writes a method or an evaluator.
FOR_METHODS = FLOOR["online"]
FOR_EVALUATORS = {
    "alignbench.configuration.find_evaluator": ("evaluators",),  # evaluators.load, as a library
    "alignbench.data.storage.text_tables": (
        "evaluators.vqa.blip_vqa",
        "evaluators.vqa.geneval2",
        "evaluators.vqa.tables",
    ),  # of the user's
    "alignbench.scoring.changed_comparer": ("evaluators.comparer_reward",),
    "alignbench.serve.access": (
        "evaluators.comparers.openai_compatible",
        "evaluators.json_client",
        "evaluators.remote",
    ),
    "alignbench.serve.protocol": (
        "evaluators.black_box",
        "evaluators.comparers.openai_compatible",
        "evaluators.comparers.vision_language",
        "evaluators.remote",
        "evaluators.vqa.asking",
    ),
    "alignbench.store.reward_model_folder": ("evaluators.judge", "evaluators.judge_distance"),
    "alignbench.store.training_data": ("evaluators.judge", "evaluators.several"),
    "alignbench.store.verdicts": ("evaluators.comparer_reward",),
}


@cache
def modules():
    """Return the file of each of our modules by its dotted name."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


@cache
def imports(name):
    """Return those of our modules that one imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found &= modules().keys()
    packages = {other for one in found for other in found if one.startswith(f"{other}.")}  # of `from a import b`
    return found - packages - {name}


def room(name):
    return name.split(".")[1] if "." in name else "__init__"


def test_every_room_has_a_floor():
    rooms = {room(name) for name in modules() if name.startswith("alignbench.")}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("alignbench.")])
def test_core_imports_run_downwards(name):
    assert not [other for other in imports(name) if other.split(".")[0] != "alignbench"]
    for other in imports(name) - {"alignbench"}:
        assert room(other) == room(name) or FLOOR[room(other)] < FLOOR[room(name)], f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith("alignbench")])
def test_methods_and_evaluators_import_the_ground_floors(name):
    package = name.split(".")[0]
    for other in imports(name) - {"alignbench"}:
        if other.startswith("alignbench."):
            allowed = FLOOR[room(other)] <= FOR_METHODS or name in FOR_EVALUATORS.get(other, ())
        else:
            allowed = other.split(".")[0] == package
        assert allowed, f"{name} imports {other}"


def test_no_module_imports_itself_by_way_of_others():
    left = {name: set(imports(name)) for name in modules()}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


def test_statistics_import_nothing_of_ours_but_statistics():
    names = [name for name in modules() if name.startswith("alignbench.statistics")]
    assert {room(other) for name in names for other in imports(name)} <= {"statistics"}


def test_no_folder_is_long():
    """A reader sees the whole folder at one glance."""
    sizes = Counter(file.parent.relative_to(ROOT).as_posix() for file in modules().values())
    assert sizes.pop("alignbench") <= 20
    for folder in ("methods", "evaluators"):
        del sizes[folder]  # one file a method or an evaluator
    assert {folder: size for folder, size in sizes.items() if size > 16} == {}


def test_looking_at_a_configuration_loads_no_network_library():
    heavy = "{'torch', 'diffusers', 'pandas'} & {*sys.modules}"
    ours = "alignbench.configuration.checks, alignbench.cli, alignbench.reproduce.__main__"
    code = f"import sys, {ours}; print({heavy})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "set()"
