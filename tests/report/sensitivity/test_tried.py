"""Which settings of a method were tried, and which of them differ in one setting alone."""

from alignbench.report.labels import recipe_labels
from alignbench.report.sensitivity.tried import Tried, tried_settings
from alignbench.store.run_folder import run_folders


def tried(root):
    folders = run_folders(root)
    labels = recipe_labels(folders)
    return tried_settings(folders, {one.name: labels[one.manifest.model, one.manifest.recipe_hash] for one in folders})


def test_recipes_of_a_method_have_the_settings_in_which_they_differ(swept):
    dpo, sft = tried(swept.root)
    assert (dpo.model, dpo.method, sft.method) == ("sd15_mini", "dpo", "sft")
    assert dpo.settings == {
        "dpo lr=1e-5 steps=10": {"train.learning_rate": 1e-5, "train.max_train_steps": 10},
        "dpo lr=1e-4 steps=10": {"train.learning_rate": 1e-4, "train.max_train_steps": 10},
        "dpo lr=0.001 steps=10": {"train.learning_rate": 1e-3, "train.max_train_steps": 10},
        "dpo lr=1e-4 steps=90": {"train.learning_rate": 1e-4, "train.max_train_steps": 90},
    }
    assert dpo.keys == ["train.learning_rate", "train.max_train_steps"]
    assert sft.settings == {"sft": {}}


def test_base_was_not_tried(swept):
    assert "base" not in {one.method for one in tried(swept.root)}


def test_recipes_of_unknown_settings_have_none(world):
    world.run("base", [1, 1, 1, 1])
    for recipe in ("a", "b"):
        world.run("dpo", [2, 2, 2, 2], recipe=recipe)
    (dpo,) = tried(world.root)
    assert list(dpo.settings.values()) == [{}, {}]
    assert dpo.keys == []


def test_a_series_has_the_recipes_that_differ_in_its_setting_alone(swept):
    dpo, _ = tried(swept.root)
    assert dpo.series("train.learning_rate") == [
        ({"train.max_train_steps": 10}, ["dpo lr=1e-5 steps=10", "dpo lr=1e-4 steps=10", "dpo lr=0.001 steps=10"])
    ]
    assert dpo.series("train.max_train_steps") == [
        ({"train.learning_rate": 1e-4}, ["dpo lr=1e-4 steps=10", "dpo lr=1e-4 steps=90"])
    ]


def test_numbers_are_in_the_order_of_their_size_and_words_after_them():
    settings = {name: {"a": value} for name, value in {"w": "none", "x": 10, "y": 9.5, "z": True}.items()}
    ((others, recipes),) = Tried("m", "dpo", settings).series("a")
    assert others == {}
    assert recipes == ["y", "x", "z", "w"]
