"""Whole commands on a folder of each family: two updates by methods of each kind, images, and one table."""

from pathlib import Path

import pytest

from alignbench.models.find_families import FAMILIES
from benchmarks.small_commands import model_of, of_family
from tests.program import alignbench, manifests, rows

FEW = [
    "train.max_train_steps=2", "train.total_batch_size=2", "train.micro_batch_size=2",
    "train.gradient_checkpointing=true", "sampling.num_inference_steps=2", "data.num_pairs=8", "data.num_prompts=8",
    "prompts.limit=4", "reward=shapes_clip", "evaluators=shapes",
]  # fmt: skip
SHORT = {
    "dpo": [],
    "srpo": ["method.num_rollout_steps=2"],
    "nft": ["method.num_rollout_steps=2", "method.levels={num:1,first:0,stop:2}", "method.group_size=2"],
}


@pytest.mark.matrix
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_trained_by_methods_of_each_kind_and_measured_to_a_table(family, tmp_path: Path):
    words = of_family(family, tmp_path / "weights")
    for method, short in SHORT.items():
        alignbench(f"method={method}", *words, f"results={tmp_path / 'results'}", *FEW, *short)
    assert {one["method"] for one in manifests(tmp_path / "results").values()} == {"base", *SHORT}
    table = rows(tmp_path / "results" / "leaderboard.csv")
    assert {row["method"] for row in table} == {"base", *SHORT}
    assert {row["model"] for row in table} == {model_of(family)}
