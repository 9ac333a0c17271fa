"""Evaluators: the published ones, and those of the shapes world. `load` builds one by its name."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignbench.evaluator import Evaluator


def load(name: str, /, **values: Any) -> "Evaluator":
    """Build an evaluator by the name of its file in conf/evaluator; its weights are read when it first scores.

        scorer = load("pickscore", source="FOLDER")
        print(scorer.score(["cat.png"], ["a photo of a cat"]))

    Args:
        name: such as `pickscore`.
        values: in place of those of the file; keys inside a key as a mapping: `hpsv2={"source": "FOLDER"}`.

    Raises:
        UserError: the name or a key is unknown, a value is missing, or the evaluator refuses one.
    """
    from alignbench.configuration.find_evaluator import (
        build_evaluator,  # heavy, and many import this package for one of its modules
    )

    return build_evaluator(name, values)
