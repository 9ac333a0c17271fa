"""C8: an estimate of memory asks for no data, and says for each size of card whether training fits."""

import pytest

from alignbench.configuration.compose import composed
from alignbench.training.memory_estimate import CARDS, GIB, estimate, total
from tests.program import alignbench


def verdicts(*words):
    """Return what is said of each size of card."""
    told = alignbench("dry_run=true", "method=srpo", "reward=hpsv2_1", *words).stdout
    lines = (line.partition("on a card of ")[2] for line in told.splitlines())
    return {" ".join(line.split()[:2]): line.partition("GiB: ")[2] for line in lines if line}


def test_what_fits_the_smallest_card_fits_all():
    found = verdicts("model=sd15", "train.tuning=lora", "memory=checkpointing", "train.micro_batch_size=1")
    assert found == dict.fromkeys(("24 GB", "48 GB", "80 GB", "141 GB"), "fits")


@pytest.mark.matrix
def test_a_card_that_is_too_small_is_told_what_would_fit():
    """The words that are given with a figure fit by the same estimate."""
    found = verdicts("model=flux")
    assert list(found) == ["24 GB", "48 GB", "80 GB", "141 GB"]
    assert found["141 GB"] == "fits"
    words, _, needed = found["48 GB"].removeprefix("fits with ").partition(": ")
    cfg = composed(["dry_run=true", "method=srpo", "reward=hpsv2_1", "model=flux", *words.split()])
    gib = total(estimate(cfg)) / GIB
    assert needed == f"{gib:.1f} GiB"
    assert gib <= CARDS["48 GB"]
