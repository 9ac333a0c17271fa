"""Whole commands on a folder of each family: two updates by methods of each kind, images, and one table."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.build import conf_folder
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import TINY
from tests.program import alignbench, manifests, rows

FEW = [
    "train.max_train_steps=2", "train.total_batch_size=2", "train.micro_batch_size=2", "train.mixed_precision='no'",
    "train.gradient_checkpointing=true", "sampling.num_inference_steps=2", "sampling.resolution=64",
    "model.resolution=64", "model.adapter.pipeline.torch_dtype=float32", "data=shapes", "data.num_pairs=8",
    "data.num_prompts=8", "prompts=shapes", "prompts.limit=4", "reward=shapes_clip", "evaluators=shapes",
]  # fmt: skip
SHORT = {
    "dpo": [],
    "srpo": ["method.num_rollout_steps=2"],
    "nft": ["method.num_rollout_steps=2", "method.levels={num:1,first:0,stop:2}", "method.group_size=2"],
}


def model_of(family: str) -> str:
    """Return the first model of the program that has this family."""
    target = f"alignbench.models.families.{family}."
    files = sorted((conf_folder() / "model").glob("*.yaml"))
    loaded = {file.stem: OmegaConf.load(file) for file in files}
    return next(
        name
        for name, one in loaded.items()
        if "pipeline_class" in one.get("adapter", {}).get("pipeline", {})
        and one.adapter.get("_target_", "").startswith(target)
    )


@pytest.mark.matrix
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_trained_by_methods_of_each_kind_and_measured_to_a_table(family, tmp_path: Path):
    tiny, name = TINY[family], model_of(family)
    tiny.pipeline().save_pretrained(tmp_path / "weights")
    settings = [
        f"model.adapter.{key}={list(value) if isinstance(value, tuple) else value}"
        for key, value in tiny.settings.items()
    ]
    for method, short in SHORT.items():
        alignbench(
            f"method={method}", f"model={name}", f"model.pretrained_model_name_or_path={tmp_path / 'weights'}",
            f"results={tmp_path / 'results'}", *settings, *FEW, *short,
        )  # fmt: skip
    assert {one["method"] for one in manifests(tmp_path / "results").values()} == {"base", *SHORT}
    table = rows(tmp_path / "results" / "leaderboard.csv")
    assert {row["method"] for row in table} == {"base", *SHORT}
    assert {row["model"] for row in table} == {name}
