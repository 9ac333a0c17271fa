"""Scores are made in one pass, once, and the same whatever the batch."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.files import locked, write_png
from alignbench.generation.generate import Sampling, image_set
from alignbench.miniature.captions import prompts as scene_prompts
from alignbench.miniature.scenes import IMAGE_SIZE, render, sample_scene
from alignbench.reading import read_json_lines
from alignbench.scoring.evidence import add_evidence, borderline_share, evidence_file, read_evidence
from alignbench.scoring.partial_scores import ScoreTable
from alignbench.scoring.score import info, score
from alignbench.store.image_records import image_name
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.work_share import WorkShare
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

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        self.num_scored += len(features)
        return features + encoded


class Explained(Brightness):
    """Says of each score how bright its image is, and how far it is from 100."""

    summary, overall = "mean", "groups"

    def explain(self, features: Tensor, encoded: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        evidence = [{"brightness": one, "margin": abs(one - 100)} for one in features.tolist()]
        return self.score_features(features, encoded), evidence


class Undefined(Brightness):
    """Gives no number."""

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        return features * float("nan")


def prompt_set(num: int) -> PromptSet:
    """Return a set in which every second prompt repeats the one before."""
    return PromptSet("test", tuple(Prompt(f"p{i:02d}", "prompt " + "x" * (i // 2)) for i in range(num)), 32)


def run_folder(path: Path, num: int = 10, num_images_per_prompt: int = 1) -> RunFolder:
    """Return a run folder with a rendered scene as each image."""
    folder = RunFolder(path / "base-test-0")
    folder.open(Manifest(run="base-test-0", method="base", model="test", seed=None, config_hash="0", recipe_hash="0"))
    for i in range(num):
        for k in range(num_images_per_prompt):
            rng = np.random.default_rng([i, k])
            picture = Image.fromarray(render(sample_scene(rng), rng))
            write_png(folder.images("test", SAMPLING.hash) / image_name(f"p{i:02d}", k), picture)
    return folder


def run(
    folder: RunFolder, prompts: PromptSet, sampling: Sampling, evaluators: Sequence[Evaluator], **arguments: Any
) -> int:
    images = image_set(prompts, sampling, IMAGE_SIZE)
    return score(folder, images, evaluators, sampling.batch_size, progress=False, **arguments)


def table(folder: RunFolder, evaluator: Evaluator) -> Scores:
    return Scores.read(folder.score_file("test", SAMPLING.hash, evaluator.name, evaluator.version))


def test_each_image_gets_its_own_score(tmp_path):
    folder, evaluator = run_folder(tmp_path, 5, num_images_per_prompt=2), Brightness("bright", Mean())
    run(folder, prompt_set(5), replace(SAMPLING, num_images_per_prompt=2), [evaluator])
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
    run(folder, prompt_set(num_rows), replace(SAMPLING, batch_size=batch_size), [oracle, bright])
    images = [Image.open(folder.images("test", SAMPLING.hash) / f"p{i:02d}-0.png") for i in range(num_rows)]
    for evaluator in (oracle, bright):
        expected = evaluator.score(images, prompt_set(num_rows).texts).numpy()
        np.testing.assert_array_equal(table(folder, evaluator).score, expected)


def test_what_scores_were_made_of_is_kept_beside_the_parts(tmp_path):
    folder = run_folder(tmp_path, 3)
    plain, explained = Brightness("plain", Mean()), Explained("explained", Mean())
    run(folder, prompt_set(3), SAMPLING, [plain, explained])
    path = folder.score_file("test", SAMPLING.hash, "explained", "1")
    assert not evidence_file(folder.score_file("test", SAMPLING.hash, "plain", "1")).exists()
    assert evidence_file(path) == path.parent / "parts" / "explained@1.evidence.jsonl"
    lines, scores = read_json_lines(evidence_file(path)), table(folder, explained)
    assert [(line["prompt_id"], line["image"], line["digest"]) for line in lines] == [
        (prompt_id, 0, digest) for prompt_id, digest in zip(scores.prompt_id, scores.digest, strict=True)
    ]
    lengths = [len(prompt) for prompt in prompt_set(3).texts]
    assert [line["brightness"] + length for line, length in zip(lines, lengths, strict=True)] == pytest.approx(
        scores.score.tolist()
    )
    assert (scores.info.summary, scores.info.overall) == ("mean", "groups")


def test_the_records_of_evaluators_that_are_shown_by_medians_are_as_before():
    record = info(Brightness("plain", Mean())).record()
    assert "summary" not in record
    assert "overall" not in record
    assert ScoreInfo(**record) == info(Brightness("plain", Mean()))
    assert info(Explained("explained", Mean())).record().items() >= {"summary": "mean", "overall": "groups"}.items()


def test_the_share_of_borderline_images_is_of_the_images_as_they_are_now(tmp_path):
    path = tmp_path / "x@1.parquet"
    scores = Scores.of(ScoreInfo("x", "1"), ["a", "b", "c", "d"], [0] * 4, [0.0] * 4, ["new"] * 4)
    assert borderline_share(read_evidence(path, scores)) is None
    margins = [("a", "old", 0.5), ("a", "new", 0.01), ("b", "new", 0.3), ("b", "old", 0.01), ("c", "new", 0.02)]
    for name, digest, margin in margins:
        add_evidence(path, [(name, 0)], [digest], [{"margin": margin}])
    assert borderline_share(read_evidence(path, scores)) == pytest.approx(1 / 3)  # of a, b and c; d has no evidence


def test_equal_preprocessings_are_computed_once_and_repeated_prompts_encoded_once(tmp_path):
    shared, own = Mean(), Mean("other")
    evaluators = [Brightness("a", shared), Brightness("b", Mean()), Brightness("c", own)]
    run(run_folder(tmp_path), prompt_set(10), SAMPLING, evaluators)
    assert sum(shared.read) == sum(own.read) == 10
    assert evaluators[1].preprocess.read == []  # pyright: ignore[reportAttributeAccessIssue]
    for evaluator in evaluators:
        assert len(evaluator.encoded) == len(set(evaluator.encoded)) == 5
        assert evaluator.num_scored == 10


def test_a_second_call_scores_nothing(tmp_path):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    run(folder, prompt_set(10), SAMPLING, [evaluator])
    path = folder.score_file("test", SAMPLING.hash, "a", "1")
    assert folder.verified(path) == path
    before = path.stat().st_mtime_ns
    assert run(folder, prompt_set(10), SAMPLING, [evaluator]) == 0
    assert evaluator.num_scored == 10
    assert path.stat().st_mtime_ns == before


def test_added_prompts_and_evaluators_are_scored_alone(tmp_path):
    folder = run_folder(tmp_path)
    first, second = Brightness("a", Mean()), Brightness("b", Mean())
    run(folder, prompt_set(6), SAMPLING, [first])
    old = table(folder, first)
    run(folder, prompt_set(10), SAMPLING, [first])
    assert first.num_scored == 10
    assert len(table(folder, first).score) == 10
    np.testing.assert_array_equal(table(folder, first).score[:6], old.score)
    run(folder, prompt_set(10), SAMPLING, [first, second])
    assert (first.num_scored, second.num_scored) == (10, 10)
    # a smaller request takes no score away
    run(folder, prompt_set(2), SAMPLING, [first, second])
    assert len(table(folder, first).score) == 10


def test_a_missing_image_is_refused_before_anything_is_scored(tmp_path):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    (folder.images("test", SAMPLING.hash) / "p07-0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 10 images are missing, such as .*p07-0.png; add generate to stages"):
        run(folder, prompt_set(10), SAMPLING, [evaluator])
    assert evaluator.num_scored == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_refuse_an_image_that_one_of_them_misses(tmp_path, rank):
    folder = run_folder(tmp_path)
    (folder.images("test", SAMPLING.hash) / "p07-0.png").unlink()
    with pytest.raises(UserError, match="1 of 10 images are missing"):
        run(folder, prompt_set(10), SAMPLING, [Brightness("a", Mean())], work_share=WorkShare(rank, 2))


def cut(picture: bytes) -> bytes:
    return picture[:-300]


def flip_a_bit(picture: bytes) -> bytes:
    middle = len(picture) // 2
    return picture[:middle] + bytes([picture[middle] ^ 1]) + picture[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip_a_bit, lambda picture: picture[:20], lambda picture: b""])
def test_a_damaged_image_is_told_and_all_others_are_scored(tmp_path, damage):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    path = folder.images("test", SAMPLING.hash) / "p07-0.png"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    message = r"1 of 10 images cannot be scored, such as .*p07-0.png is damaged .*; delete them and add generate"
    with pytest.raises(UserError, match=message):
        run(folder, prompt_set(10), SAMPLING, [evaluator])
    assert not folder.score_file("test", SAMPLING.hash, "a", "1").exists()
    path.write_bytes(whole)
    run(folder, prompt_set(10), SAMPLING, [evaluator])
    assert evaluator.num_scored == 10
    assert len(table(folder, evaluator).score) == 10


def test_an_image_of_another_size_than_the_model_makes_is_told(tmp_path):
    folder = run_folder(tmp_path)
    Image.new("RGB", (32, 64)).save(folder.images("test", SAMPLING.hash) / "p07-0.png")
    with pytest.raises(UserError, match=r"p07-0.png is 32 x 64 pixels, where 64 x 64 are expected"):
        run(folder, prompt_set(10), SAMPLING, [Brightness("a", Mean())])


def test_a_score_that_is_no_number_stops_the_run_and_is_not_stored(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(
        ValueError, match="4 of 4 scores that are not finite numbers, such as that of image 0 of prompt"
    ):
        run(folder, prompt_set(10), SAMPLING, [Undefined("a", Mean())])
    assert [path.name for path in folder.scores("test", SAMPLING.hash).rglob("*") if path.is_file()] == [".lock"]


# ---- interrupted, shared out, changed


class Killed(Brightness):
    """Is killed before the third batch."""

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        if self.num_scored >= 8:
            raise KeyboardInterrupt
        return super().score_features(features, encoded)


def test_a_killed_command_goes_on_where_it_was(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(folder, prompt_set(10), SAMPLING, [Killed("a", Mean())])
    evaluator = Brightness("a", Mean())
    run(folder, prompt_set(10), SAMPLING, [evaluator])
    assert evaluator.num_scored == 2
    undisturbed = run_folder(tmp_path / "other")
    run(undisturbed, prompt_set(10), SAMPLING, [evaluator])
    path = folder.score_file("test", SAMPLING.hash, "a", "1")
    assert path.read_bytes() == undisturbed.score_file("test", SAMPLING.hash, "a", "1").read_bytes()


def test_the_later_of_two_scores_counts_whichever_process_kept_it(tmp_path):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    run(folder, prompt_set(10), SAMPLING, [evaluator], work_share=WorkShare.of("1/2"))
    (part,) = folder.scores("test", SAMPLING.hash).rglob("*.jsonl")
    os.utime(part, (0, 0))  # clocks of file systems are coarse
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder.images("test", SAMPLING.hash) / "p02-0.png")
    run(folder, prompt_set(10), SAMPLING, [evaluator])
    assert table(folder, evaluator).score[2] == 9 + len(prompt_set(10).texts[2])


def test_scores_are_not_read_while_another_command_joins_them(tmp_path):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    run(folder, prompt_set(10), SAMPLING, [evaluator], work_share=WorkShare.of("1/2"))
    with ThreadPoolExecutor() as pool:
        with locked(folder.scores("test", SAMPLING.hash) / ".lock"):
            reading = pool.submit(lambda: ScoreTable(folder, "test", SAMPLING.hash, info(evaluator)).known)
            with pytest.raises(TimeoutError):
                reading.result(timeout=0.2)
        assert len(reading.result()) == 6  # batches of four and of two


def test_a_line_that_a_kill_has_cut_is_scored_again(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(folder, prompt_set(10), SAMPLING, [Killed("a", Mean())])
    (part,) = folder.scores("test", SAMPLING.hash).rglob("*.jsonl")
    part.write_bytes(part.read_bytes()[:-5])
    evaluator = Brightness("a", Mean())
    run(folder, prompt_set(10), SAMPLING, [evaluator])
    assert evaluator.num_scored == 3
    assert len(table(folder, evaluator).score) == 10


def test_scores_kept_of_another_preprocessing_are_refused(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(folder, prompt_set(10), SAMPLING, [Killed("a", Mean())])
    with pytest.raises(UserError, match=r"jsonl was scored as .* delete it to score again"):
        run(folder, prompt_set(10), SAMPLING, [Brightness("a", Mean("another"))])


def test_shards_split_the_images_and_the_last_of_them_makes_the_table(tmp_path):
    folder, whole = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    run(whole, prompt_set(10), SAMPLING, [Brightness("a", Mean())])
    path = folder.score_file("test", SAMPLING.hash, "a", "1")
    shares, left = [], []
    for shard in ("3/3", "1/3", "2/3"):
        evaluator = Brightness("a", Mean())
        assert not path.exists()
        left.append(run(folder, prompt_set(10), SAMPLING, [evaluator], work_share=WorkShare.of(shard)))
        shares.append(evaluator.num_scored)
    assert shares == [2, 4, 4]  # whole batches of four
    assert left == [8, 4, 0]
    assert path.read_bytes() == whole.score_file("test", SAMPLING.hash, "a", "1").read_bytes()
    assert folder.verified(path) == path


def test_an_image_that_has_changed_is_scored_again_and_alone(tmp_path):
    folder, evaluator = run_folder(tmp_path), Brightness("a", Mean())
    run(folder, prompt_set(10), SAMPLING, [evaluator])
    before = table(folder, evaluator).score
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder.images("test", SAMPLING.hash) / "p07-0.png")
    run(folder, prompt_set(10), SAMPLING, [evaluator])
    assert evaluator.num_scored == 11
    after = table(folder, evaluator).score
    assert after[7] == 9 + len(prompt_set(10).texts[7])
    np.testing.assert_array_equal(np.delete(after, 7), np.delete(before, 7))


def test_scores_are_equal_to_the_last_bit_whatever_the_number_of_threads(tmp_path):
    folders = [run_folder(tmp_path / name, 20) for name in "ab"]
    for folder, num_threads in zip(folders, (1, 3), strict=True):
        images = image_set(prompt_set(20), SAMPLING, IMAGE_SIZE)
        evaluators = [ShapesOracle("cleanliness"), Brightness("a", Mean())]
        score(folder, images, evaluators, 4, progress=False, num_threads=num_threads)
    for name in ("a@1", "shapes_oracle_cleanliness@2"):
        one, other = (folder.scores("test", SAMPLING.hash) / f"{name}.parquet" for folder in folders)
        assert one.read_bytes() == other.read_bytes()


# ---- one pass for those that see the same


class Shared(Brightness):
    """Takes the brightness from whoever computed it, times a factor of its own."""

    shared_pass = "brightness"  # pyright: ignore[reportAssignmentType]
    num_passes = 0

    def __init__(self, name: str, preprocess: Preprocess, factor: float) -> None:
        super().__init__(name, preprocess)
        self.factor = factor

    def image_features(self, inputs: Tensor) -> Tensor:
        self.num_passes += 1
        return 2 * inputs

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        return super().score_features(self.factor * features, encoded)


def test_a_pass_is_shared_by_those_that_see_the_same_and_by_no_others(tmp_path):
    mean, other = Mean(), Mean("other")
    evaluators = [Shared("a", mean, 1.0), Shared("b", mean, 0.5), Shared("c", other, 1.0), Brightness("d", mean)]
    folder = run_folder(tmp_path)
    run(folder, prompt_set(10), SAMPLING, evaluators)
    assert [evaluator.num_passes for evaluator in evaluators[:3]] == [3, 0, 3]  # pyright: ignore
    np.testing.assert_array_equal(table(folder, evaluators[1]).score, table(folder, evaluators[3]).score)
    np.testing.assert_array_equal(table(folder, evaluators[0]).score, table(folder, evaluators[2]).score)
    # one that comes later makes the pass itself
    late = Shared("e", mean, 0.5)
    run(folder, prompt_set(10), SAMPLING, [evaluators[0], late])
    assert (late.num_passes, evaluators[0].num_scored) == (3, 10)
    np.testing.assert_array_equal(table(folder, late).score, table(folder, evaluators[1]).score)


def test_a_network_sees_only_images_that_its_evaluators_still_have_to_score(tmp_path):
    folder, mean = run_folder(tmp_path), Mean()
    early, late = Brightness("early", mean), Brightness("late", mean)
    run(folder, prompt_set(10), SAMPLING, [early])
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder.images("test", SAMPLING.hash) / "p07-0.png")
    rows = []
    early.image_features = lambda inputs: rows.append(len(inputs)) or inputs  # pyright: ignore
    run(folder, prompt_set(10), SAMPLING, [early, late])
    assert rows == [1]
    assert (early.num_scored, late.num_scored) == (11, 10)
    np.testing.assert_array_equal(table(folder, early).score, table(folder, late).score)


def test_scores_of_another_preprocessing_are_not_added_to(tmp_path):
    folder = run_folder(tmp_path)
    run(folder, prompt_set(6), SAMPLING, [Brightness("a", Mean())])
    with pytest.raises(UserError, match="delete it to score again"):
        run(folder, prompt_set(10), SAMPLING, [Brightness("a", Mean("another"))])


def test_prompts_outside_the_grammar_are_refused_by_agreement_alone(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(UserError, match="shapes_oracle_agreement judges by prompts of the shapes world alone"):
        run(folder, prompt_set(10), SAMPLING, [ShapesOracle("agreement")])
    run(folder, prompt_set(10), SAMPLING, [ShapesOracle("realism"), ShapesOracle("cleanliness")])
    inside = tuple(Prompt(f"p{i:02d}", text) for i, text in enumerate(scene_prompts("heldout", 10, seed=0)))
    run(folder, PromptSet("test", inside, 10), SAMPLING, [ShapesOracle("agreement")])
    assert len(table(folder, ShapesOracle("agreement")).score) == 10
