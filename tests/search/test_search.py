"""A search at the terminal: trials are ordinary runs, figures are those of the tables, and prompts are held out."""

import subprocess
import sys
from pathlib import Path

import pytest

from alignbench.search import __main__ as program
from alignbench.search.settings import SearchSettings
from alignbench.settings.section import shown
from tests.pages import ROOT, tables
from tests.program import SMALL_RUN, alignbench, manifests, rows, run_main

SHARED = ("method=dpo", "model=sd15_mini", "prompts=shapes_validation", *SMALL_RUN)
OBJECTIVE = "search.objective=shapes_annotators"
SPACE = ("train.learning_rate=log(1e-6,1e-3)", "method.beta=250,500")


def search(*words, check=True):
    """Run `python -m alignbench.search` within this process."""
    return run_main(program.main, *words, check=check)


def files(root: Path):
    return {
        file: file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file() and "searches" not in file.parts
    }


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    root = tmp_path_factory.mktemp("searched")
    words = (*SHARED, OBJECTIVE, *SPACE, f"results={root}", "search.num_trials=2", "search.name=mine")
    return root, words, search(*words)


@pytest.mark.matrix
def test_a_trial_is_the_run_that_the_main_program_makes_of_its_words(searched):
    root, _, _ = searched
    first, second = rows(root / "searches" / "mine" / "trials.csv")
    words = [f"{key}={second[key]}" for key in ("train.learning_rate", "method.beta")]
    before = files(root)
    done = alignbench(*SHARED, *words, f"results={root}", "stages=[train,generate,score]").stdout
    assert f"{second['run']}  train > generate > score" in done
    assert "train: done before" in done
    changed = {file for file, time in files(root).items() if before.get(file) != time}
    assert {file.name for file in changed} <= {".lock", "manifest.json"}
    assert (first["method.beta"], float(first["train.learning_rate"])) == ("500", 5e-5)  # the default settings


@pytest.mark.matrix
def test_the_same_command_again_trains_nothing_and_shows_the_same(searched):
    root, words, done = searched
    before = files(root)
    again = search(*words)
    assert files(root) == before
    assert again.stdout.partition("trials:")[2] == done.stdout.partition("trials:")[2]
    assert "trial 1 of" not in again.stdout


@pytest.mark.matrix
def test_figures_and_tried_settings_are_those_of_the_leaderboard(searched):
    root, *_ = searched
    trials = rows(root / "searches" / "mine" / "trials.csv")
    alignbench(*SHARED, f"results={root}", "stages=[report]", f"train.learning_rate={trials[0]['train.learning_rate']}")
    leaderboard = [
        row
        for row in rows(root / "leaderboard.csv")
        if (row["group"], row["evaluator"]) == ("all", "shapes_annotators")
    ]
    of_run = {row["run"]: row for row in leaderboard}
    for trial in trials:
        row = of_run[trial["run"]]
        assert trial["win_rate:shapes_annotators"] == row["win_rate_vs_base"]
        assert trial["win_rate:shapes_annotators_ci_low"] == row["win_ci_low"]
    tried = {row["method"]: row["tried"] for row in leaderboard}
    assert tried.pop("base") == ""
    assert set(tried.values()) == {"2"}
    assert "| tried |" in (root / "leaderboard.md").read_text()
    assert len(manifests(root)) == 3  # with base


@pytest.mark.matrix
def test_the_last_lines_are_the_command_that_measures_the_best_setting_anew(searched):
    root, _, done = searched
    assert "train the best setting with other seeds" in done.stdout
    assert "report on prompts=shapes:" in done.stdout
    command = next(line for line in done.stdout.splitlines() if line.startswith("  python"))
    assert command.startswith("  python -m alignbench -m method=dpo model=sd15_mini train.max_train_steps=2")
    assert command.endswith("seed=1,2,3")
    assert " prompts=" not in command
    assert "prompts.limit" not in command
    assert (root / "searches" / "mine" / "search.png").stat().st_size > 5000


REFUSED = [
    ([], "search.objective must be set"),
    (["search.trials=2"], "search.trials is unknown; did you mean search.num_trials"),
    ([OBJECTIVE, "search.num_trials=0"], "search.num_trials=0 must be a whole number of at least 1"),
    ([OBJECTIVE, "search.sampler=cma"], "search.sampler=cma is unknown"),
    ([OBJECTIVE, "search.name=a/b"], "search.name=a/b cannot name a folder"),
    ([OBJECTIVE, *SHARED], "no word has values to search"),
    ([OBJECTIVE, *SHARED, *SPACE, "stages=[train]"], "stages=[train] is not for a search"),
    ([OBJECTIVE, *SHARED, *SPACE, "hydra/launcher=joblib"], "hydra/launcher=joblib is for sweeps"),
    ([OBJECTIVE, *SHARED, *SPACE, "search.sampler=grid"], "search.sampler=grid needs a list of values"),
    ([OBJECTIVE, "method=dpo", "model=sd15_mini", *SPACE], "prompts=shapes shares 384 prompts with prompts=shapes"),
]
REFUSED_LATER = [  # of what is composed first
    (
        [OBJECTIVE, *SHARED, *SPACE, "search.report_prompts=shapes_validation"],
        "prompts=shapes_validation shares 4 prompts with prompts=shapes_validation, which the report shows",
    ),
    ([OBJECTIVE, *SHARED, "method.betta=250,500"], "method.betta is unknown"),
    ([OBJECTIVE, *SHARED, "train.learning_rate=interval(-1,1)"], "train.learning_rate=-1.0 must be"),
    (["search.objective=shapes_anotators", *SHARED, *SPACE], "did you mean shapes_annotators"),
    (["search.objective=best:shapes_clip", *SHARED, *SPACE], "has an unknown figure"),
    ([OBJECTIVE, *SHARED, *SPACE, "search.pruner=median"], "add validation=shapes"),
    (
        ["search.objective=shapes_clip", "method=srpo", *SHARED[1:], SPACE[0]],
        "search.objective=shapes_clip is what training follows",
    ),
    (
        ["search.objective=shapes_clip", "method=refl", *SHARED[1:], "reward=shapes_preference,shapes_clip"],
        "search.objective=shapes_clip is what training follows",
    ),
    ([OBJECTIVE, "method=base", *SHARED[1:], SPACE[0]], "method=base trains nothing"),
]


@pytest.mark.parametrize(
    ("words", "told"), [*REFUSED, *(pytest.param(*case, marks=pytest.mark.matrix) for case in REFUSED_LATER)]
)
def test_commands_that_cannot_be_searched_are_refused_before_anything_is_made(tmp_path, words, told):
    root = tmp_path / "results"
    done = search(*words, f"results={root}", check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert not root.exists()


def test_help_loads_neither_networks_nor_hydra_nor_optuna():
    """Each setting of a search is named."""
    script = (
        "import sys\nfrom alignbench.search.__main__ import main\nsys.argv = ['search', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    *_, loaded = done.stdout.splitlines()
    assert not {"torch", "hydra", "optuna", "numpy", "rich"} & set(loaded.split())
    assert all(f"  search.{name}=" in done.stdout for name in SearchSettings.model_fields)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    done = search(*SHARED, OBJECTIVE, *SPACE, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'a search needs the package optuna, which is not installed: pip install "alignbench[search]"' in done.stderr


@pytest.mark.matrix
def test_a_pruner_stops_real_runs_by_their_validations_and_leaves_their_checkpoints(tmp_path):
    """Of trials of 5e-5, five come first; one that wins nothing at its first look is below their median."""
    validated = ("validation=shapes", "validation.every=1", "validation.select=null", "validation.prompts.limit=4")
    words = (*SHARED, *validated, OBJECTIVE, "search.pruner=median", f"results={tmp_path}", "search.name=mine")
    space = "train.learning_rate=choice(5e-5,6e-5,7e-5,8e-5,9e-5,1.0)"
    search(*words, space, "search.sampler=grid", "search.num_trials=5")
    done = search(*words, space, "search.sampler=grid", "search.num_trials=6")
    table = rows(tmp_path / "searches" / "mine" / "trials.csv")
    assert [row["state"] for row in table[:5]] == ["complete"] * 5
    assert table[5]["state"] == "pruned"
    assert "stopped early: " in done.stdout
    left = manifests(tmp_path)[table[5]["run"]]
    assert "train" not in left["completed"]
    assert list((tmp_path / table[5]["run"] / "checkpoints").glob("step-*")) != []
    assert len(rows(tmp_path / table[0]["run"] / "validation.csv")) > 0


def test_the_page_names_each_setting_with_its_default():
    listed = next(rows for heads, rows in tables(ROOT / "docs" / "search.md") if heads[:2] == ["key", "default"])
    declared = {f"`search.{name}`": default for name, default in SearchSettings.defaults().items()}
    assert [row[0] for row in listed] == list(declared)
    for key, told, _ in listed:
        assert told.strip("`") == ("required" if declared[key] == "???" else shown(declared[key]))
