"""Scores are made in one pass, once, and the same whatever the batch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.files import write_png
from alignbench.generate import Sampling
from alignbench.miniature.captions import prompts as scene_prompts
from alignbench.miniature.scenes import render, sample_scene
from alignbench.results import Manifest, RunFolder, Scores, image_name
from alignbench.score import _open, score, scored
from evaluators.preprocess import rgb
from evaluators.shapes_oracle import ShapesOracle

SAMPLING = Sampling(num_inference_steps=2, guidance_scale=1.0, batch_size=4)


class Mean(Preprocess):
    """Reads the mean of a picture and counts how many it has read."""

    def __init__(self, key: str = "mean") -> None:
        self.read: list[int] = []
        self._key = key

    @property
    def key(self) -> str:
        return self._key

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        self.read.append(len(images))
        return torch.tensor([np.asarray(image, np.float32).mean() for image in images])


class Brightness(Evaluator):
    """Scores brightness plus the length of the prompt, and counts what it encodes and scores."""

    version = "1"

    def __init__(self, name: str, preprocess: Preprocess) -> None:
        self.name, self.preprocess = name, preprocess
        self.encoded: list[str] = []
        self.num_scored = 0

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        self.encoded += prompts
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    def score_features(self, inputs: Tensor, encoded: Tensor) -> Tensor:
        self.num_scored += len(inputs)
        return inputs + encoded


class Undefined(Brightness):
    """Gives no number."""

    def score_features(self, inputs: Tensor, encoded: Tensor) -> Tensor:
        return inputs * float("nan")


def prompt_set(num: int) -> PromptSet:
    """Return a set in which every second prompt repeats the one before."""
    return PromptSet("test", tuple(Prompt(f"p{i:02d}", "prompt " + "x" * (i // 2)) for i in range(num)), 32)


def run_folder(path: Path, num: int = 10, images_per_prompt: int = 1) -> RunFolder:
    """Return a run folder with a rendered scene as each image."""
    folder = RunFolder(path / "base-test-0")
    folder.open(Manifest(run="base-test-0", method="base", model="test", seed=None, config_hash="0", recipe_hash="0"))
    for i in range(num):
        for k in range(images_per_prompt):
            rng = np.random.default_rng([i, k])
            picture = Image.fromarray(render(sample_scene(rng), rng))
            write_png(folder.images("test", SAMPLING.hash) / image_name(f"p{i:02d}", k), picture)
    return folder


def table(folder: RunFolder, evaluator: Evaluator) -> Scores:
    return Scores.read(folder.score_file("test", SAMPLING.hash, evaluator.name, evaluator.version))


def test_each_image_gets_its_own_score(tmp_path):
    folder, evaluator = run_folder(tmp_path, 5, images_per_prompt=2), Brightness("bright", Mean())
    score(folder, prompt_set(5), replace(SAMPLING, images_per_prompt=2), [evaluator], progress=False)
    rows = table(folder, evaluator)
    assert list(rows.prompt_id) == [f"p{i:02d}" for i in range(5) for _ in range(2)]
    assert rows.image.tolist() == [0, 1] * 5
    for prompt_id, number, value in zip(rows.prompt_id, rows.image, rows.score, strict=True):
        picture = Image.open(folder.images("test", SAMPLING.hash) / f"{prompt_id}-{number}.png")
        text = next(prompt.prompt for prompt in prompt_set(5) if prompt.prompt_id == prompt_id)
        assert value == pytest.approx(np.asarray(picture, np.float32).mean() + len(text))
    assert rows.score.dtype == np.float32
    assert (rows.info.evaluator, rows.info.preprocess, rows.info.precision) == ("bright", "mean", "float32")


@pytest.mark.parametrize(("batch_size", "num_rows"), [(1, 10), (3, 10), (64, 10)])
def test_scores_do_not_depend_on_the_batch_size(tmp_path, batch_size, num_rows):
    folder = run_folder(tmp_path)
    oracle, bright = ShapesOracle("cleanliness"), Brightness("bright", Mean())
    score(folder, prompt_set(num_rows), replace(SAMPLING, batch_size=batch_size), [oracle, bright], progress=False)
    images = [Image.open(folder.images("test", SAMPLING.hash) / f"p{i:02d}-0.png") for i in range(num_rows)]
    for evaluator in (oracle, bright):
        expected = evaluator.score(images, prompt_set(num_rows).texts).numpy()
        np.testing.assert_array_equal(table(folder, evaluator).score, expected)


def test_equal_preprocessings_are_computed_once_and_repeated_prompts_encoded_once(tmp_path):
    shared, own = Mean(), Mean("other")
    evaluators = [Brightness("a", shared), Brightness("b", Mean()), Brightness("c", own)]
    score(run_folder(tmp_path), prompt_set(10), SAMPLING, evaluators, progress=False)
    assert sorted(shared.read) == [2, 4, 4]
    assert evaluators[1].preprocess.read == []  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(own.read) == [2, 4, 4]
    for evaluator in evaluators:
        assert len(evaluator.encoded) == len(set(evaluator.encoded)) == 5
        assert evaluator.num_scored == 10


def test_a_second_call_scores_nothing(tmp_path):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    assert not scored(folder, prompt_set(10), SAMPLING, evaluator)
    score(folder, prompt_set(10), SAMPLING, [evaluator], progress=False)
    assert scored(folder, prompt_set(10), SAMPLING, evaluator)
    path = folder.score_file("test", SAMPLING.hash, "a", "1")
    assert folder.verified(path) == path
    before = path.stat().st_mtime_ns
    score(folder, prompt_set(10), SAMPLING, [evaluator], progress=False)
    assert evaluator.num_scored == 10
    assert path.stat().st_mtime_ns == before


def test_added_prompts_and_evaluators_are_scored_alone(tmp_path):
    folder = run_folder(tmp_path)
    first, second = Brightness("a", Mean()), Brightness("b", Mean())
    score(folder, prompt_set(6), SAMPLING, [first], progress=False)
    old = table(folder, first)
    score(folder, prompt_set(10), SAMPLING, [first], progress=False)
    assert first.num_scored == 10
    assert len(table(folder, first).score) == 10
    np.testing.assert_array_equal(table(folder, first).score[:6], old.score)
    score(folder, prompt_set(10), SAMPLING, [first, second], progress=False)
    assert (first.num_scored, second.num_scored) == (10, 10)
    # a smaller request takes no score away
    score(folder, prompt_set(2), SAMPLING, [first, second], progress=False)
    assert len(table(folder, first).score) == 10


def test_a_missing_image_is_refused_before_anything_is_scored(tmp_path):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    (folder.images("test", SAMPLING.hash) / "p07-0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 10 images are missing in .* such as p07-0.png; add generate to stages"):
        score(folder, prompt_set(10), SAMPLING, [evaluator], progress=False)
    assert evaluator.num_scored == 0


@pytest.mark.parametrize("damage", [slice(0, -300), slice(0, 20), slice(0, 0)])
def test_a_damaged_image_is_refused_and_nothing_is_written(tmp_path, damage):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    path = folder.images("test", SAMPLING.hash) / "p07-0.png"
    path.write_bytes(path.read_bytes()[damage])
    with pytest.raises(UserError, match=r"p07-0.png is damaged .* delete it and add generate to stages"):
        score(folder, prompt_set(10), SAMPLING, [evaluator], progress=False)
    assert not folder.scores("test", SAMPLING.hash).exists()


def test_an_image_with_a_flipped_bit_is_refused(tmp_path):
    folder = run_folder(tmp_path)
    path = folder.images("test", SAMPLING.hash) / "p07-0.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"p07-0.png is damaged"):
        score(folder, prompt_set(10), SAMPLING, [Brightness("a", Mean())], progress=False)


def test_a_score_that_is_no_number_stops_the_run_and_is_not_stored(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(ValueError, match="10 of 10 scores that are not finite"):
        score(folder, prompt_set(10), SAMPLING, [Undefined("a", Mean())], progress=False)
    assert not folder.scores("test", SAMPLING.hash).exists()


def test_scores_of_another_preprocessing_are_not_added_to(tmp_path):
    folder = run_folder(tmp_path)
    score(folder, prompt_set(6), SAMPLING, [Brightness("a", Mean())], progress=False)
    with pytest.raises(UserError, match="delete it to score again"):
        score(folder, prompt_set(10), SAMPLING, [Brightness("a", Mean("another"))], progress=False)


def test_prompts_outside_the_grammar_are_refused_by_agreement_alone(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(UserError, match="shapes_oracle_agreement judges by prompts of the shapes world alone"):
        score(folder, prompt_set(10), SAMPLING, [ShapesOracle("agreement")], progress=False)
    score(folder, prompt_set(10), SAMPLING, [ShapesOracle("realism"), ShapesOracle("cleanliness")], progress=False)
    inside = tuple(Prompt(f"p{i:02d}", text) for i, text in enumerate(scene_prompts("heldout", 10, seed=0)))
    score(folder, PromptSet("test", inside, 10), SAMPLING, [ShapesOracle("agreement")], progress=False)
    assert len(table(folder, ShapesOracle("agreement")).score) == 10


def test_pictures_of_16_bits_are_scaled_to_8_instead_of_cut_off(tmp_path):
    Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.uint16)).save(tmp_path / "grey.png")
    assert rgb(_open(tmp_path / "grey.png")).getpixel((0, 0)) == (100, 100, 100)
