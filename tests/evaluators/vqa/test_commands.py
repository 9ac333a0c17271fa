"""A command scores images of a miniature by a vision-language model in a folder, and asks each question once."""

import json

import pytest

from alignbench.scoring.evidence import evidence_file
from evaluators.networks.chat_model import ChatModel
from evaluators.vqa.clip_flant5 import WholeAnswerQuestioner
from tests.evaluators.tiny_flant5 import VISION
from tests.program import SMALL_RUN, alignbench, rows

pytestmark = pytest.mark.matrix


@pytest.fixture
def asked(monkeypatch):
    """The number of rows of each forward pass."""
    found, next_logits = [], ChatModel.next_logits
    monkeypatch.setattr(
        ChatModel,
        "next_logits",
        lambda self, inputs: found.append(len(inputs["input_ids"])) or next_logits(self, inputs),
    )
    return found


def test_images_of_a_miniature_are_scored_once(vlm, tmp_path, asked):
    results = tmp_path / "results"
    run = ("method=base", "model=sd15_mini", *SMALL_RUN, f"results={results}", "calibration=false", "evaluators=none",
           "stages=[generate,score,report]")  # fmt: skip
    model = ("source", str(vlm)), ("vlm", "tiny"), ("precision", "float32")

    def evaluator(name, *values):
        settings = (f"evaluators.{name}.{key}={value}" for key, value in (*model, *values))
        return (f"+evaluator@evaluators.{name}={name}", *settings)

    alignbench(*run, *evaluator("vqascore"))
    assert sum(asked) == 4
    [file] = results.glob("base-*/scores/shapes/*/vqascore_tiny@1-t2v_metrics.parquet")
    lines = [json.loads(line) for line in evidence_file(file).read_text().splitlines()]
    probabilities = [line["questions"][0]["probability"] for line in lines]
    table = rows(results / "leaderboard.csv")
    assert {row["evaluator"] for row in table} == {"vqascore_tiny"}
    [mean] = [float(row["mean"]) for row in table if row["group"] == "all"]
    assert mean == pytest.approx(sum(probabilities) / 4)
    assert "vqascore\\_tiny ↑, mean" in (results / "leaderboard.md").read_text()

    [prompts] = results.glob("base-*/images/shapes/*/prompts.jsonl")
    texts = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    table = tmp_path / "dsg.csv"
    lines = [f'"{text}",{number},{number - 1},"entity - {number}",Is there one?' for text in texts for number in (1, 2)]
    table.write_text("\n".join(["text,proposition_id,dependency,tuple,question_natural_language", *lines]))
    alignbench(*run, *evaluator("vqascore"), *evaluator("questions", ("table", str(table)), ("name", "dsg")))
    assert sum(asked) == 4 + 4  # both questions of an image are one and the same
    assert {row["evaluator"] for row in rows(results / "leaderboard.csv")} == {"vqascore_tiny", "dsg_tiny"}
    [first, second] = rows(results / "questions.csv")
    assert (first["evaluator"], first["category"], second["category"]) == ("dsg_tiny", "entity - 1", "entity - 2")
    assert (first["n"], first["questions"], first["method"]) == ("4", "4", "base")
    assert float(first["ci_low"]) <= float(first["mean"]) <= float(first["ci_high"])
    alignbench(*run, *evaluator("vqascore"), *evaluator("dpg", ("table", str(table))))
    assert sum(asked) == 4 + 4  # they are known from dsg


def test_a_folder_of_another_model_and_a_missing_table_are_refused_in_one_sentence(vlm, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "clip"}')
    run = ("method=base", "model=sd15_mini", f"results={tmp_path / 'results'}", "evaluators=none")
    for evaluator, values, told in (
        ("vqascore", [f"source={tmp_path / 'other'}"], "holds a model of type clip; expected one that reads images"),
        ("soft_tifa_gm", [f"source={vlm}"], "CC BY-NC 4.0 (no commercial use) and does not come with this program"),
        ("dpg", [f"source={vlm}"], "table"),
    ):
        settings = [f"evaluators.{evaluator}.{value}" for value in values]
        done = alignbench(*run, f"+evaluator@evaluators.{evaluator}={evaluator}", *settings, check=False)
        assert done.returncode != 0
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_images_are_scored_by_clip_flant5_and_each_question_is_asked_once(flant5, tmp_path, monkeypatch):
    asked, answers = [], WholeAnswerQuestioner.answers
    monkeypatch.setattr(
        WholeAnswerQuestioner, "answers", lambda self, *given: asked.append(len(given[0])) or answers(self, *given)
    )
    results, key = tmp_path / "results", "evaluators.vqascore"
    vision = ",".join(f"{name}:{value}" for name, value in VISION.items())
    run = ("method=base", "model=sd15_mini", *SMALL_RUN, "calibration=false", "evaluators=none",
           f"+evaluator@{key}=vqascore_clip_flant5", f"{key}.source={flant5}", f"{key}.tokenizer={flant5}",
           f"{key}.vlm=clip_flant5_tiny", f"+{key}.vision={{{vision}}}")  # fmt: skip
    alignbench(*run, "stages=[generate,score,report]", f"results={results}")
    [file] = results.glob("base-*/scores/shapes/*/vqascore_clip_flant5_tiny@1-paper.parquet")
    probabilities = [
        json.loads(line)["questions"][0]["probability"] for line in evidence_file(file).read_text().splitlines()
    ]
    assert len(set(probabilities)) == 4
    [mean] = [float(row["mean"]) for row in rows(results / "leaderboard.csv") if row["group"] == "all"]
    assert mean == pytest.approx(sum(probabilities) / 4)
    assert sum(asked) == 4
    alignbench(*run, "stages=[generate,score]", f"results={tmp_path / 'again'}")
    assert len(list((tmp_path / "again").glob(f"base-*/scores/shapes/*/{file.name}"))) == 1
    assert sum(asked) == 4  # the same images, of which the answers are known
