"""Runs have short names: chosen by `name=`, by their method where they are one's own, and cut where they are long."""

import warnings

import pytest

from alignbench.configuration.build import run_name
from alignbench.configuration.checks import check
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.report.tables import build
from alignbench.report.write import write_report, write_run_pictures
from alignbench.stages.start import display_name
from alignbench.text import shortened
from tests.program import alignbench, manifests, rows

LONG = "published_sft_labelled-sd15_mini-2de28d6b0d"


def test_a_name_does_not_change_the_run():
    assert run_name(composed(["method=dpo", "name=my taste"])) == run_name(composed(["method=dpo"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=base", "name=start"], "name=start cannot be shown: tables call the untouched model base"),
        (["method=dpo", "name=base"], "name=base cannot be shown"),
        (["model=images", "model.folders=[a,b]", "name=x"], "give model.name=NAME to name the comparison"),
    ],
)
def test_a_name_that_could_not_be_shown_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        check(composed(overrides))


def test_tables_call_a_run_by_its_name(world):
    world.run("base", [1, 2, 3, 4])
    for seed in (0, 1):
        folder = world.run("dpo", [2, 3, 4, 5], seed=seed)
    folder.update(display_name="my taste")
    assert {row["method"] for row in build(world.root).leaderboard} == {"base", "my taste"}


def test_weights_of_a_run_are_called_as_this_run_and_others_are_published(world, tmp_path):
    own = world.run("sft", [1, 2, 3, 4])
    (own.policy / "unet").mkdir(parents=True)
    for policy, expected in ((own.path, "sft"), (own.policy, "sft"), (tmp_path / "elsewhere", None)):
        policy.mkdir(exist_ok=True)
        assert display_name(composed(["method=base", f"model.policy={policy}"])) == expected
    own.update(display_name="my start")
    assert display_name(composed(["method=base", f"model.policy={own.path}"])) == "my start"
    assert display_name(composed(["method=base", f"model.policy={own.path}", "name=other"])) == "other"


def test_a_long_name_keeps_both_ends():
    assert shortened(LONG, 24) == "published_sf…-2de28d6b0d"
    assert len(shortened(LONG, 24)) == 24
    assert shortened("dpo", 24) == "dpo"


def test_long_names_leave_pictures_their_room_and_no_warning_is_given(world):
    world.run("base", [1, 2, 3, 4], picture="white")
    folder = world.run(LONG, [2, 3, 4, 5], picture="white")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(world.root)
        write_run_pictures(folder)


@pytest.mark.slow
@pytest.mark.matrix
def test_the_name_can_be_given_later(tmp_path):
    few = ["train.max_train_steps=1", "train.total_batch_size=2", "train.micro_batch_size=2", "data.num_prompts=8"]
    small = ["model=sd15_mini", "prompts.limit=2", "sampling.num_inference_steps=1", "data.num_pairs=8"]
    command = ["method=sft", f"results={tmp_path}", "evaluators=shapes", *few, *small]
    alignbench(*command)
    folders = set(manifests(tmp_path))
    alignbench(*command, "name=my start")
    assert set(manifests(tmp_path)) == folders
    assert {row["method"] for row in rows(tmp_path / "leaderboard.csv")} == {"base", "my start"}
