"""Which pairs are for what, and that they are read as the judge takes them."""

import itertools

import pytest
import torch
from accelerate import Accelerator

from alignbench.errors import UserError
from alignbench.text import is_held_out
from alignbench.train_reward.pairs import Decoder, PairSplit, Remembered
from evaluators import load
from evaluators.judges.clip import PickScoreLike
from evaluators.judges.head import FrozenHead
from tests.processes import together
from tests.tiny_runs import RandomPairs

PROMPTS = [f"prompt {number // 3}" for number in range(300)]


def test_no_prompt_is_in_two_parts_and_every_pair_is_in_one():
    split = PairSplit.of(PROMPTS, 0.2, 0.1)
    parts = [split.train, split.validation, split.heldout]
    assert sorted(itertools.chain(*parts)) == list(range(300))
    texts = [{PROMPTS[row] for row in part} for part in parts]
    assert not any(one & other for one, other in itertools.combinations(texts, 2))
    assert len(split.heldout) / 300 == pytest.approx(0.2, abs=0.1)


def test_what_is_held_out_here_is_held_out_of_all_data_with_that_share():
    split = PairSplit.of(PROMPTS, 0.2, 0.1)
    assert all(is_held_out(PROMPTS[row], 0.2) for row in split.heldout)
    assert not any(is_held_out(PROMPTS[row], 0.2) for row in split.train + split.validation)


def test_case_and_blanks_of_a_prompt_do_not_take_it_to_another_part():
    split = PairSplit.of([*PROMPTS, *(f"  {text.upper()} " for text in PROMPTS)], 0.2, 0.1)
    assert {row % 300 for row in split.heldout} == set(PairSplit.of(PROMPTS, 0.2, 0.1).heldout)


def test_a_part_without_pairs_is_refused():
    with pytest.raises(UserError, match="none of the 3 pairs falls to"):
        PairSplit.of(["a", "a", "a"], 0.2, 0.1)


def features(rank, folder):
    reward_model = FrozenHead(load("shapes_clip"), hidden=8, dropout=0.0).make()
    remembered = Remembered(RandomPairs().view("pairs"), reward_model, Accelerator(cpu=True), folder)
    return [part.tolist() for part in (remembered.images, remembered.texts, remembered.probability)]


def test_two_processes_remember_the_same_bits_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("alignbench.train_reward.pairs.CHUNK", 5)
    alone = features(0, tmp_path / "alone")
    assert together(features, tmp_path / "together") == [alone, alone]


@pytest.fixture(scope="module")
def shapes_clip():
    return load("shapes_clip")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pixels_are_read_winners_first_then_losers_with_their_prompts(shapes_clip, num_workers):
    reward_model = PickScoreLike(shapes_clip, 0.0).make()
    data = RandomPairs()
    (first, second) = Decoder(data.view("pairs"), reward_model, num_workers).read([[3, 1], [2]])
    assert (len(first.images), len(first.texts), len(second.images)) == (4, 2, 2)
    assert torch.equal(second.probability, torch.tensor([0.8]))
    from PIL import Image

    loser = reward_model.preprocess([Image.fromarray(data.image("1-l").pixels)])
    assert torch.equal(first.images[3:], loser)
    assert torch.equal(first.texts[1:], reward_model.encode_prompts(["prompt 3", "prompt 1"])[1:])


def test_remembered_features_score_pairs_as_the_whole_network_does(shapes_clip, tmp_path):
    torch.manual_seed(0)
    reward_model = FrozenHead(shapes_clip, hidden=8, dropout=0.0).make()
    data, accelerator = RandomPairs(), Accelerator(cpu=True)
    remembered = Remembered(data.view("pairs"), reward_model, accelerator, tmp_path)
    (pixels,) = Decoder(data.view("pairs"), reward_model, 0).read([[5, 0, 7]])
    (features,) = remembered.read([[5, 0, 7]])
    whole = reward_model.compare(
        reward_model.image_features(pixels.images), reward_model.text_features(pixels.texts).repeat(2, 1)
    )
    torch.testing.assert_close(reward_model(features.images, features.texts), whole, rtol=1e-5, atol=1e-5)
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    Remembered(data.view("pairs"), reward_model, accelerator, tmp_path)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files  # nothing is computed twice
