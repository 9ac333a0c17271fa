"""Which columns of a data set of the hub hold prompts, images and labels, and how its rows are stored."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alignbench.data.sources.labels import number_or_nan
from alignbench.errors import UserError, did_you_mean

# Names by which a role is found without being told. Each has one meaning wherever it is used; `preference`, say, may be
# the number of the better image, counted from 0 or from 1, and is left to the user.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "caption", "text"),
    "image": ("image", "jpg", "jpeg", "png", "webp"),
    "label": ("label",),
    "image_w": ("image_w", "jpg_w", "chosen", "image_chosen", "chosen_image", "winner"),
    "image_l": ("image_l", "jpg_l", "rejected", "image_rejected", "rejected_image", "loser"),
    "probability_w": ("probability_w",),
    "image_0": ("image_0", "jpg_0"),
    "image_1": ("image_1", "jpg_1"),
    "label_0": ("label_0",),
    "label_1": ("label_1",),
    "has_label": ("has_label",),
    "images": ("images",),
    "ranks": ("ranks",),
    "scores": ("scores",),
}
FOLDED = ("label_1", "has_label")  # label_0 says the same when a row is stored
IMAGES = ("image", "image_w", "image_l", "image_0", "image_1", "images")


@dataclass(frozen=True)
class Form:
    """Roles of columns that together make a sample."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How rows of one kind are given on the hub, and in which list a folder of local data has them.

    Attributes:
        source: the name of the data source that reads them.
        noun: what they are.
        forms: the ways in which columns can give them, the most telling first.
        list: name of the file with one JSON object a row.
        keys: key of a role in that file, where it is not the role's name.
    """

    source: str
    noun: str
    forms: tuple[Form, ...]
    list: str
    keys: Mapping[str, str] = field(default_factory=dict)


PAIRS = Layout(
    "hub",
    "pairs",
    (
        Form(("prompt", "image_w", "image_l"), ("probability_w",)),
        Form(("prompt", "image_0", "image_1", "label_0"), ("label_1", "has_label")),
        Form(("prompt", "images", "ranks")),
        Form(("prompt", "images", "scores")),
    ),
    "pairs.jsonl",
)
LABELS = Layout(
    "hub_labels", "labelled images", (Form(("prompt", "image", "label")),), "labels.jsonl", {"image": "file_name"}
)
CAPTIONS = Layout(
    "hub_captions",
    "captioned images",
    (Form(("prompt", "image")),),
    "metadata.jsonl",
    {"image": "file_name", "prompt": "text"},
)
PROMPTS = Layout("hub_prompts", "prompts", (Form(("prompt",)),), "prompts.jsonl")
LAYOUTS = (PAIRS, LABELS, CAPTIONS, PROMPTS)  # what has more columns first


def find_columns(layout: Layout, typed: Mapping[str, str | None], names: Iterable[str], path: str) -> dict[str, str]:
    """Return the column of each role of the first form that the data set has.

    Args:
        typed: the user's columns by role; None where usual names are to be looked for.
        names: the columns of the data set.
        path: the data set, as typed.

    Raises:
        UserError: a typed column does not exist, or the columns make no sample of this kind.
    """
    names = list(names)
    given = {role: column for role, column in typed.items() if column is not None}
    for role, column in given.items():
        if column not in names:
            raise UserError(f"data.columns.{role}={column} is no column of {path};{did_you_mean(column, names)}")
    found = {role: next((name for name in usual if name in names), None) for role, usual in USUAL_NAMES.items()} | given
    columns = {role: column for role, column in found.items() if column is not None}
    for form in layout.forms:
        roles = (*form.needed, *form.optional)
        if given.keys() <= set(roles) and columns.keys() >= set(form.needed):
            return {role: columns[role] for role in roles if role in columns}
    raise UserError(_not_found(layout, given, columns, names, path))


def _not_found(
    layout: Layout, given: Mapping[str, str], columns: Mapping[str, str], names: list[str], path: str
) -> str:
    """Say which columns there are, what to type, and as what else they can be read."""
    forms = [form for form in layout.forms if given.keys() <= {*form.needed, *form.optional}] or layout.forms
    typed = (" ".join(f"data.columns.{role}={columns.get(role, 'COLUMN')}" for role in form.needed) for form in forms)
    others = [other for other in LAYOUTS if any(columns.keys() >= set(form.needed) for form in other.forms)]
    instead = f", or read its {others[0].noun} by data={others[0].source} data.path={path}" if others else ""
    return (
        f"data={layout.source} does not find {layout.noun} among the columns of {path}, which are {', '.join(names)}; "
        f"name them: {', or '.join(typed)}{instead}"
    )


def stored_row(layout: Layout, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as the list of local data has it.

    Args:
        values: by role, images as the names of their files. Numbers may be booleans; what is missing is None.
    """
    values = {role: _plain(value) for role, value in values.items()}
    if "label_0" in values:
        values["label_0"] = _share(values)
    if values["prompt"] is None:
        values["prompt"] = ""  # counts as an empty prompt
    return {layout.keys.get(role, role): value for role, value in values.items() if role not in FOLDED}


def _share(values: Mapping[str, Any]) -> float | None:
    """Return the probability that the first image is preferred; None without a label."""
    if not values.get("has_label", True):
        return None
    share = number_or_nan(values["label_0"])
    if "label_1" in values:
        total = share + number_or_nan(values["label_1"])
        share = share / total if total else math.nan
    return share if math.isfinite(share) else None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, bool):
        return int(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
