"""The benchmark of data measures what the program does."""

import math

import pytest

from benchmarks.data import measure


@pytest.mark.parametrize("skip_network", [False, True])
def test_it_measures_preparing_and_reading(tmp_path, skip_network):
    figures = measure(20, "sd15_mini", skip_network, 3, tmp_path)
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["mib_on_disk"] > 40 * 2 * 4 * 16 * 16 * 4 / 2**20  # images, mean and deviation, channels, latents
    assert figures["entries_over_jpegs"] > 1
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
