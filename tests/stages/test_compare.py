"""The stage compare, from the command to the tables, with the comparer that needs no network."""

import csv
import json

import pytest

from tests.evaluators.comparers.test_openai_compatible import KEY, Server, chat
from tests.program import SMALL_RUN, alignbench, rows
from tests.serving import at_work
from tests.stages.test_existing import folders_argument, scenes

pytestmark = pytest.mark.matrix
ALONE = ["model=images", "evaluators=none", "comparers=shapes"]


@pytest.fixture
def two_folders(tmp_path):
    """Flat and shaded scenes of the same prompts; the people of the shapes world prefer the shaded ones."""
    folders = [tmp_path / "plain", tmp_path / "ours"]
    for folder, style in zip(folders, ("flat", "shaded"), strict=True):
        prompts = scenes(folder, 2, style)
        with (folder / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "prompt"), *prompts.items()])
    return folders


def verdicts(root):
    (file,) = root.glob("comparisons/*/*/shapes_comparer@1.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_existing_images_are_compared_without_evaluators_and_a_repeated_command_asks_nothing(two_folders, tmp_path):
    root = tmp_path / "results"
    command = [*ALONE, folders_argument(two_folders), f"results={root}", "stages=[compare]"]
    printed = " ".join(alignbench(*command).stdout.split())
    assert "2 comparisons in 4 calls, the first image preferred in" in printed
    assert "failures 0 (0.0 %)" in printed
    before = verdicts(root)
    assert len(before) == 4
    assert {(one["a"].split("-")[0], one["b"].split("-")[0]) for one in before} == {("base", "ours")}
    alignbench(*command)
    assert verdicts(root) == before


def test_a_limit_ends_the_command_with_what_is_left(two_folders, tmp_path):
    root = tmp_path / "results"
    command = [*ALONE, folders_argument(two_folders), f"results={root}", "stages=[compare]", "compare.max_calls=3"]
    done = alignbench(*command, check=False)
    assert done.returncode == 2
    assert "compare.max_calls=3 calls are made, and 1 are left; all verdicts are kept" in done.stderr
    assert len(verdicts(root)) == 3
    alignbench(*command)
    assert len(verdicts(root)) == 4


def test_the_tables_have_the_comparer_alone(two_folders, tmp_path):
    root = tmp_path / "results"
    done = alignbench(*ALONE, folders_argument(two_folders), f"results={root}", "stages=[compare,report]")
    assert "shapes_comparer" in done.stdout
    (row,) = [row for row in rows(root / "win_rates.csv") if row["group"] == "all"]
    assert (row["evaluator"], row["method_a"], row["method_b"], row["n"]) == ("shapes_comparer", "ours", "base", "2")
    assert float(row["win_rate"]) > 0.5
    assert {row["method"] for row in rows(root / "ranking.csv")} == {"base", "ours"}
    assert "shapes_comparer" in (root / "index.html").read_text()
    whole, pair = rows(root / "comparers.csv")
    assert (whole["method_a"], pair["method_a"], pair["win_rate"]) == ("", "ours", row["win_rate"])
    assert float(pair["position"]) == pytest.approx(0.5)


def test_the_key_of_an_address_is_in_no_file_and_in_no_line(two_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    root = tmp_path / "results"
    with at_work(Server((200, chat(f"B {KEY}", {"B": -0.1, "A": -3.0})))) as server:
        done = alignbench(
            "model=images", "evaluators=none", "comparers=openai", "comparers.openai.name=asked",
            f"comparers.openai.base_url={server.url}", "comparers.openai.model=judge",
            "comparers.openai.key_variable=KEY_OF_THE_TEST", folders_argument(two_folders), f"results={root}",
            "stages=[compare,report]",
        )  # fmt: skip
        assert {one["Authorization"] for one in server.headers} == {f"Bearer {KEY}"}
        assert len(server.asked) == 8 + 4  # the canary pairs first
    (file,) = root.glob("comparisons/*/*/asked@1-768px.jsonl")
    assert '"raw": "B ***"' in file.read_text()
    assert "asked" in (root / "win_rates.csv").read_text()
    files = [file for file in root.rglob("*") if file.is_file()]
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
    assert KEY not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_trained_run_is_compared_with_base_beside_the_evaluators_of_its_world(tmp_path):
    """As the first command of docs/comparers.md does, in small."""
    command = ["method=dpo", "model=sd15_mini", "comparers=shapes", *SMALL_RUN, f"results={tmp_path}"]
    done = alignbench(*command, "stages=[train,generate,score,compare,report]")
    assert "train > generate > score > compare > report" in done.stdout
    found = [row for row in rows(tmp_path / "win_rates.csv") if row["group"] == "all"]
    assert {row["evaluator"] for row in found} == {
        "shapes_annotators", "shapes_clip", "shapes_comparer", "shapes_oracle_agreement", "shapes_oracle_cleanliness",
        "shapes_oracle_realism", "shapes_preference",
    }  # fmt: skip
    assert len(verdicts(tmp_path)) == 8
    told = alignbench("method=base", "model=sd15_mini", "comparers=shapes", *SMALL_RUN, f"results={tmp_path}",
                      "stages=[compare,report]").stdout  # fmt: skip
    assert "compared" in told
    assert len(verdicts(tmp_path)) == 8  # known from the side of the other run
