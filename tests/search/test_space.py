"""The words of Hydra's sweeps as settings that a search varies."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from alignbench.errors import UserError
from alignbench.search.space import Choice, Interval, split_words


def only(word):
    (setting,) = split_words([word])[1].settings
    return setting


@pytest.mark.parametrize(
    ("value", "distribution"),
    [
        ("interval(0.1,0.9)", FloatDistribution(0.1, 0.9)),
        ("interval(1,4)", FloatDistribution(1.0, 4.0)),  # as Hydra reads it
        ("tag(log,interval(1e-6,1e-3))", FloatDistribution(1e-6, 1e-3, log=True)),
        ("log(1e-6,1e-3)", FloatDistribution(1e-6, 1e-3, log=True)),
        ("int(interval(1,64))", IntDistribution(1, 64)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("range(1,10)", IntDistribution(1, 9)),  # the end is not in it, as in Hydra's own sweeps
        ("range(1,10,3)", IntDistribution(1, 7, step=3)),
        ("range(10,0,-5)", IntDistribution(5, 10, step=5)),
        ("range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("choice(250,500,1000)", CategoricalDistribution(("250", "500", "1000"))),
        ("250,500", CategoricalDistribution(("250", "500"))),
        ("true,null", CategoricalDistribution(("True", "null"))),
        ("shuffle(range(1,4))", None),
    ],
)
def test_a_word_of_a_sweep_is_a_distribution(value, distribution):
    found = only(f"train.x={value}").distribution()
    if distribution is None:
        assert sorted(found.choices) == ["1", "2", "3"]
    else:
        assert found == distribution


def test_words_that_are_no_sweep_are_shared_by_all_trials():
    fixed, space = split_words(["method=dpo", "method.beta=choice(1,2)", "stages=[train]", "+method.x='a(b)'"])
    assert fixed == ["method=dpo", "stages=[train]", "+method.x='a(b)'"]
    assert [one.key for one in space.settings] == ["method.beta"]


def test_a_value_becomes_a_word_that_reads_back_as_the_same_value():
    space = split_words(
        ["train.a=log(1e-6,1)", "train.b=int(interval(1,9))", "+method.c=x,[1,2]", "train.d=range(0,1,0.1)"]
    )[1]
    words = space.words({"train.a": 1.0 / 3e5, "train.b": 4, "+method.c": "[1,2]", "train.d": 0.1 * 3})
    assert words == [f"train.a={1.0 / 3e5!r}", "train.b=4", "+method.c=[1,2]", "train.d=0.3"]
    assert float(words[0].partition("=")[2]) == 1.0 / 3e5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=dpo"], "no word has values to search"),
        (["seed=1,2"], "seed=1,2 cannot be searched"),
        (["prompts=shapes,parti"], "cannot be searched: all trials must be measured alike"),
        (["sampling.guidance_scale=interval(1,5)"], "cannot be searched"),
        (["train.x=interval(2,1)"], "has no number between its ends"),
        (["train.x=log(0,1)"], "begin above 0"),
        (["train.x=range(3,1)"], "has no values"),
        (["train.x=range(1,2,0)"], "has the step 0"),
        (["train.x=range(0,1000000000)"], "100,000 values or more"),
        (["train.x=tag(quick,interval(1,2))"], "has the tag quick, which is unknown"),
        (["train.x=tag(log,choice(1,2))"], "has the tag log, which is for interval(A,B)"),
        (["train.x=tag(log,range(1,3))"], "has the tag log, which is for interval(A,B)"),
        (["train.x=1,2", "train.x=3,4"], "train.x is given twice"),
        (["train.x=1,2", "train.x=3"], "train.x is given twice"),
        (["train.x=log(1)"], "is not understood"),
        (["train.x=interval(1)"], "is not understood"),
    ],
)
def test_words_that_cannot_be_searched_are_refused_in_a_sentence(words, told):
    with pytest.raises(UserError, match=told.replace("(", r"\(").replace(")", r"\)")):
        split_words(words)


def test_a_grid_has_all_combinations_and_the_last_setting_changes_first():
    space = split_words(["train.a=range(1,3)", "train.b=x,y"])[1]
    assert [space.words(cell) for cell in space.cells()] == [
        ["train.a=1", "train.b=x"],
        ["train.a=1", "train.b=y"],
        ["train.a=2", "train.b=x"],
        ["train.a=2", "train.b=y"],
    ]
    with pytest.raises(UserError, match="sampler=grid needs a list of values"):
        split_words(["train.a=log(1,2)"])[1].cells()


def test_corners_have_every_choice_and_both_ends():
    corners = split_words(["train.a=x,y,z", "train.b=int(interval(2,5))"])[1].corners()
    assert corners == [["train.a=x", "train.b=2"], ["train.a=y", "train.b=5"], ["train.a=z", "train.b=5"]]


@pytest.mark.parametrize(
    ("setting", "value", "default"),
    [
        (Choice("train.x", ("250", "5e2")), 500.0, "5e2"),
        (Choice("train.x", ("250",)), 500, None),
        (Choice("train.x", ("true", "1")), 1, "1"),
        (Interval("train.x", 1e-6, 1e-3, is_log=True), 5e-5, 5e-5),
        (Interval("train.x", 1e-6, 1e-3, is_log=True), 5e-2, None),
        (Interval("train.x", 1, 9, is_whole=True, step=2), 3, 3),
        (Interval("train.x", 1, 9, is_whole=True, step=2), 4, None),
        (Interval("train.x", 0, 1), True, None),
        (Interval("train.x", 0, 1), None, None),
    ],
)
def test_the_default_of_a_configuration_is_found_in_the_space(setting, value, default):
    assert setting.default(value) == default


def test_drawn_numbers_have_three_digits_within_the_range():
    assert Interval("train.x", 1e-6, 1e-3).rounded(2.0231913251727808e-05) == 2.02e-05
    assert Interval("train.x", 0.12345, 1).rounded(0.12346) == 0.12345
    assert Interval("train.x", 1, 10**6, is_whole=True).rounded(123456) == 123456
