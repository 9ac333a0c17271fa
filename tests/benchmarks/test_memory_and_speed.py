"""The benchmark of memory and speed runs anywhere on tiny models, on the training loop itself."""

import json
import sys

import pytest

from benchmarks import memory_and_speed


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that gives what the program prints and what it writes."""

    def run(*command):
        file = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", ["", *command, "--steps", "1", "--scale", "tiny", "--json", str(file)])
        memory_and_speed.main()
        return capsys.readouterr().out, json.loads(file.read_text())

    return run


def test_it_says_where_the_time_of_an_update_goes(run):
    out, figures = run("--model", "flux", "--method", "srpo", "--tuning", "full")
    assert "peak memory" in out
    assert (figures["model"], figures["method"], figures["tuning"]) == ("flux", "srpo", "full")
    assert all(seconds > 1e-4 for seconds in figures["seconds"].values())
    # a backward pass has twice the arithmetic of its forward pass, and no gradient of the first layer's input
    assert figures["tflop"]["backward"] > figures["tflop"]["forward"] > 0
    assert 0 < figures["share_of_matmul_rate"] < 1
    assert figures["peak_memory_gib"] > 0


def test_it_measures_the_recipe_for_24_gb(run):
    mode = "memory=[base_4bit,checkpointing,offload]"
    out, figures = run("--model", "sdxl", "--method", "dpo", "--tuning", "lora", mode)
    assert "dpo on sdxl (tiny), lora on 4 bits" in out
    assert figures["base_bits"] == 4
    assert figures["seconds"]["forward"] > 1e-4
