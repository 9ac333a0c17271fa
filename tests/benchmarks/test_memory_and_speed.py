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
    seconds = figures["seconds"]
    assert seconds.pop("reference") == 0  # this method has none
    assert all(value > 1e-4 for value in seconds.values())
    assert figures["seconds_a_sample"] == pytest.approx(sum(seconds.values()) / 2)
    assert figures["share_outside_networks"] == pytest.approx(
        (seconds["optimizer"] + seconds["other"]) / sum(seconds.values())
    )
    # a backward pass has twice the arithmetic of its forward pass, and no gradient of the first layer's input
    assert figures["tflop"]["backward"] > figures["tflop"]["forward"] > 0
    assert 0 < figures["share_of_matmul_rate"] < 1
    assert figures["peak_memory_gib"] > 0


@pytest.mark.matrix
def test_it_measures_the_recipe_for_24_gb(run):
    mode = "memory=[base_4bit,checkpointing,offload]"
    out, figures = run("--model", "sdxl", "--method", "dpo", "--tuning", "lora", mode)
    assert "dpo on sdxl (tiny), lora on 4 bits" in out
    assert figures["base_bits"] == 4
    assert figures["seconds"]["forward"] > 1e-4


@pytest.mark.matrix
def test_from_caches_no_image_is_encoded_and_the_reference_has_a_phase_of_its_own(run):
    _, figures = run("--model", "sd15", "--method", "dpo", "--caches")
    assert figures["tflop"]["reference"] == pytest.approx(figures["tflop"]["forward"])
    assert figures["tflop"]["other"] == 0  # the VAE has not worked
