"""F2: a damaged checkpoint is named and never continued; the one before is used."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from alignbench.errors import UserError
from alignbench.files import sha256, write_json
from alignbench.store.checkpoint_files import DIGESTS
from alignbench.training.checkpoint import Checkpoints, Counters
from tests.cases.killed_runs import fit
from tests.program import alignbench
from tests.tiny_runs import files_of, log_of, sft

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "results" / "kto-sd15_mini-206538398e"


def flip_a_bit(file, place=-1):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_are_kept_each_with_the_digest_of_every_file(killed):
    assert names(killed) == ["step-2", "step-3"]
    for folder in killed.iterdir():
        noted = json.loads((folder / DIGESTS).read_bytes())
        assert noted == {file.name: sha256(file) for file in folder.iterdir() if file.name != DIGESTS}


def cut(file):
    os.truncate(file, 9)


# a checkpoint without digests is one of version 0.1.0
DAMAGES = [(name, damage) for name in ("policy.safetensors", "state.pt") for damage in (flip_a_bit, Path.unlink, cut)]
DAMAGES += [("generators-0.pt", flip_a_bit), (DIGESTS, flip_a_bit), (DIGESTS, cut)]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, killed, file, damage, capfd):
    damage(killed / "step-3" / file)
    fit(tmp_path / "killed", sft())
    said = capfd.readouterr()
    assert f"step-3/{file} is damaged: training goes on from 2" in said.out + said.err
    fit(tmp_path / "whole", sft())
    assert files_of(tmp_path / "killed" / "policy") == files_of(tmp_path / "whole" / "policy")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_without_a_good_checkpoint_training_stops_with_a_sentence(tmp_path, killed):
    for step in (2, 3):
        flip_a_bit(killed / f"step-{step}" / "policy.safetensors")
    with pytest.raises(UserError, match=r"step-3/policy.safetensors, .*step-2/policy.safetensors is damaged .* delete"):
        fit(tmp_path / "killed", sft())
    assert names(killed) == ["step-2", "step-3"]  # nothing is thrown away


def test_the_command_ends_with_status_2(tmp_path):
    run = tmp_path / FIXTURE.name
    shutil.copytree(FIXTURE, run)
    folder = run / "checkpoints" / "step-2"
    write_json(folder / DIGESTS, {file.name: sha256(file) for file in folder.iterdir()})
    flip_a_bit(folder / "policy.safetensors")
    command = (
        "method=kto method.q_mode=ema train.max_train_steps=4 train.checkpointing_steps=2 model=sd15_mini "
        "data.num_pairs=8 data.num_prompts=8 prompts.limit=8 sampling.num_inference_steps=2 tracker=none "
        "train.tuning=lora train.lora_rank=2 train.total_batch_size=4 train.micro_batch_size=2 "
        "~evaluators.shapes_oracle_agreement validation=shapes validation.prompts.limit=4 validation.every=2 "
        "validation.select=[shapes_annotators] stages=[train]"
    )
    done = alignbench(*command.split(), f"results={tmp_path}", check=False)
    assert done.returncode == 2
    assert f"{folder}/policy.safetensors is damaged (sha256 differs)" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_generators_go_on_where_they_were(tmp_path, killed):
    checkpoints = Checkpoints(tmp_path / "own", Accelerator(cpu=True), Counters(step=1), {}, {})
    checkpoints.save()
    drawn = (random.random(), np.random.random(), torch.rand(()).item())
    checkpoints.load_last()
    assert (random.random(), np.random.random(), torch.rand(()).item()) == drawn
