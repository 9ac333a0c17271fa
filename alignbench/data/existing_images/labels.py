"""Labels of image folders in tables: short, distinct, and path-safe."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from alignbench.data.prompts import path_safe
from alignbench.errors import UserError
from alignbench.store.manifest import BASE


def path_labels(folder: Path, end: str = "") -> list[str]:
    """Return possible labels: the name of a folder, then with one more parent folder each; `end` is added to all.

    Only a folder that is called base gets the label `base`; no other name is shortened to it.
    """
    names = [*folder.parts[1:], *([end] if end else [])]
    labels = [path_safe("-".join(names[-count:])) for count in range(2 if end else 1, len(names) + 1)]
    return [label for label in labels if label and (label != BASE or folder.name == BASE)] or ["folder"]


def distinct_labels(choices: Sequence[Sequence[str]], entitled: Sequence[bool]) -> list[str]:
    """Return one label for each folder: the first of its choices that differs from the labels of all others.

    Args:
        choices: possible labels of each folder, the preferred one first.
        entitled: whether a folder may keep a label that others have as well; only the first of such folders keeps it.

    Raises:
        UserError: a folder has no distinct label among its choices.
    """
    depths = [0] * len(choices)
    while True:
        labels = [choice[depth] for choice, depth in zip(choices, depths, strict=True)]
        holders: defaultdict[str, list[int]] = defaultdict(list)
        for number, label in enumerate(labels):
            holders[label].append(number)
        clashes = [numbers for numbers in holders.values() if len(numbers) > 1]
        if not clashes:
            return labels
        kept = {next((number for number in numbers if entitled[number]), None) for numbers in clashes}
        longer = [n for numbers in clashes for n in numbers if n not in kept and depths[n] + 1 < len(choices[n])]
        if not longer:
            raise UserError(f"{len(clashes[0])} image folders would be called {labels[clashes[0][0]]}; rename one")
        for number in longer:
            depths[number] += 1
