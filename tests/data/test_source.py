import pickle

import numpy as np
import pytest

from alignbench.batch import GeneratedPairBatch, ImageBatch, LabelledBatch, PairBatch, PromptBatch
from alignbench.data.source import (
    ImageSample,
    LazyTrainingImage,
    Pair,
    PairSample,
    PromptSample,
    TrainingImage,
    decide,
    images_of,
    kind_of,
    labels,
)


def test_the_winner_comes_first_whichever_image_was_preferred():
    assert decide("p", "a", "b", 1.0) == Pair("p", "a", "b", 1.0)
    assert decide("p", "a", "b", 0.0) == Pair("p", "b", "a", 1.0)
    assert decide("p", "a", "b", 0.25) == Pair("p", "b", "a", 0.75)


def test_a_label_of_one_half_decides_nothing():
    assert decide("p", "a", "b", 0.5) is None


@pytest.mark.parametrize(
    ("mixed", "desirable", "undesirable"),
    [("desirable", {"a", "b"}, {"c"}), ("undesirable", {"a"}, {"b", "c"}), ("dropped", {"a"}, {"c"})],
)
def test_an_image_that_won_and_lost_is_labelled_by_the_policy(mixed, desirable, undesirable):
    pairs = [Pair("p", "a", "b", 1.0), Pair("p", "b", "c", 1.0), Pair("p", "a", "c", 1.0)]
    found = labels(pairs, mixed)
    assert {key for _, key, wanted in found if wanted} == desirable
    assert {key for _, key, wanted in found if not wanted} == undesirable
    assert len(found) == len(desirable | undesirable)


def test_every_batch_type_has_its_kind_of_samples():
    types = (PromptBatch, ImageBatch, LabelledBatch, PairBatch, GeneratedPairBatch)
    assert list(map(kind_of, types)) == ["prompts", "images", "labels", "pairs", "generated_pairs"]


BLACK = np.zeros((2, 2, 3), np.uint8)


def test_a_lazy_picture_is_read_once_and_only_when_its_pixels_are_asked_for():
    reads = []
    picture = LazyTrainingImage("a", lambda: reads.append(1) or BLACK)
    assert picture.key == "a"
    assert not reads
    assert picture.pixels is picture.pixels is BLACK
    assert len(reads) == 1


def test_a_lazy_picture_travels_between_processes_without_being_read():
    travelled = pickle.loads(pickle.dumps(LazyTrainingImage("a", refuse_to_read)))
    assert travelled.key == "a"
    with pytest.raises(RuntimeError, match="was read"):
        _ = travelled.pixels


def refuse_to_read():
    raise RuntimeError("was read")


def test_the_pictures_of_a_sample_are_found_without_reading_them():
    a, b = LazyTrainingImage("a", refuse_to_read), TrainingImage("b", BLACK)
    assert images_of(PairSample("p", a, b, 1.0)) == [a, b]
    assert images_of(ImageSample("p", b)) == [b]
    assert images_of(PromptSample("p")) == []
