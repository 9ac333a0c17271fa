"""The benchmarks of data measure what the program does."""

import math
import shutil

import pytest

from benchmarks import data, row_groups


@pytest.mark.matrix
def test_it_measures_preparing_and_reading(tmp_path):
    for skip_network in (False, True):
        figures = data.measure(20, "sd15_mini", skip_network, 1, tmp_path)
        assert all(math.isfinite(value) for value in figures.values())
        # images, mean and deviation, channels, latents
        assert figures["mib_of_cache"] > 40 * 2 * 4 * 16 * 16 * 4 / 2**20
        assert figures["prepared_images_per_second"] > 0
        assert figures["batched_over_jpegs"] > 1
        if not skip_network:
            shutil.rmtree(tmp_path / "cache")
    again = data.measure(20, "sd15_mini", True, 1, tmp_path)
    assert "prepared_images_per_second" not in again
    assert again["mib_of_cache"] == figures["mib_of_cache"]


@pytest.mark.parametrize("window_mib", [1, None])
def test_it_measures_random_order_from_row_groups(tmp_path, window_mib):
    row_groups.write_noise(tmp_path, 3, 20, 1024)
    figures = row_groups.measure(tmp_path, window_mib, 0)
    assert figures["pairs"] == 48
    assert figures["pairs_per_second"] > 0
