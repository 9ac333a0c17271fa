"""What tables call folders of images: short names that tell them apart and could name files."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from alignbench.data.prompts import path_safe
from alignbench.errors import UserError
from alignbench.store.manifest import BASE


def path_labels(folder: Path, end: str = "") -> list[str]:
    """Return labels from the name of a folder and ever more of those above it, each with `end` joined.

    Only a folder that is called base gets the label `base`: no other name turns into it by losing characters.
    """
    names = [*folder.parts[1:], *([end] if end else [])]
    labels = [path_safe("-".join(names[-count:])) for count in range(2 if end else 1, len(names) + 1)]
    return [label for label in labels if label and (label != BASE or folder.name == BASE)] or ["folder"]


def distinct_labels(choices: Sequence[Sequence[str]], entitled: Sequence[bool]) -> list[str]:
    """Return one label each, as early among its choices as tells it apart from the others.

    Args:
        choices: labels of each folder, the preferred one first.
        entitled: whether a folder may keep a label that others want too; the first such one does.

    Raises:
        UserError: all choices of some are taken.
    """
    depths = [0] * len(choices)
    while True:
        labels = [choice[depth] for choice, depth in zip(choices, depths, strict=True)]
        holders: defaultdict[str, list[int]] = defaultdict(list)
        for place, label in enumerate(labels):
            holders[label].append(place)
        clashes = [places for places in holders.values() if len(places) > 1]
        if not clashes:
            return labels
        kept = {next((place for place in places if entitled[place]), None) for places in clashes}
        longer = [p for places in clashes for p in places if p not in kept and depths[p] + 1 < len(choices[p])]
        if not longer:
            raise UserError(f"{len(clashes[0])} image folders would be called {labels[clashes[0][0]]}; rename one")
        for place in longer:
            depths[place] += 1
