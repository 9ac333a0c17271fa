"""How evaluators are asked over HTTP: what the two ends, `alignbench.serve.server` and `evaluators.remote`, agree on.

    GET  /info    ->  {"protocol": 1, "name": ..., "version": ..., ...}, the fields of `Info`
    POST /score   {"prompts": [text, ...], "images": [PNG or JPEG in base64, ...]}  ->  {"scores": [number, ...]}

Errors are {"error": sentence} with a 4xx status for what the asker did wrong and 5xx for what failed. Where the server
has a token, each request carries it as `Authorization: Bearer TOKEN`. docs/evaluators.md explains the fields.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Any, get_args

from alignbench.evaluator import CalibrationImages, Evaluator

PROTOCOL = 1


@dataclass(frozen=True)
class Info:
    """What a server says of its evaluator; the fields are those of `Evaluator`, `preprocess` is its key."""

    name: str
    version: str
    higher_is_better: bool
    range: tuple[float, float]
    precision: str
    display_scale: float
    preprocess: str
    weights: str
    calibrated_on: CalibrationImages = "photos"
    matches_prompts: bool = False

    @classmethod
    def of(cls, evaluator: Evaluator) -> "Info":
        """Describe an evaluator."""
        values: dict[str, Any] = {field.name: getattr(evaluator, field.name) for field in fields(cls)}
        values["preprocess"] = evaluator.preprocess.key
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return what `/info` answers; JSON has no infinities, so an end without bound is null."""
        low_high = [end if math.isfinite(end) else None for end in self.range]
        return {"protocol": PROTOCOL, **vars(self), "range": low_high}

    @classmethod
    def from_json(cls, content: Any) -> "Info":
        """Return what an answer of `/info` says.

        Raises:
            ValueError: it is none; the message says what is wrong.
        """
        if not isinstance(content, dict) or content.get("protocol") != PROTOCOL:
            raise ValueError(f"what it says of itself does not follow protocol {PROTOCOL}")
        checks = {
            "name": is_name,
            "version": is_name,  # both become part of a file's name
            "higher_is_better": lambda value: isinstance(value, bool),
            "range": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_end, value)),
            "precision": lambda value: isinstance(value, str),
            "display_scale": lambda value: _is_number(value) and 0 < value < math.inf,
            "preprocess": lambda value: isinstance(value, str),
            "weights": lambda value: isinstance(value, str),
            "calibrated_on": lambda value: value in get_args(CalibrationImages),
            "matches_prompts": lambda value: isinstance(value, bool),
        }
        content = {"calibrated_on": "photos", "matches_prompts": False, **content}
        for key, fits in checks.items():
            if key not in content or not fits(content[key]):
                raise ValueError(f"its info has {key}={content.get(key)!r:.100}")
        values = {key: content[key] for key in checks}
        low, high = content["range"]
        ends = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        return cls(**values | {"range": ends, "display_scale": float(content["display_scale"])})


def is_name(value: Any) -> bool:
    """Say whether a value can name an evaluator or a version: letters, digits, and _ . + - but at the start."""
    return isinstance(value, str) and re.fullmatch(r"[^\W_][\w.+-]{0,99}", value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_end(value: Any) -> bool:
    return value is None or _is_number(value)
