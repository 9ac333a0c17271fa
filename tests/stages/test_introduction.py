"""The first facts of a job."""

import pytest
from accelerate import Accelerator

from alignbench.configuration.compose import composed
from alignbench.stages.introduction import introduction


@pytest.mark.parametrize(
    ("total", "micro", "told"),
    [
        (4, 24, "4 samples an update = 1 process x 1 micro-batch of 4; "),
        (60, 24, "60 samples an update = 1 process x 3 micro-batches of 24; "),
    ],
)
def test_a_micro_batch_is_not_told_larger_than_an_update(total, micro, told):
    words = ["method=dpo", "model=sd15_mini", f"train.total_batch_size={total}", f"train.micro_batch_size={micro}"]
    facts = introduction(composed(words), ["train"], Accelerator(cpu=True), None, None)
    assert dict(facts)["batch"].startswith(told)
