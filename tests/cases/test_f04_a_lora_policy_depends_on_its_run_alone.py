"""F4: the bytes of a LoRA policy are the same in every process, so that its sha256 says something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAVE = """
import sys, torch
from pathlib import Path
from alignbench.models.tiny_random import tiny_adapter
model = tiny_adapter("flux")
torch.manual_seed(0)
model.prepare_training("lora", 2, 4)
model.save_policy(Path(sys.argv[1]))
"""


@pytest.mark.matrix
def test_two_processes_write_the_same_bytes(tmp_path):
    for seed in ("1", "2"):  # decides the order of sets
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SAVE, str(tmp_path / seed)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    files = [sorted((tmp_path / seed).rglob("*.safetensors")) for seed in ("1", "2")]
    assert len(files[0]) == len(files[1]) == 1
    assert files[0][0].read_bytes() == files[1][0].read_bytes()
