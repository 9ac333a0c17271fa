"""What a section of settings is: a class that declares each of them once, and says in a sentence which value is wrong.

Hydra's defaults, the checks of a command and the tables of docs/configuration.md are all made from these declarations.
"""

import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import chain
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from alignbench.errors import UserError, did_you_mean

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
LearningRate = Annotated[float, Field(gt=0, le=1e6)]  # far beyond any that works; optimizers overflow near 1e38
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ProperShare = Annotated[float, Field(gt=0, lt=1)]
ShareBelowOne = Annotated[
    float, Field(ge=0, lt=1, json_schema_extra={"expected": "a number from 0 to 1, the 1 excluded"})
]
Seed = Annotated[  # what the generators of torch take
    int, Field(ge=-(2**63), lt=2**63, json_schema_extra={"expected": "a whole number of at most 64 bits"})
]


def _is_frame_count(value: int) -> int:
    if value % 4 != 1:
        raise ValueError("not one more than a multiple of 4")
    return value


FrameCount = Annotated[  # VAEs of videos have one latent frame for the first frame, and one for every four that follow
    int,
    Field(ge=1, json_schema_extra={"expected": "one more than a multiple of 4, as 1, 5 or 81"}),
    AfterValidator(_is_frame_count),
]

REQUIRED: Any = ...
"""In place of a default: each choice of the group, or the user, must set it."""


def setting(default: Any, meaning: str, *, source: str | None = None, expected: str | None = None) -> Any:
    """Declare a setting; the annotation of the attribute is its type, its range or its choices.

    Args:
        default: a value, or text that Hydra resolves, such as `${model.resolution}`.
        meaning: one or two sentences for the reader of docs/configuration.md.
        source: the paper, program or page that the default comes from.
        expected: what follows "must be" in the error message, where the type alone would not tell it well.
    """
    extra: dict[str, Any] = {"source": source} if source else {}
    if expected:
        extra["expected"] = expected
    return Field(default, description=meaning, json_schema_extra=extra)


class Section(BaseModel):
    """The settings under one key of the configuration. Types are exact: neither "3" nor true is the number 3."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of every setting as Hydra takes it: `???` for one that must be set."""
        return {
            name: "???" if field.is_required() else field.get_default(call_default_factory=True)
            for name, field in cls.model_fields.items()
        }

    @classmethod
    @cache
    def schemas(cls) -> dict[str, dict[str, Any]]:
        """Return the declaration of every setting as JSON Schema."""
        return cls.model_json_schema()["properties"]

    @classmethod
    def wrong(cls, values: Mapping[str, Any], section: str = "") -> dict[str, str]:
        """Return a sentence for each setting whose value is not allowed; keys that are not declared are passed over.

        Args:
            values: resolved values of the section, or some of them.
            section: its key in the configuration; empty for the root.
        """
        try:
            cls.model_validate({key: value for key, value in values.items() if key in cls.model_fields})
        except ValidationError as error:
            places = [details["loc"] for details in error.errors() if details["type"] != "missing"]
        else:
            return {}
        schemas, prefix = cls.schemas(), f"{section}." if section else ""
        found: dict[str, str] = {}
        for name, *inner in places:  # several within one value, as of a list: the first is told
            found.setdefault(str(name), sentence(f"{prefix}{name}", values[str(name)], schemas[str(name)], inner))
        return found

    @classmethod
    def check(cls, values: Mapping[str, Any], section: str = "") -> None:
        """Refuse values that are not allowed.

        Raises:
            UserError: one line for each wrong setting.
        """
        if wrong := cls.wrong(values, section):
            raise UserError("\n".join(wrong.values()))


def sentence(name: str, value: Any, schema: Mapping[str, Any], inner: list[int | str] | None = None) -> str:
    """Say what is wrong with a value.

    Args:
        schema: the declaration of the setting, as JSON Schema.
        inner: where in the value the error lies; the number of an entry where it is a list.
    """
    if inner and isinstance(value, list) and isinstance(inner[0], int) and "items" in _only(schema):
        return sentence(name, value[inner[0]], _only(schema)["items"])
    if (known := choices(schema)) and "expected" not in schema:
        return f"{name}={shown(value)} is unknown;{did_you_mean(shown(value), known)}"
    quoted = isinstance(value, int | float) and _only(schema).get("type") == "string"
    is_list = "array" in {option.get("type") for option in schema.get("anyOf", [schema])}
    if isinstance(value, list) and value and not is_list:
        return (
            f"{name}={shown(value)} must be {expected(schema)}; for one run with each, add -m and type "
            f"{name}={','.join(map(shown, value))}"
        )
    hint = f"; text in quotes is kept as it is: {name}=\"'{shown(value)}'\"" if quoted else ""
    return f"{name}={shown(value)} must be {expected(schema)}{hint}"


def shown(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def choices(schema: Mapping[str, Any]) -> list[str]:
    """Return the values of a setting that has a fixed number of them, as typed; none for all others."""
    if schema.get("type") == "null":
        return ["null"]
    if "anyOf" in schema:
        known = [choices(option) for option in sorted(schema["anyOf"], key=lambda option: option.get("type") != "null")]
        return list(chain(*known)) if all(known) else []
    return [shown(value) for value in schema.get("enum", [schema["const"]] if "const" in schema else [])]


def expected(schema: Mapping[str, Any]) -> str:
    """Return what a setting may be, as it follows "must be"."""
    if "expected" in schema:
        return schema["expected"]
    if known := choices(schema):
        return " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
    if "anyOf" in schema:
        return ", or ".join(expected(option) for option in schema["anyOf"])
    match schema.get("type"):
        case "integer" | "number":
            return ("a whole number" if schema["type"] == "integer" else "a number") + _range(schema)
        case "boolean":
            return "true or false"
        case "string":
            return "text"
        case "array":
            some = "one or more of " if schema.get("minItems") else ""
            known = choices(schema["items"])
            return f"a list of {some}{', '.join(known)}" if known else f"a list; each entry {expected(schema['items'])}"
        case "object":
            return "a mapping of names to values"
    raise AssertionError(f"a setting of an unknown kind needs expected=: {schema}")


def _range(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    if above is not None and below is not None:
        return f" between {above:g} and {below:g}, both excluded"
    ends = (("of at least", least), ("above", above), ("of at most", most), ("below", below))
    return " and".join(f" {word} {end:g}" for word, end in ends if end is not None)


def _only(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the declaration of a setting without the null that it may also be."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return options[0] if len(options) == 1 else {}


def help_lines(section: type[Section], prefix: str = "") -> str:
    """Return the settings of a section for the help of a program: name, default and meaning, in 80 columns.

    Args:
        prefix: of the names, as typed.
    """
    lines = ["keys:"]
    for name, field in section.model_fields.items():
        default = "" if field.is_required() else shown(field.default)
        lines.append(f"  {prefix}{name}={default}")
        lines += textwrap.wrap(str(field.description), 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
