"""C9: the program from Python: one small run, its result, and the tables of its folder."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import alignbench
from alignbench import UserError, load_results, run
from alignbench.files import write_text
from alignbench.interface.results import RUN_COLUMNS, SCORE_COLUMNS
from alignbench.reading import read_json_lines
from alignbench.report.columns import LEADERBOARD_COLUMNS, TEXT_COLUMNS, TRUTH_COLUMNS
from alignbench.store.manifest import ResultsError
from tests.program import SMALL_RUN, rows

WORDS = ["method=sft", "model=sd15_mini", *SMALL_RUN]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return run(*WORDS, f"results={root}")


@pytest.fixture
def results(done):
    return load_results(done.folder.parent)


def test_a_run_tells_where_its_folder_and_its_policy_are(done):
    assert done.runs == (next(one for one in done.runs if one.startswith("base-sd15_mini-")), done.folder.name)
    assert done.folder.name.startswith("sft-sd15_mini-")
    assert done.policy == done.folder / "policy"
    assert (done.policy / "unet").is_dir()


def test_the_table_has_the_rows_of_the_run_and_of_base(done):
    assert set(done.table["method"]) == {"base", "sft"}
    assert set(done.table["group"]) == {"all"}
    trained = done.table[done.table["method"] == "sft"]
    assert (trained["optimizer_steps"] == 2).all()
    assert trained["win_rate_vs_base"].between(0, 1).all()
    assert "sft" in repr(done)
    assert "<table" in done._repr_html_()


def test_images_carry_their_prompts(done):
    images = done.images(3)
    assert [image.size for image in images] == [(64, 64)] * 3
    (listed,) = done.folder.glob("images/*/*/prompts.jsonl")
    assert [image.info["prompt"] for image in images] == [one["prompt"] for one in read_json_lines(listed)][:3]


def test_the_same_words_do_nothing_again(done):
    before = {file: file.stat().st_mtime_ns for file in done.folder.rglob("*.png")}
    again = run(*WORDS, f"results={done.folder.parent}")
    assert again == done
    assert {file: file.stat().st_mtime_ns for file in done.folder.rglob("*.png")} == before


def test_the_pipeline_has_the_trained_weights(done):
    trained, base = done.pipeline(), run("method=base", *WORDS[1:], f"results={done.folder.parent}").pipeline()
    assert type(trained).__name__ == "StableDiffusionPipeline"
    moved = [not a.equal(b) for a, b in zip(trained.unet.parameters(), base.unet.parameters(), strict=True)]
    assert any(moved)
    assert trained("a red circle", num_inference_steps=2, output_type="np").images.shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=dppo"], "method=dppo is unknown; did you mean dpo"),
        (["-m", "method=sft,dpo"], "run.. takes key=value, not -m; for a sweep call run"),
        (
            ["experiment=mini_table", "method=dpo", "model=sd15_mini"],
            "these words are a sweep of 3 jobs",
        ),
        (["dry_run=true"], "dry_run=true prints an estimate and makes nothing"),
        ([{"method": "sft"}], "run.. takes the words of a command"),
    ],
)
def test_words_that_cannot_be_run_are_refused_in_a_sentence(words, told):
    with pytest.raises(UserError, match=told):
        run(*words)


def test_tables_hold_the_figures_of_the_files(results):
    table = results.leaderboard
    assert list(table.columns) == list(LEADERBOARD_COLUMNS)
    for frame, file in ((table, "leaderboard.csv"), (results.win_rates, "win_rates.csv"),
                        (results.ranking, "ranking.csv"), (results.diagnostics, "diagnostics.csv")):  # fmt: skip
        written = rows(results.folder / file)
        assert len(frame) == len(written) > 0
        for name in frame:
            cells = [row[name] for row in written]
            if name in TEXT_COLUMNS:
                assert frame[name].tolist() == cells
            elif name in TRUTH_COLUMNS:
                assert frame[name].astype(str).tolist() == cells
            else:
                expected = np.array([float(cell or "nan") for cell in cells])
                np.testing.assert_array_equal(frame[name].to_numpy(float), expected)


def test_scores_are_those_of_each_image(results, done):
    scores = results.scores
    assert list(scores.columns) == list(SCORE_COLUMNS)
    evaluators = results.leaderboard["evaluator"].nunique()
    assert len(scores) == 2 * 4 * evaluators
    assert scores.loc[scores["method"] == "base", "seed"].isna().all()
    means = scores[scores["run"] == done.folder.name].groupby("evaluator")["score"].mean()
    table = done.table[done.table["method"] == "sft"].set_index("evaluator")["mean"]
    pd.testing.assert_series_equal(means.astype(float), table.sort_index(), check_names=False, rtol=1e-5)


def test_training_and_validation_are_tables_of_all_runs(results, done):
    training = results.training
    assert list(training.columns[:5]) == [*RUN_COLUMNS, "step"]
    assert training["run"].unique().tolist() == [done.folder.name]
    assert training["step"].tolist() == sorted(training["step"])
    assert training["loss"].notna().all()
    assert results.validation.empty


def test_the_summary_shows_win_rates_in_per_cent(results, done):
    rates = done.table[done.table["method"] == "sft"].set_index("evaluator")["win_rate_vs_base"]
    shown = results.summary.loc[("sd15_mini", "shapes", "sft")]
    pd.testing.assert_series_equal(shown, (100 * rates).round(1), check_names=False, check_like=True)
    assert "sft" in repr(results)


def test_names_that_look_like_missing_values_stay_names(tmp_path, results):
    (tmp_path / "x").mkdir()
    text = (results.folder / "leaderboard.csv").read_text().replace(",sft,", ",NA,").replace(",all,", ",nan,")
    for file in results.folder.glob("*/manifest.json"):
        write_text(tmp_path / file.parent.name / "manifest.json", file.read_text())
    write_text(tmp_path / "leaderboard.csv", text)
    table = load_results(tmp_path).leaderboard
    assert set(table["method"]) == {"base", "NA"}
    assert "nan" in set(table["group"])


def test_folders_without_results_are_refused(tmp_path, results):
    with pytest.raises(ResultsError, match="is no folder; give that of `results=`"):
        load_results(tmp_path / "none")
    with pytest.raises(ResultsError, match="has no runs"):
        load_results(tmp_path)
    for file in results.folder.glob("*/manifest.json"):
        write_text(tmp_path / file.parent.name / "manifest.json", file.read_text())
    with pytest.raises(ResultsError, match=r"leaderboard.csv is missing; repeat a command"):
        _ = load_results(tmp_path).leaderboard
    write_text(tmp_path / "leaderboard.csv", "model,method\n")
    with pytest.raises(ResultsError, match=r"leaderboard.csv has no column run, another version wrote it"):
        _ = load_results(tmp_path).leaderboard


def test_importing_the_package_loads_no_library():
    code = "import sys, alignbench; print(alignbench.__version__, *({'torch', 'hydra', 'pandas'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == [alignbench.__version__]
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = alignbench.train  # pyright: ignore[reportAttributeAccessIssue]
