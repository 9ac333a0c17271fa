"""F14: one bad file never stops the report of what does not need it; the report names the file and what to do."""

import json

import pytest

from alignbench import load_results
from alignbench.errors import UserError
from alignbench.exports.dataset import export_dataset
from alignbench.files import write_json
from alignbench.report.markdown import markdown
from alignbench.report.readable import readable
from alignbench.report.terminal.run_tables import print_left_out
from alignbench.report.write import write_report, write_run_pictures
from alignbench.store.run_folder import run_folders
from alignbench.terminal.console import open_console

BASE, DPO, SFT = "base-sd15_mini-rNone", "dpo-sd15_mini-r0", "sft-sd15_mini-r0"


def flip(file, share=0.5):
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)


def zero(file):
    file.write_bytes(bytes(file.stat().st_size))


DAMAGE = [
    (name, harm)
    for name in (
        "manifest.json", "config.yaml", "train.jsonl", "validation.csv", "training_data.npy",
        "images/shapes/1a2b/prompts.jsonl", "images/shapes/1a2b/sampling.json", "scores/shapes/1a2b/clip@1.parquet",
        "images/shapes/1a2b/p07-0.png",
    )
    for harm in (flip, zero)
]  # fmt: skip


@pytest.mark.parametrize(("name", "harm"), DAMAGE, ids=lambda one: getattr(one, "__name__", one))
def test_a_damaged_file_takes_out_its_own_run_and_is_named(results, name, harm):
    harm(results / SFT / name)
    found = readable(results, with_images=True)
    assert [run.name for run in found.runs] == [BASE, DPO]
    assert list(found.left_out) == [SFT]
    assert str(results / SFT / name) in found.left_out[SFT]
    assert "\n" not in found.left_out[SFT]


def test_the_report_shows_the_others_and_says_what_is_left_out(results):
    zero(results / SFT / "images/shapes/1a2b/p07-0.png")
    tables = write_report(results, 50)
    assert {row["method"] for row in tables.leaderboard} == {"base", "dpo"}
    told = f"{SFT} is left out of this report: {results / SFT}/images/shapes/1a2b/p07-0.png has changed"
    assert told in markdown(tables).replace("\\", "")
    assert told in (results / "index.html").read_text()
    runs = {run.name: run for run in run_folders(results)}
    print_left_out(tables, runs[DPO], open_console(quiet=True))
    with pytest.raises(UserError, match=r"p07-0.png has changed .*; the report of all others is written"):
        print_left_out(tables, runs[SFT], open_console(quiet=True))


@pytest.mark.matrix
def test_without_its_base_a_method_is_still_shown(results):
    zero(results / BASE / "manifest.json")
    tables = write_report(results, 50)
    assert {row["method"] for row in tables.leaderboard} == {"sft", "dpo"}
    assert list(tables.left_out) == [BASE]


@pytest.mark.matrix
def test_deleted_images_and_damaged_statistics_take_out_nothing(results):
    assert write_report(results, 50).left_out == {}
    before = (results / "diagnostics.csv").read_bytes()
    zero(results / SFT / "statistics/shapes/1a2b.parquet")
    assert write_report(results, 50).left_out == {}
    assert (results / "diagnostics.csv").read_bytes() == before
    (results / SFT / "images/shapes/1a2b/p00-0.png").unlink()
    assert write_report(results, 50).left_out == {}
    runs = {run.name: run for run in run_folders(results)}
    assert [file.name for file in write_run_pictures(runs[SFT])] == [
        "training.png", "validation.png", "shapes-1a2b.png",
    ]  # fmt: skip


def test_results_in_python_and_as_a_data_set_are_those_of_the_others(results, tmp_path, capsys):
    flip(results / SFT / "train.jsonl")
    loaded = load_results(results)
    with pytest.warns(UserWarning, match=rf"{SFT} is left out: .*train.jsonl has changed"):
        assert set(loaded.scores["method"]) == {"base", "dpo"}
    assert export_dataset(results, tmp_path / "exported") == 80
    assert f"{SFT} is left out: {results / SFT}/train.jsonl has changed" in capsys.readouterr().out


@pytest.mark.matrix
def test_a_damaged_reward_model_is_named_and_stops_nothing(results):
    folder = results / "judges" / "taste"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"name": ')
    tables = write_report(results, 50)
    assert list(tables.left_out) == ["judges/taste"]
    assert "config.json is not JSON" in tables.left_out["judges/taste"]
    write_json(folder / "config.json", {"name": "taste", "data": {"fingerprint": "1"}})
    assert write_report(results, 50).left_out == {}


def test_a_digest_in_the_manifest_finds_every_changed_figure(results):
    """A change that leaves the manifest well-formed: what a run cost would be wrong in the table of costs."""
    file = results / SFT / "manifest.json"
    values = json.loads(file.read_text())
    values["budget"]["optimizer_steps"] += 1
    file.write_text(json.dumps(values))
    assert f"{file} has changed since it was written" in readable(results).left_out[SFT]
