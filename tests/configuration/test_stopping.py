"""Settings of looks at the win rate that nobody could take are refused, and looks change no name."""

import pytest

from alignbench.configuration.build import resolve, run_name
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError
from alignbench.generation.generate import Sampling

TRAINED = ["method=sft", "model=sd15_mini"]
STOP = "sampling.stop=obrien_fleming"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            [*TRAINED, "sampling.stop=haybittle"],
            "sampling.stop=haybittle is unknown; available: none, obrien_fleming, poc",
        ),
        (
            [*TRAINED, STOP, "sampling.looks=0"],
            "sampling.looks=0 must be a whole number of at least 1, or a list of shares",
        ),
        (
            [*TRAINED, STOP, "sampling.looks=[0.5,1]"],
            "must be a whole number of at least 1, or a list of shares that rise",
        ),
        ([*TRAINED, STOP, "sampling.looks=[0.5,0.25]"], "sampling.looks=[0.5,0.25] must be shares that rise"),
        ([*TRAINED, "sampling.stop_on=shapes_clip"], "sampling.stop is none; add sampling.stop=obrien_fleming"),
        (["method=base", "model=sd15_mini", STOP], "and this command measures base itself; leave it out"),
        ([*TRAINED, STOP, "shard=1/2", "stages=[generate,score]"], "shards do not wait for each other"),
        ([*TRAINED, STOP, "real_images=pictures"], "does not know which real images it will need"),
        ([*TRAINED, STOP, "stages=[generate]"], "generates and scores in turn; add generate and score to stages"),
        ([*TRAINED, STOP, "stages=[score,report]"], "generates and scores in turn; add generate and score to stages"),
        (["model=images", "model.folders=[a,b]", STOP], "model=images has its images already; leave it out"),
    ],
)
def test_looks_that_nobody_could_take_are_refused(words, told):
    with pytest.raises(UserError) as refused:
        check_command_line(words, False)
    assert told in str(refused.value)


def test_training_alone_and_the_report_alone_may_name_a_rule():
    for stages in ("[train]", "[report]"):
        check_command_line([*TRAINED, STOP, f"stages={stages}"], False)


def test_looks_change_neither_the_name_of_a_run_nor_the_hash_of_its_sampling():
    plain, stopped = (
        composed([*TRAINED, *words])
        for words in ([], ["sampling.stop=pocock", "sampling.looks=[0.5]", "sampling.stop_on=shapes_clip"])
    )
    assert run_name(plain) == run_name(stopped)
    hashes = {Sampling(**resolve(cfg)["sampling"]).hash for cfg in (plain, stopped)}
    assert len(hashes) == 1
