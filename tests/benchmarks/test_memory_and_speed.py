"""The benchmark of memory and speed runs anywhere on tiny models, on the training loop itself."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "memory_and_speed.py"


def test_it_says_where_the_time_of_an_update_goes(tmp_path):
    command = ["--model", "flux", "--method", "srpo", "--tuning", "full", "--steps", "1", "--scale", "tiny"]
    out = subprocess.run(
        [sys.executable, PROGRAM, *command, "--json", tmp_path / "figures.json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROGRAM.parents[1],
        env={"PYTHONPATH": str(PROGRAM.parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    ).stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert "peak memory" in out
    assert (figures["model"], figures["method"], figures["tuning"]) == ("flux", "srpo", "full")
    assert all(seconds > 1e-4 for seconds in figures["seconds"].values())
    # a backward pass has twice the arithmetic of its forward pass, and no gradient of the first layer's input
    assert figures["tflop"]["backward"] > figures["tflop"]["forward"] > 0
    assert 0 < figures["share_of_matmul_rate"] < 1
    assert figures["peak_memory_gib"] > 0
