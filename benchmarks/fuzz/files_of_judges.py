"""Readers of what judges are asked and measured by: questions, answers and images that people compared."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from alignbench.card.human.lists import GenAIBenchLi, HPDv2Test, ImageRewardTest
from alignbench.card.human.pairs import MMRB2, GenAIBenchJiang, PickAPicTest
from alignbench.files import write_json, write_text
from benchmarks.fuzz.files_of_users import write_images
from benchmarks.fuzz.reader import Reader
from evaluators.vqa import geneval2
from evaluators.vqa.answers import Answer, AnswerCache, Question, key_of
from evaluators.vqa.blip_vqa import read_chunks
from evaluators.vqa.tables import read_questions

# ---- questions about images

DSG = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language\n"
    '1,a red cat,,1,0,entity,whole,entity - whole (cat),Is there a cat?\n1,a red cat,,2,"1",attribute,color,'
    '"attribute - color (cat, red)",Is the cat red?\n'
)
TIFA = [
    {"id": "a", "caption": "a red cat", "question": "what animal is it?", "choices": ["cat", "dog"], "answer": "cat",
     "element_type": "animal"},
    {"id": "a", "caption": "a red cat", "question": "is it red?", "choices": ["yes", "no"], "answer": "yes"},
]  # fmt: skip
OWN = [
    {"prompt": "a red cat", "question": "Is there a cat?", "id": 1},
    {"prompt": "a red cat", "question": "Which colour?", "choices": "red|blue", "answer": "red", "parents": [1]},
]
GENEVAL2 = [
    {"prompt": "two cats", "vqa_list": [["How many cats are there?", "two"], ["Is it a cat?", "Yes"]],
     "skills": ["count", "object"], "atom_count": 2},
]  # fmt: skip
QUESTION = Question("Is there a cat?", ("Yes", "yes"))
KEY = key_of("ab" * 32, QUESTION)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _answers(folder: Path) -> None:
    cache = AnswerCache("model", folder)
    cache.add({KEY: (QUESTION, Answer(0.75, 0.0, "Yes"))})
    (file,) = cache.folder.glob("*.jsonl")
    file.rename(folder / "answers.jsonl")


def _read_answers(folder: Path) -> None:
    cache = AnswerCache("model", folder)
    (cache.folder / f"{KEY[:2]}.jsonl").write_bytes((folder / "answers.jsonl").read_bytes())
    (found,) = cache.get([KEY])
    assert found is None or 0 <= found.probability <= 1


def _questions() -> Iterator[Reader]:
    for name, content, read in (
        ("questions_dsg.csv", DSG, read_questions),
        ("questions_tifa.json", json.dumps(TIFA), read_questions),
        ("questions.jsonl", _lines(OWN), read_questions),
        ("noun phrases.csv", "prompt,chunks\na red cat and a dog,a red cat|a dog\n", read_chunks),
        ("geneval2.jsonl", _lines(GENEVAL2), geneval2._read),
    ):
        yield Reader(
            name,
            name,
            lambda folder, name=name, content=content: write_text(folder / name, content),
            lambda folder, name=name, read=read: read(folder / name),
        )
    yield Reader("answers.jsonl", "answers.jsonl", _answers, _read_answers)


# ---- images that people compared

PAIR = {
    "prompt_content": [["text", "a cat"]], "prompt_source": "a", "chosen": "A",
    "response_a": {"response_content": [["image", "0.png"]]}, "response_b": {"response_content": [["image", "1.png"]]},
}  # fmt: skip
LISTS: dict[str, tuple[Callable[[str, str], Any], Any]] = {
    "imagereward": (ImageRewardTest, [{"prompt": "a", "generations": ["0.png", "1.png"], "ranking": [1, 2]}]),
    "hpdv2": (HPDv2Test, [{"prompt": "a", "image_path": ["0.png", "1.png", "2.png"], "rank": [1, 3, 2]}]),
    "genai_bench_li": (GenAIBenchLi, {"00001": {"prompt": "a", "models": {"m": [1, 2, 3], "n": [5, 5, 4]}}}),
    "mmrb2": (MMRB2, {"pairs": [PAIR, {**PAIR, "chosen": "B"}]}),
}


def _list(folder: Path, content: Any) -> None:
    write_images(folder)
    for model in ("m", "n"):
        (folder / model).mkdir()
        shutil.copy(folder / "0.png", folder / model / "00001.png")
    write_json(folder / "list.json", content)


def _pickapic(folder: Path) -> None:
    table = {"caption": ["a", "b"], "jpg_0": [b"x", b"y"], "jpg_1": [b"z", b"w"], "label_0": [1.0, 0.5]}
    parquet.write_table(pyarrow.table(table), folder / "pairs.parquet")


def _genai_bench(folder: Path) -> None:
    images = [{"bytes": b"x", "path": None}] * 2
    table = {"prompt": ["a", "b"], "left_image": images, "right_image": images, "vote_type": ["leftvote", "tievote"]}
    parquet.write_table(pyarrow.table(table), folder / "pairs.parquet")


def _people() -> Iterator[Reader]:
    for name, (kind, content) in LISTS.items():
        yield Reader(
            f"{name} of people",
            "list.json",
            lambda folder, content=content: _list(folder, content),
            lambda folder, kind=kind: kind(str(folder / "list.json"), str(folder)).records,
        )
    for name, kind, make in (
        ("pickapic", PickAPicTest, _pickapic),
        ("genai_bench_jiang", GenAIBenchJiang, _genai_bench),
    ):
        yield Reader(
            f"{name} of people",
            "pairs.parquet",
            make,
            lambda folder, kind=kind: kind(str(folder / "pairs.parquet")).records,
        )


def of_judges() -> Iterator[Reader]:
    yield from _questions()
    yield from _people()
