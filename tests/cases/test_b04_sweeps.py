"""B4: several values without -m are told how to be typed, and words that are no list of values are refused."""

import pytest

from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError

DPO = ["method=dpo", "model=sd15_mini"]


def refusal(*words, multirun=False):
    with pytest.raises(UserError) as refused:
        check_command_line([*words], multirun)
    return str(refused.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=dpo,kto"], "method=dpo,kto has several values; add -m to run one job for each"),
        (
            [*DPO, "method.beta=250,500"],
            'method.beta=250,500 has several values; add -m to run one job for each, or type "method.beta=[250,500]" '
            "for one list",
        ),
        (
            [*DPO, "sampling.negative_prompt=dull,grey"],
            "sampling.negative_prompt=dull,grey has several values; add -m to run one job for each, or type "
            '"sampling.negative_prompt=[dull,grey]" for one list, or "sampling.negative_prompt=\'dull,grey\'" for one '
            "text",
        ),
        (["seed=range(3)"], "seed=range(3) has several values; add -m to run one job for each"),
    ],
)
def test_several_values_need_a_sweep(words, told):
    assert refusal(*words) == told


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("method.beta=interval(250,500)", "method.beta=interval(250,500) stands for no list of values; write them"),
        ("method.beta=range(500,250)", "method.beta=range(500,250) stands for no list of values"),
        ("seed=range(0,9,0)", "seed=range(0,9,0) cannot be swept over: range() arg 3 must not be zero"),
        ("seed=range(a,b)", "seed=range(a,b) is not understood: mismatch type argument start"),
        ("seed=numbers(1,2)", "seed=numbers(1,2) is not understood: Unknown function 'numbers'"),
        ("seed=glob(*)", "seed=glob(*) stands for no list of values"),
        ("memory=interval(0,1)", "memory=interval(0,1) stands for no list of values"),
        ("method=glob(x*)", "method=glob(x*) stands for no list of values"),
        ("seed=1,", "'seed=1,' is not understood"),
    ],
)
def test_what_is_no_list_of_values_is_refused(word, told):
    assert refusal(*([] if word.startswith("method=") else DPO), word, multirun=True).startswith(told)


def test_a_list_in_place_of_a_sweep_is_told_how_to_be_typed():
    assert refusal(*DPO, "seed=[0,1]", multirun=True) == (
        "seed=[0,1] must be a whole number of at most 64 bits; for one run with each, add -m and type seed=0,1"
    )


def test_values_are_counted():
    assert check_command_line([*DPO, "method.beta=250,500", "seed=range(2)"], multirun=True) == 4
    assert check_command_line(["method=glob(dp*,exclude=dpok)", "model=sd15_mini"], multirun=True) == 1
