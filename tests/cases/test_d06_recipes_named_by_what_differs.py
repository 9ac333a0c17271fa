"""Rows of one method are named by the settings that differ, not by a hash."""

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.compose import composed
from alignbench.files import write_text
from alignbench.report.labels import recipe_labels
from alignbench.report.tables import build
from alignbench.store.run_folder import run_folders

DPO = ["method=dpo", "model=sd15_mini"]


@pytest.fixture
def labels(world):
    """Make a run of each recipe, and return how tables call them, in their order."""

    def of(*recipes, start=DPO):
        for number, overrides in enumerate(recipes):
            folder = world.run("dpo", [1, 2, 3, 4], recipe=f"recipe{number}", seed=0)
            write_text(folder.config_file, OmegaConf.to_yaml(composed([*start, *overrides]), resolve=True))
        found = recipe_labels(run_folders(world.root))
        assert found == recipe_labels(reversed(run_folders(world.root)))
        return [found["sd15_mini", f"dpo-recipe{number}"] for number in range(len(recipes))]

    return of


@pytest.mark.parametrize(
    ("recipes", "expected"),
    [
        ([["train.learning_rate=1e-4"], ["train.learning_rate=1.5e-5"]], ["dpo lr=1e-4", "dpo lr=1.5e-5"]),
        ([["train.learning_rate=0.01"], ["train.learning_rate=1"]], ["dpo lr=0.01", "dpo lr=1"]),
        (
            [["method.beta=250"], ["method.beta=250", "train.learning_rate=1e-4"], ["method.beta=500"]],
            ["dpo lr=5e-5 beta=250", "dpo lr=1e-4 beta=250", "dpo lr=5e-5 beta=500"],
        ),
        ([["data.num_pairs=100"], ["data.num_pairs=200"]], ["dpo pairs=100", "dpo pairs=200"]),
        ([[], ["data=local", "data.path=/x/my pairs"]], ["dpo data=shapes", "dpo data=local"]),
        ([["train.tuning=lora"], ["train.tuning=full"]], ["dpo tuning=lora", "dpo tuning=full"]),
        ([["model.policy=/x/start"], []], ["dpo policy=start", "dpo policy=null"]),
    ],
)
def test_what_differs_is_the_name(labels, recipes, expected):
    assert labels(*recipes) == expected


def test_where_too_much_differs_the_hash_follows(labels):
    many = ["train.learning_rate=1e-4", "method.beta=1", "train.max_train_steps=7", "train.total_batch_size=8"]
    first, second = labels(many, [])
    assert first.startswith("dpo lr=1e-4 ")
    assert first.endswith("@dpo-reci")
    assert first != second


def test_a_hash_stays_where_settings_are_not_known(world):
    for recipe in ("a", "b"):
        world.run("dpo", [1, 2, 3, 4], recipe=recipe)
    found = recipe_labels(run_folders(world.root))
    assert sorted(found.values()) == ["dpo@dpo-a", "dpo@dpo-b"]


def test_what_does_not_change_the_weights_is_no_difference(labels):
    first, second = labels(["train.logging_steps=1"], ["train.logging_steps=2"])
    assert first == "dpo@dpo-reci"  # which no two recipes of the program can be: their hash would be the same
    assert second == "dpo@dpo-reci"


def test_how_images_are_sampled_is_no_difference(labels):
    first, second = labels(
        ["train.learning_rate=1e-4", "model.guidance_scale=2", "validation.num_inference_steps=7"],
        ["train.learning_rate=1e-5"],
    )
    assert (first, second) == ("dpo lr=1e-4", "dpo lr=1e-5")


def test_one_recipe_is_called_by_its_method(labels):
    assert labels([]) == ["dpo"]


def test_the_tables_show_these_names(labels, world):
    labels(["train.learning_rate=1e-4"], ["train.learning_rate=1e-5"])
    world.run("base", [1, 2, 3, 4])
    assert {row["method"] for row in build(world.root).leaderboard} == {"base", "dpo lr=1e-4", "dpo lr=1e-5"}
