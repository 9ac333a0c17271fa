"""F5: trained weights that were cut or changed are noticed by every later command of their run."""

import os
import shutil
from pathlib import Path

import pytest

from tests.program import alignbench

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "results"
RUN = "smpo-sd15_mini-e4ffb7e7a5"
COMMAND = (
    "method=smpo train.max_train_steps=2 train.learning_rate=1.0e-3 model=sd15_mini data.num_pairs=8 "
    "data.num_prompts=8 prompts.limit=8 sampling.num_inference_steps=2 tracker=none train.tuning=lora "
    "train.lora_rank=2 train.total_batch_size=4 train.micro_batch_size=2 ~evaluators.shapes_oracle_agreement"
).split()


@pytest.fixture
def results(tmp_path):
    return shutil.copytree(FIXTURE, tmp_path / "results")


def cut(policy):
    file = policy / "pytorch_lora_weights.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def change(policy):
    file = policy / "pytorch_lora_weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose(policy):
    (policy / "pytorch_lora_weights.safetensors").unlink()


def add(policy):
    (policy / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize("damage", [cut, change, lose, add])
@pytest.mark.parametrize(
    "stages", ["[train]", pytest.param("[train,generate,score,report]", marks=pytest.mark.matrix), "[report]"]
)
def test_it_is_noticed_though_all_images_are_made(results, damage, stages):
    damage(results / RUN / "policy")
    done = alignbench(*COMMAND, f"results={results}", f"stages={stages}", check=False)
    assert done.returncode == 2
    assert f"{results / RUN / 'policy'} has changed since it was written" in done.stderr
    assert f"or delete {results / RUN} and repeat" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_policy_that_was_deleted_as_a_whole_is_nobodys_mistake(results):
    shutil.rmtree(results / RUN / "policy")
    alignbench(*COMMAND, f"results={results}", "stages=[report]")


def test_an_unchanged_policy_is_not_read_again(results, monkeypatch):
    alignbench(*COMMAND, f"results={results}", "stages=[report]")
    read = []
    monkeypatch.setattr("alignbench.files.sha256", lambda path: read.append(path))
    from alignbench.store.run_folder import RunFolder

    RunFolder(results / RUN).check_policy()
    assert not read
