"""A study is decided before the first vote, found again by the same command, and never mixed with another."""

from dataclasses import replace

import pytest

from alignbench.errors import UserError
from alignbench.store.image_records import read_sampling, write_sampling
from alignbench.store.run_folder import RunFolder
from alignbench.study.begin import open_study
from alignbench.votes.record import Study, study_folders

MANY = {f"p{number:02d}": f"prompt {number}" for number in range(40)}
GROUPS = {key: ("anime" if number < 30 else "photo",) for number, key in enumerate(MANY)}


def test_the_same_settings_find_the_same_study_and_others_make_another(world):
    first = world.study("base", "dpo")
    assert first.path.parent == world.root / "studies"
    assert world.study("base", "dpo").path == first.path
    assert world.study("base", "dpo", seed=1).path != first.path
    assert world.study("base", "dpo", num_prompts=3).path != first.path
    assert len(study_folders(world.root)) == 3
    assert Study.read(first.file) == first.study


def test_a_name_keeps_its_settings(world):
    world.study("base", "dpo", name="mine")
    with pytest.raises(UserError, match=r"mine was begun with other checks_per_rater; give another --name"):
        world.study("base", "dpo", name="mine", checks_per_rater=0)
    with pytest.raises(UserError, match=r"--name \.\./x becomes a folder"):
        world.study("base", "dpo", name="../x")


def test_prompts_are_drawn_evenly_over_their_groups_and_keep_their_order(world):
    for method in ("base", "dpo"):
        world.run(method, MANY, groups=GROUPS)
    study = world.study("base", "dpo", num_prompts=20).study
    assert [GROUPS[key][0] for key in study.prompts].count("photo") == 10
    assert list(study.prompts) == sorted(study.prompts)
    assert world.study("base", "dpo", num_prompts=20, seed=1).study.prompts != study.prompts
    # ten of the one group are all there are
    assert [GROUPS[key][0] for key in world.study("base", "dpo", num_prompts=30).study.prompts].count("photo") == 10


def test_numbers_have_the_defaults_of_the_preset(world):
    for method in ("base", "dpo", "kto"):
        world.run(method, MANY)
    pairs, grades = (world.study("base", "dpo", "kto", preset=preset).study for preset in ("smpo", "srpo"))
    assert len(pairs.prompts) == len(grades.prompts) == 40
    assert pairs.checks_per_rater == 40 * 3 // 10
    assert world.study("base", "dpo", "kto", pairs="base").study.checks_per_rater == 40 * 2 // 10
    assert world.study("base", "dpo", num_prompts=5).study.checks_per_rater == 4


def test_videos_are_no_images_of_a_study(world):
    for folder in (RunFolder(world.run(method)) for method in ("base", "dpo")):
        (images,) = folder.path.glob("images/*/*")
        write_sampling(images, replace(read_sampling(images), num_frames=9, fps=16.0))
        folder.record(images / "sampling.json")
    with pytest.raises(UserError, match="holds videos, and a study shows images"):
        world.study("base", "dpo")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"preset": "smpoo"}, "--preset smpoo is unknown; did you mean smpo"),
        ({"num_prompts": 5}, "--num-prompts 5 is more than the 4 prompts"),
        ({"num_prompts": 0}, "--num-prompts 0 must be at least 1"),
        ({"prompts_per_rater": 5}, "--prompts-per-rater 5 is more than the 4"),
        ({"checks_per_rater": -1}, "--checks-per-rater -1 must be at least 0"),
        ({"leave_out_below": 1.5}, r"--leave-out-below 1\.5 must lie between 0 and 1"),
        ({"prompt_set": "parti"}, "no finished images parti in common"),
    ],
)
def test_settings_that_cannot_be_are_refused(world, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        world.study("base", "dpo", **settings)
    assert study_folders(world.root) == []


def test_runs_that_cannot_be_compared_are_refused(world, tmp_path):
    base, dpo = world.run("base"), world.run("dpo")
    other_model = world.run("kto", model="flux_mini")
    other_seed = world.run("dpo", seed=1)
    other_text = world.run("sft", {"p0": "something else"})
    elsewhere = type(world)(tmp_path / "elsewhere").run("mapo")
    for runs, sentence in (
        ([base], "at least two runs"),
        ([base, base], "given twice"),
        ([base, other_model], "the runs are of flux_mini and sd15_mini"),
        ([base, dpo, other_seed], "one recipe with two seeds"),
        ([base, other_text], "p0 reads differently"),
        ([base, elsewhere], "different results folders"),
        ([base, world.root / "nothing"], "is not a run folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_study(runs, "smpo")
    with pytest.raises(UserError, match="--pairs base needs the base run"):
        open_study([dpo, world.run("kto")], "smpo", pairs="base")
