"""Where the values of a setting stand on an axis."""

import pytest

from alignbench.report.sensitivity.picture import are_numbers, axis_places


def test_numbers_stand_where_they_are():
    assert axis_places(["1e-5", "0.001", "10"]) == {"1e-5": 1e-5, "0.001": 1e-3, "10": 10.0}


def test_words_stand_one_after_another():
    assert axis_places(["none", "snr", "none"]) == {"none": 0.0, "snr": 1.0}


@pytest.mark.parametrize("value", ["nan", "inf", "true", "1e", "", "0x1f", "1,2"])
def test_what_is_no_plain_number_is_a_word(value):
    assert not are_numbers(["1", value])
