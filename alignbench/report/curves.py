"""Read what a run logged while it trained."""

from pathlib import Path

from alignbench.files import read_json_lines

Curve = list[tuple[int, float]]  # optimizer step and figure, in the order of the steps


def read_curves(train_log: Path) -> dict[str, Curve]:
    """Return the curve of each figure in `train.jsonl`, losses first.

    A step that a resumed run made and logged again counts as it was logged last.
    """
    records = read_json_lines(train_log)
    names = {name for record in records for name, value in record.items() if isinstance(value, int | float)} - {"step"}
    ordered = sorted(names, key=lambda name: ("loss" not in name, not name.startswith("train/"), name))
    return {
        name: sorted({r["step"]: r[name] for r in records if isinstance(r.get(name), int | float)}.items())
        for name in ordered
    }
