"""Names, hashes and keys are those of version 0.1.0, so that what it made is found and not made again.

The expected values are in tests/fixtures/v0_1_0/golden.json, by the command or the thing that they belong to.
"""

import json
from pathlib import Path

import pytest
import torch

from alignbench.configuration.build import build, recipe_hash, resolve, run_name
from alignbench.configuration.compose import composed
from alignbench.configuration.find_evaluator import build_evaluator
from alignbench.context import Context, keyed_generator
from alignbench.crop import CropSpec
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.feature_cache import Caches, picture_key, prompt_key
from alignbench.data.batches.scorer_scores import add_scores
from alignbench.generation.generate import Sampling
from alignbench.models.adapter import ModelAdapter
from alignbench.scoring.prompt_cache import TextCache
from alignbench.scoring.score import info
from alignbench.stages.prepare import build_adapter
from alignbench.text import keyed
from alignbench.train_reward.run import reward_model_name
from alignbench.work_share import WorkShare

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "golden.json").read_text())


def golden(section):
    """Parametrize a test by what a section tells: each key and the value expected of it."""
    return pytest.mark.parametrize(("given", "expected"), GOLDEN[section].items(), ids=list(GOLDEN[section]))


@golden("runs")
def test_run_names_and_recipe_hashes(given, expected):
    cfg = composed(given.split())
    assert [run_name(cfg), recipe_hash(cfg)] == expected


@golden("judges")
def test_judge_names(given, expected):
    assert reward_model_name(composed(given.split(), "train_reward")) == expected


@golden("samplings")
def test_sampling_hashes(given, expected, tmp_path):
    (tmp_path / "prompt-1.png").write_bytes(b"a picture")
    cfg = composed(given.replace("FOLDER", str(tmp_path)).split())
    values = resolve(cfg)["sampling"] | {"control": build(cfg.sampling.control)}
    assert Sampling(**values).hash == expected


@golden("prompt_sets")
def test_prompt_set_fingerprints(given, expected):
    assert build(composed([given]).prompts).fingerprint == expected


@golden("data")
def test_data_fingerprints(given, expected, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a red circle", "image_w": "w.png", "image_l": "l.png"}\n')
    (tmp_path / "prompts.txt").write_text("a red circle\na blue cross\n")
    for name in ("w", "l"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
        (tmp_path / f"{name}.txt").write_text("a red circle")
    cfg = composed(given.replace("FOLDER", str(tmp_path)).split())
    assert build(cfg.data).fingerprint == expected


@golden("caches")
def test_folders_of_prompts_and_images_that_are_encoded_alone(given, expected, tmp_path, monkeypatch):
    """As all were in 0.1.0. What is encoded in batches, as for the miniatures of today, is in other folders."""
    model = build_adapter(composed([given]).model)

    def folders():
        found = Caches.open(tmp_path, model, "mode", torch.device("cpu")).made_by
        return [str(folder.relative_to(tmp_path)) for folder in found]

    assert not {*folders()} & {*expected}
    monkeypatch.setattr(ModelAdapter, "prompts_per_call", 1)
    monkeypatch.setattr(ModelAdapter, "images_per_call", 1)
    assert folders() == expected


def test_keys_of_encoded_prompts_and_images():
    square, cut = CropSpec((64, 64)), CropSpec((64, 48), (0.25, 0.5), flipped=True)
    found = [prompt_key("a red circle"), picture_key("data/1", square), picture_key("data/1", cut)]
    assert [key.hex() for key in found] == GOLDEN["keys"]


def test_folder_of_scores_of_training_images(tmp_path):
    data = build(composed(["data=shapes", "data.num_pairs=2", "data.num_prompts=2"]).data)
    add_scores(data, build_evaluator("shapes_clip", {}), tmp_path, WorkShare())
    (file,) = tmp_path.rglob("*.safetensors")  # version 0.1.0 kept them as parquet, in the same folder
    assert file.parent.relative_to(tmp_path) == Path(GOLDEN["training_scores"]).parent


@golden("evaluators")
def test_what_scores_and_the_text_cache_are_kept_under(given, expected, tmp_path):
    evaluator = build_evaluator(given, {})
    assert info(evaluator).record() == expected["info"]
    assert TextCache(evaluator, tmp_path).folder.name == expected["text"]


def test_seeds_of_draws():
    context = Context(step=3, seed=1, micro_batch_size=4, update=2)
    random_cut = CropPolicy(((64, 64),), crop="random", random_flip=True).draw((64, 64), seed=1, index=5)
    found = {
        "image": keyed_generator("image", 0, "prompt-1", 2).initial_seed(),
        "sample": context.sample_generator(5, "noise").initial_seed(),
        "shared": context.shared_generator("noise").initial_seed(),
        "cut": random_cut.name,
        "study": keyed(0, "order", 1, "prompt-1", ["base", "dpo"]).hex(),
    }
    assert found == GOLDEN["draws"]
