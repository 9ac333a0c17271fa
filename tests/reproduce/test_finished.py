import dataclasses
import json
import shutil
import sys
from functools import partial

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.build import config_hash, recipe_hash
from alignbench.errors import UserError
from alignbench.report.tables import build
from alignbench.reproduce import __main__ as program
from alignbench.reproduce import finished
from alignbench.reproduce.command import words_of
from alignbench.reproduce.finished import find_run, measure, own_configuration
from alignbench.reproduce.report import conclude
from alignbench.reproduce.rows import read_rows
from alignbench.store.run_folder import run_folders
from tests.report.conftest import World

NUM = 48
PROMPTS = {f"p{i:02d}": f"prompt {i}" for i in range(NUM)}
WON = 35  # of 48 prompts: 72.9 %, the printed win rate
MEDIAN = 11.92
SCORED = {"shapes_preference": "1", "shapes_annotators": "2"}


@pytest.fixture(scope="module")
def row():
    return read_rows()["mini_smpo"]


@pytest.fixture(scope="module")
def composed_once(row):
    return own_configuration(row)


@pytest.fixture
def results(tmp_path, monkeypatch, composed_once):
    """A results folder with a base run and a run of the row whose figures are the printed ones."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("alignbench.reproduce.finished.own_configuration", lambda _: composed_once)
    monkeypatch.setattr("alignbench.reproduce.finished.build", partial(build, num_resamples=200))
    world = World(tmp_path / "results")
    for method in ("base", "smpo"):
        for evaluator, version in SCORED.items():
            scores = [MEDIAN + 0.001 * (i - NUM / 2) for i in range(NUM)]
            won = WON if evaluator == "shapes_preference" else NUM // 2 + 1
            if method == "base":
                scores = [score + (-0.5 if i < won else 0.5) for i, score in enumerate(scores)]
            folder = world.run(method, scores, prompts=PROMPTS, evaluator=evaluator, version=version, groups={})
    return world.root, folder


def settle(folder, cfg, changes):
    """Give a run the settings of a configuration, but for some."""
    changed = cfg.copy()
    for key, value in changes.items():
        OmegaConf.update(changed, key, value, force_add=True)
    folder.config_file.write_text(OmegaConf.to_yaml(changed, resolve=True))
    folder.update(config_hash=config_hash(changed), recipe_hash=recipe_hash(changed))


def with_steps(root, steps=8, **changes):
    for folder in run_folders(root):
        for file in folder.path.glob("images/*/*/sampling.json"):
            values = json.loads(file.read_text()) | {"num_inference_steps": steps} | changes
            file.write_text(json.dumps(values))
            folder.complete("generate", "again", [file, file.with_name("prompts.jsonl")])


def all_settled(results, cfg, **named):
    """Settle the runs of a results folder, and make images of 8 steps, as the row's are; `__` stands for a dot."""
    root, folder = results
    changes = {name.replace("__", "."): value for name, value in named.items()}
    for run in run_folders(root):
        if run.manifest.method != "base":
            settle(run, cfg, changes if run.name == folder.name else {})
    with_steps(root)
    return root


def test_a_run_with_the_settings_of_a_row_and_its_figures_reproduces_it(results, row, composed_once):
    root = all_settled(results, composed_once)
    told = "\n".join(conclude(row, root))
    assert told.startswith("mini_smpo: reproduced, all 3 compared figures are within the tolerance")
    noted = json.loads((root / "reproductions" / "mini_smpo.json").read_text())
    assert noted["verdict"] == "reproduced"
    assert [one["figure"] for one in noted["figures"]] == [
        "shapes_preference win rate over base", "shapes_annotators win rate over base", "shapes_annotators median",
    ]  # fmt: skip
    assert noted["figures"][0]["own"]["value"] == pytest.approx(100 * WON / NUM)


def test_a_figure_far_from_the_printed_one_differs_and_what_may_differ_is_told(
    results, row, composed_once, monkeypatch
):
    root = all_settled(results, composed_once)
    printed = finished.figures(row)
    far = [dataclasses.replace(one, printed=dataclasses.replace(one.printed, value=20.0)) for one in printed]
    monkeypatch.setattr(finished, "figures", lambda _: [far[0], *printed[1:]])
    told = "\n".join(conclude(row, root))
    assert told.startswith("mini_smpo: differs, 1 of 3 compared figures are outside the tolerance")
    assert "one training run on each side" in told


def test_a_run_with_another_setting_is_not_comparable_and_the_setting_is_named(results, row, composed_once):
    root = all_settled(results, composed_once, train__max_train_steps=3)
    told = "\n".join(conclude(row, root))
    assert told.startswith("mini_smpo: not comparable")
    assert "all figures: train.max_train_steps=3 here, 10 in the row" in told


def test_where_data_lie_and_how_an_update_is_divided_is_no_difference(results, row, composed_once):
    root = all_settled(results, composed_once, train__micro_batch_size=2, data__path="/elsewhere")
    found, _ = measure(row, root)
    assert found.differences == ()


def test_other_steps_of_sampling_and_fewer_prompts_are_named(results, row, composed_once):
    root = all_settled(results, composed_once)
    with_steps(root, 20)
    told = "\n".join(conclude(row, root))
    assert "all figures: sampling.num_inference_steps=20 here, 8 in the row" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"guidance_scale": 7.5}, "guidance 7.5 here, 4 there"),
        ({"noise": "constant"}, "noise constant here, per_prompt there"),
        ({"subset": True, "full_size": 384}, "fewer prompts here"),
        ({"seed": 3}, "sampling.seed=3 here, 0 in the row"),
    ],
)
def test_images_that_were_made_otherwise_are_not_compared(results, row, composed_once, changes, told):
    root = all_settled(results, composed_once)
    with_steps(root, **changes)
    _, measured = measure(row, root)
    assert {one.obstacles for one in measured} == {(told,)}


def test_what_the_source_does_not_say_is_no_obstacle_unless_the_row_has_another_setting(
    results, row, composed_once, monkeypatch
):
    root = all_settled(results, composed_once)
    printed = finished.figures(row)
    silent = [dataclasses.replace(one, printed=dataclasses.replace(one.printed, noise="", start="")) for one in printed]
    monkeypatch.setattr(finished, "figures", lambda _: silent)
    assert {one.obstacles for one in measure(row, root)[1]} == {()}
    with_steps(root, noise="constant")
    assert {one.obstacles for one in measure(row, root)[1]} == {
        ("sampling.noise=constant here, per_prompt in the row",)
    }


def test_of_several_runs_that_with_the_fewest_differences_is_the_rows(results, row, composed_once):
    root, folder = results
    other = root / f"{folder.name}9"
    shutil.copytree(folder.path, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest.pop("check", None)
    (other / "manifest.json").write_text(json.dumps(manifest | {"run": other.name}))
    all_settled(results, composed_once)
    runs = {run.name: run for run in run_folders(root)}
    settle(runs[folder.name], composed_once, {"train.learning_rate": 1e-3})
    found = find_run(row, list(runs.values()))
    assert found is not None
    assert (found.run.name, found.differences) == (other.name, ())


def test_a_folder_without_a_run_of_the_row_says_how_to_make_one(tmp_path, row):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"holds no run of mini_smpo; make one by: python -m alignbench.reproduce mini_smpo"
    ):
        measure(row, tmp_path / "empty")
    with pytest.raises(UserError, match=r"nowhere is no folder; give the results of finished runs"):
        measure(row, tmp_path / "nowhere")


def test_a_row_that_starts_from_another_finds_its_finished_run(results, row, composed_once, monkeypatch):
    root = all_settled(results, composed_once)
    folder = results[1]
    after = row.model_copy(update={"starts_from": "mini_smpo"})
    with pytest.raises(UserError, match=r"which .* does not hold"):
        words_of(after, [f"results={root}"])
    folder.complete("train", "", [])
    assert words_of(after, [f"results={root}"])[-1] == f"model.policy={folder.path}"


def call(capsys, monkeypatch, *words):
    """Do what `python -m alignbench.reproduce` does; return its exit status and what it printed."""
    monkeypatch.setattr(sys, "argv", ["alignbench.reproduce", *words])
    try:
        program.main()
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_verdict_is_read_without_running(results, composed_once, capsys, monkeypatch):
    root = all_settled(results, composed_once)
    status, out, _ = call(capsys, monkeypatch, "mini_smpo", "--results", str(root))
    assert (status, out.split(",")[0]) == (0, "mini_smpo: reproduced")
    assert f"{root}/reproductions/mini_smpo.json" in out
    status, _, error = call(capsys, monkeypatch, "mini_smpo", "seed=1", "--results", str(root))
    assert (status, error.strip()) == (
        2, "alignbench: --results runs nothing, so seed=1 has no effect; leave it out",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["smpo_sd15_dpo"], "smpo_sd15_dpo is no row; did you mean smpo_sd15_dpo_"),
        (["smpo_sd15_dpo_hpdv2"], "add data.path=PATH"),
        (["mini_smpo", "--results", "nowhere"], "nowhere is no folder"),
    ],
)
def test_a_wrong_command_is_one_sentence(words, told, capsys, monkeypatch):
    status, _, error = call(capsys, monkeypatch, *words)
    assert (status, error.count("\n")) == (2, 1)
    assert told in error


def test_a_dry_run_of_a_base_row_needs_nothing(capsys, monkeypatch):
    status, out, _ = call(capsys, monkeypatch, "smpo_sd15_base_hpdv2", "--dry-run")
    assert status == 0
    assert "command     python -m alignbench experiment=paper_smpo_baselines_sd15" in out
    assert out.endswith("memory      nothing is trained\n")
