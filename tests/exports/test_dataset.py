"""Images and scores of a results folder as a data set that `datasets` and this program read."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Image, load_dataset
from datasets.utils import disable_progress_bars
from pyarrow import parquet

from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.export import arguments, main
from alignbench.exports import dataset
from alignbench.exports.dataset import export_dataset
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.store.scores import Scores

RESULTS = Path(__file__).resolve().parents[1] / "fixtures" / "v0_1_0" / "results"
DPO, BASE = "dpo-sd15_mini-c63d6512e6", "base-sd15_mini-ae915fe28c"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A copy, as a report notes what it measures in the run folders."""
    return shutil.copytree(RESULTS, tmp_path_factory.mktemp("copy") / "results")


@pytest.fixture(scope="module")
def out(results, tmp_path_factory):
    disable_progress_bars()
    folder = tmp_path_factory.mktemp("exported") / "images"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "ROWS", 5)
        patch.setattr(dataset, "SHARD_BYTES", 20_000)
        assert export_dataset(results, folder) == 24
    return folder


@pytest.fixture(scope="module")
def rows(out, tmp_path_factory):
    return load_dataset(str(out), split="train", cache_dir=str(tmp_path_factory.mktemp("cache")))


def test_load_dataset_reads_every_image_with_its_prompt(rows, results):
    assert isinstance(rows.features["image"], Image)
    assert len(rows) == 24
    assert {(row["run"], row["prompt_id"], row["image_number"]) for row in rows.remove_columns("image")} == {
        (folder.name, file.name.rpartition("-")[0], 0)
        for folder in run_folders(results)
        for file in folder.path.glob("images/*/*/*.png")
    }
    encoded = rows.cast_column("image", Image(decode=False))
    for row, image in zip(rows, (row["image"] for row in encoded), strict=True):
        (file,) = results.glob(f"{row['run']}/images/*/*/{row['prompt_id']}-{row['image_number']}.png")
        assert image == {"bytes": file.read_bytes(), "path": file.name}
        assert row["image"].size == (64, 64)
        records = [json.loads(line) for line in (file.parent / "prompts.jsonl").read_text().splitlines()]
        (record,) = [record for record in records if record["prompt_id"] == row["prompt_id"]]
        assert (row["prompt"], row["groups"]) == (record["prompt"], record["groups"])
        assert json.loads(row["sampling"]) == json.loads((file.parent / "sampling.json").read_text())
    assert {(row["run"], row["method"], row["model"], row["seed"], row["prompt_set"]) for row in rows} >= {
        (BASE, "base", "sd15_mini", None, "shapes"), (DPO, "dpo", "sd15_mini", 0, "shapes"),
    }  # fmt: skip


def test_every_score_is_in_the_column_of_its_evaluator(rows, results):
    found = {}
    for row in rows.remove_columns("image"):
        for column in (name for name in row if name.startswith("score_")):
            if row[column] is not None:
                found[row["run"], column, row["prompt_id"], row["image_number"]] = row[column]
    expected = {}
    for file in results.glob("*-sd15_mini-*/scores/*/*/*.parquet"):
        scores = Scores.read(file)
        column = f"score_{scores.info.evaluator}_v{scores.info.version}"
        for key, number, score in zip(scores.prompt_id, scores.image, scores.score, strict=True):
            expected[file.parts[-5], column, key, number] = float(score)
    assert found == expected
    assert "score_shapes_annotators_v2" in rows.column_names


def test_shards_and_row_groups_are_small(out):
    files = [parquet.ParquetFile(file) for file in sorted(out.glob("data/*.parquet"))]
    assert len(files) > 1
    assert sum(file.metadata.num_rows for file in files) == 24
    groups = [file.metadata.row_group(i).num_rows for file in files for i in range(file.num_row_groups)]
    assert groups == [5, 5, 5, 5, 4]


def test_few_rows_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "ROWS", 3)
    read, written = [], []
    write = parquet.ParquetWriter.write_table
    monkeypatch.setattr(
        parquet.ParquetWriter, "write_table", lambda self, table: written.append(len(read)) or write(self, table)
    )
    cells = {"groups": [], "image": {"bytes": b"", "path": "a.png"}, "seed": None, "image_number": 0}
    columns = dataset.schema([])
    row = dict.fromkeys(columns.names, "") | cells
    dataset.write_shards((read.append(i) or row for i in range(10)), columns, tmp_path / "data")
    assert written == [3, 6, 9, 10]


def test_the_page_tells_scores_commands_and_licence(out, results):
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert front["size_categories"] == ["n<1K"]
    assert "These images were made with `sd15_mini` or with weights that were trained from there, whose licence" in card
    assert re.search(
        r"\| sd15_mini \| smpo \| shapes \| 8 \| `shapes_annotators@2` \| median [\d.]+ .*50\.0 % .* \| yes \|", card
    )
    assert "nan" not in card
    assert "| `score_shapes_clip_v1` | score of `shapes_clip`, version 1; higher is better |" in card
    lines = re.search(r"```bash\n(.*?)```", card, re.DOTALL)[1].splitlines()
    assert [line.split(",")[0] for line in lines[::2]] == [
        f"# {name}" for name in (BASE, DPO, "smpo-sd15_mini-e4ffb7e7a5")
    ]
    assert "train.max_train_steps=4" in shlex.split(lines[3])
    assert str(results) not in card


def test_the_data_set_can_be_trained_on(out):
    data = build(composed(["method=sft_labelled", "model=sd15_mini", "data=hub_captions", f"data.path={out}"]).data)
    (first, *others) = data.view("images")
    assert len(others) == 23 - data.num_filtered["duplicate"]
    assert first.image.pixels.shape == (64, 64, 3)


@pytest.fixture
def changed(tmp_path):
    """A results folder that a test may damage: without runs but those of dpo and base."""
    for name in (BASE, DPO):
        shutil.copytree(RESULTS / name, tmp_path / "results" / name)
    return tmp_path / "results"


def test_a_run_with_an_image_that_is_not_what_was_scored_is_left_out(changed, tmp_path, capsys):
    first, second, *_ = sorted(changed.glob(f"{DPO}/images/*/*/*.png"))
    shutil.copy(second, first)
    assert export_dataset(changed, tmp_path / "out") == 8
    assert f"{DPO} is left out: {first} has changed since it was scored" in capsys.readouterr().out
    rows = parquet.read_table(tmp_path / "out" / "data").to_pylist()
    assert {row["run"] for row in rows} == {BASE}


def test_images_that_are_gone_are_left_out_and_those_without_scores_are_not(changed, tmp_path):
    first = min(changed.glob(f"{DPO}/images/*/*/*.png"))
    first.unlink()
    run = RunFolder(changed / BASE)
    kept = {name: value for name, value in run.manifest.files.items() if not name.startswith("scores/")}
    replace(run.manifest, files=kept).write(run.manifest_file)
    assert export_dataset(changed, tmp_path / "out") == 15
    table = parquet.read_table(tmp_path / "out" / "data").to_pylist()
    of_base = [row for row in table if row["run"] == BASE]
    assert len(of_base) == 8
    assert {row["score_shapes_clip_v1"] for row in of_base} == {None}
    assert np.isfinite([row["score_shapes_clip_v1"] for row in table if row["run"] == DPO]).all()
    picture = min(changed.glob(f"{BASE}/images/*/*/*.png"))
    picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(ResultsError, match=rf"{picture.name} .*add generate to stages"):
        export_dataset(changed, tmp_path / "again")


def test_commands_that_cannot_work_end_in_a_sentence(changed, tmp_path, capsys, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    for complaint, root, out in (
        ("exists and is not empty", changed, "used"),
        (rf"is one run; give the results folder, here {changed}", changed / DPO, "out"),
        ("holds no runs", tmp_path, "out"),
    ):
        with pytest.raises(UserError, match=complaint):
            export_dataset(root, tmp_path / out)
    words = [str(changed), "--format", "dataset", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["export", *words, "--rank", "4"])
    with pytest.raises(SystemExit):
        main()
    assert "takes neither --rank nor key=value" in capsys.readouterr().err
    assert arguments(words).push_to_hub is None
