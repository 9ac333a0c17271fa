"""Scores of training images: every image once, kept by content, resumed where they stopped."""

import warnings

import numpy as np
import pytest
import torch

from alignbench.data.batches.scorer_scores import score_pairs
from alignbench.data.source import Pair, PairSource, TrainingImage
from alignbench.data.storage.tensor_store import key_of
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess


class Levels(Preprocess):
    @property
    def key(self):
        return "levels"

    def __call__(self, images):
        return [float(np.asarray(image).mean()) for image in images]


class Light(Evaluator):
    """Mean light plus the length of the prompt; counts what it was asked."""

    name, version, preprocess = "light", "3", Levels()

    def __init__(self):
        self.num_images = 0

    def supports(self, prompts):
        return "light cannot read emptiness" if "" in prompts else None

    def encode_prompts(self, prompts):
        return [len(prompt) for prompt in prompts]

    def score_features(self, inputs, encoded):
        self.num_images += len(inputs)
        return torch.tensor([light + length for light, length in zip(inputs, encoded, strict=True)])


class Pairs(PairSource):
    name, mixed = "pairs", "desirable"

    def __init__(self, prompts=("red", "blue!"), fingerprint="f00d"):
        # the first picture is in two pairs of one prompt and in one of the other
        red, blue = prompts
        self._pairs = [Pair(red, "0", "1", 1.0), Pair(red, "2", "0", 1.0), Pair(blue, "0", "3", 1.0)]
        self._fingerprint = fingerprint

    @property
    def pairs(self):
        return self._pairs

    @property
    def fingerprint(self):
        return self._fingerprint

    @property
    def prompts(self):
        return list(dict.fromkeys(pair.prompt for pair in self.pairs))

    def image(self, key):
        return TrainingImage(key, np.full((8, 8, 3), 10 * int(key), np.uint8))


EXPECTED = {("red", "0"): 3.0, ("red", "1"): 13.0, ("red", "2"): 23.0, ("blue!", "0"): 5.0, ("blue!", "3"): 35.0}


def second_file(root):
    """Return the file of the second part, where parts hold two images."""
    files = (root / "light@3-float32" / "f00d").glob("*.safetensors")
    return next(file for file in files if key_of("red", "2", "blue!", "0") in file.read_bytes())


def test_every_image_is_scored_once_under_each_of_its_prompts_and_never_again(tmp_path):
    scorer = Light()
    assert score_pairs(Pairs(), scorer, tmp_path) == EXPECTED
    assert scorer.num_images == 5
    assert score_pairs(Pairs(), scorer, tmp_path) == EXPECTED
    assert scorer.num_images == 5


def test_other_data_and_other_versions_have_scores_of_their_own(tmp_path):
    scorer = Light()
    score_pairs(Pairs(), scorer, tmp_path)
    score_pairs(Pairs(fingerprint="beef"), scorer, tmp_path)
    scorer.version = "4"
    score_pairs(Pairs(), scorer, tmp_path)
    assert scorer.num_images == 15
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_a_pass_that_was_cut_short_goes_on_with_the_missing_part(tmp_path):
    first, second = Light(), Light()
    score_pairs(Pairs(), first, tmp_path, part_size=2)
    second_file(tmp_path).unlink()
    assert score_pairs(Pairs(), second, tmp_path, part_size=2) == EXPECTED
    assert (first.num_images, second.num_images) == (5, 2)


def test_processes_share_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    first, second = Light(), Light()
    with pytest.raises(
        UserError, match="part 1 of the scores by light is not there"
    ):  # without a second process its parts are missing
        score_pairs(Pairs(), first, tmp_path, 0, 2, part_size=2)
    assert score_pairs(Pairs(), second, tmp_path, 1, 2, part_size=2) == EXPECTED
    assert (first.num_images, second.num_images) == (3, 2)


def test_a_scorer_that_cannot_read_the_prompts_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read emptiness"):
        score_pairs(Pairs(("red", "")), Light(), tmp_path)


def test_damage_anywhere_in_a_part_changes_no_score(tmp_path):
    score_pairs(Pairs(), Light(), tmp_path, part_size=2)
    file = second_file(tmp_path)
    whole = file.read_bytes()
    num_again = 0
    for place in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        scorer = Light()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert score_pairs(Pairs(), scorer, tmp_path, part_size=2) == EXPECTED
        assert scorer.num_images in (0, 2)  # there are bytes that nothing depends on
        assert [str(one.message) for one in told] == [
            f"{file} is damaged and was deleted; what it held is computed again"
        ] * (scorer.num_images // 2)
        num_again += scorer.num_images // 2
    assert num_again > 10
    file.write_bytes(whole[:-1])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert score_pairs(Pairs(), Light(), tmp_path, part_size=2) == EXPECTED
    assert file.read_bytes() == whole


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_finite_number_is_told_with_its_image_and_nothing_is_kept(tmp_path, score):
    class Odd(Light):
        def score_features(self, inputs, encoded):
            scores = super().score_features(inputs, encoded)
            scores[1] = score
            return scores

    with pytest.raises(UserError, match=r"^light gives the training image 1 a score that is not a finite number; to"):
        score_pairs(Pairs(), Odd(), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
