"""Declarations of settings: each default is allowed, each wrong value is refused by the setting's name."""

from typing import Literal

import pytest
from diffusers.optimization import SchedulerType

from alignbench.configuration.page import TABLES
from alignbench.errors import UserError
from alignbench.settings.section import Count, Positive, ProperShare, Section, Share, expected, help_lines, setting
from alignbench.settings.train import Train

SETTINGS = {
    f"{name}:{prefix}{key}": (prefix, section, key)
    for name, (prefix, section) in TABLES.items()
    for key in section.model_fields
}
every_setting = pytest.mark.parametrize(("prefix", "section", "key"), list(SETTINGS.values()), ids=list(SETTINGS))


class Example(Section):
    """One setting of each kind."""

    count: Count = setting(1, "A count.")
    limit: Count | None = setting(None, "A limit.")
    seed: int = setting(0, "A seed.")
    rate: Positive = setting(1.0, "A rate.")
    share: Share = setting(0.0, "A share.")
    decay: ProperShare | None = setting(None, "A decay.")
    switch: bool = setting(False, "A switch.")
    choice: Literal["full", "lora"] = setting("full", "A choice.")
    bits: Literal[8, 4] | None = setting(None, "A choice of numbers.")
    steps: list[Literal["train", "score"]] = setting(["train"], "A list.")
    folder: str | None = setting(None, "A folder.")
    options: dict[str, int] = setting({}, "A mapping.")
    sizes: Literal["auto"] | list[Count] = setting("auto", "Sizes.", expected="auto or a list of pixels")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("count", 0, "example.count=0 must be a whole number of at least 1"),
        ("count", "3", "example.count=3 must be a whole number of at least 1"),
        ("count", True, "example.count=true must be a whole number of at least 1"),
        ("count", 1.0, "example.count=1.0 must be a whole number of at least 1"),
        ("count", None, "example.count=null must be a whole number of at least 1"),
        ("limit", 0, "example.limit=0 must be a whole number of at least 1, or null"),
        ("seed", "one", "example.seed=one must be a whole number"),
        ("rate", 0, "example.rate=0 must be a number above 0"),
        ("rate", False, "example.rate=false must be a number above 0"),
        ("rate", float("nan"), "example.rate=nan must be a number above 0"),
        ("share", 1.5, "example.share=1.5 must be a number from 0 to 1"),
        ("decay", 1, "example.decay=1 must be a number between 0 and 1, both excluded, or null"),
        ("switch", 1, "example.switch=1 must be true or false"),
        ("choice", "lore", "example.choice=lore is unknown; did you mean lora? available: full, lora"),
        ("bits", 3, "example.bits=3 is unknown; available: null, 8, 4"),
        ("steps", ["train", "scor"], "example.steps=scor is unknown; did you mean score? available: train, score"),
        ("steps", "train", "example.steps=train must be a list of train, score"),
        ("folder", ["a"], "must be text, or null; for one run with each, add -m and type example.folder=a"),
        ("folder", 7, "must be text, or null; text in quotes is kept as it is: example.folder=\"'7'\""),
        ("options", [], "example.options=[] must be a mapping of names to values"),
        ("sizes", [8, 0], "example.sizes=[8,0] must be auto or a list of pixels"),
    ],
)
def test_a_wrong_value_is_answered_by_what_it_may_be(key, value, sentence):
    (told,) = Example.wrong({key: value}, "example").values()
    assert told.startswith(f"example.{key}=")
    assert told.endswith(sentence)


def test_all_wrong_values_of_a_section_are_told_together_in_the_order_of_their_declaration():
    with pytest.raises(UserError) as refused:
        Example.check({"switch": "on", "count": 0, "rate": 1})
    assert str(refused.value).split("\n") == [
        "count=0 must be a whole number of at least 1",
        "switch=on must be true or false",
    ]


def test_right_values_and_keys_that_are_not_declared_pass():
    Example.check({"count": 2, "rate": 1, "bits": 8, "steps": [], "sizes": [8], "folder": "7", "more": object()})


@every_setting
def test_every_setting_has_a_meaning_and_says_what_it_may_be(prefix, section, key):
    schema = section.schemas()[key]
    assert schema["description"].endswith((".", "`"))
    assert expected(schema)


@every_setting
def test_every_default_is_allowed(prefix, section, key):
    default = section.defaults()[key]
    if default != "???" and not str(default).startswith("${"):
        assert section.wrong({key: default}) == {}


@every_setting
def test_a_value_of_no_type_that_a_setting_has_is_refused_by_its_name(prefix, section, key):
    for value in (object(), [[]], 1j):
        assert section.wrong({key: value}, prefix.rstrip("."))[key].startswith(f"{prefix}{key}=")


@every_setting
def test_numbers_out_of_range_are_refused_by_name(prefix, section, key):
    schemas = section.schemas()[key].get("anyOf", [section.schemas()[key]])
    for schema in schemas:
        outside = [schema[end] for end in ("exclusiveMinimum", "exclusiveMaximum") if end in schema]
        outside += [schema["minimum"] - 1] if "minimum" in schema else []
        outside += [schema["maximum"] + 1] if "maximum" in schema else []
        for value in outside:
            assert f"{prefix}{key}={value} must be" in section.wrong({key: value}, prefix.rstrip("."))[key]


def test_learning_rate_schedules_are_those_of_diffusers_that_need_no_rules():
    known = set(Train.schemas()["lr_scheduler"]["enum"])
    assert known == {one.value for one in SchedulerType} - {"piecewise_constant"}


def test_the_help_of_a_program_has_each_setting_with_its_default_in_80_columns():
    lines = help_lines(Train, "train.").splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.strip().partition("=") for line in lines if line.startswith("  train.")]
    assert [name for name, _, _ in names] == [f"train.{name}" for name in Train.model_fields]
    assert ("train.tuning", "=", "full") in names
