"""The benchmark of memory and speed runs anywhere on tiny models, on the training loop itself."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "memory_and_speed.py"


def run(file, *command):
    """Return what the program prints and what it writes."""
    out = subprocess.run(
        [sys.executable, PROGRAM, *command, "--steps", "1", "--scale", "tiny", "--json", file],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROGRAM.parents[1],
        env={"PYTHONPATH": str(PROGRAM.parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    ).stdout
    return out, json.loads(file.read_text())


def test_it_says_where_the_time_of_an_update_goes(tmp_path):
    out, figures = run(tmp_path / "figures.json", "--model", "flux", "--method", "srpo", "--tuning", "full")
    assert "peak memory" in out
    assert (figures["model"], figures["method"], figures["tuning"]) == ("flux", "srpo", "full")
    assert all(seconds > 1e-4 for seconds in figures["seconds"].values())
    # a backward pass has twice the arithmetic of its forward pass, and no gradient of the first layer's input
    assert figures["tflop"]["backward"] > figures["tflop"]["forward"] > 0
    assert 0 < figures["share_of_matmul_rate"] < 1
    assert figures["peak_memory_gib"] > 0


def test_it_measures_the_recipe_for_24_gb(tmp_path):
    mode = "memory=[base_4bit,checkpointing,offload]"
    out, figures = run(tmp_path / "figures.json", "--model", "sdxl", "--method", "dpo", "--tuning", "lora", mode)
    assert "dpo on sdxl (tiny), lora on 4 bits" in out
    assert figures["base_bits"] == 4
    assert figures["seconds"]["forward"] > 1e-4
