"""Texts that several folders treat alike: equal and held-out prompts, random orders, durations, what is printed."""

import hashlib
import json
from typing import Any


def plain(prompt: str) -> str:
    """Return a prompt in lower case with single blanks; prompts that are equal then count as the same prompt."""
    return " ".join(prompt.casefold().split())


def is_held_out(prompt: str, share: float) -> bool:
    """Say whether a prompt belongs to the held-out split.

    The hash of the text decides, case and blanks aside, so a prompt is on the same side in all data sets and for ever,
    and a larger share holds out all that a smaller one does.
    """
    return int.from_bytes(hashlib.sha256(plain(prompt).encode()).digest()[:8]) < share * 2**64


def keyed(*parts: Any) -> bytes:
    """Return what to sort by for a random order that these parts alone decide, on any machine."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def duration(seconds: float) -> str:
    """Write seconds as `1 h 05 min`, `12 min 30 s` or `45 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def shortened(name: str, limit: int) -> str:
    """Return a name of at most `limit` characters: the middle of a longer one is cut out, for both ends tell it apart.

    >>> shortened("published_sft_labelled-sd15_mini-2de28d6b0d", 20)
    'published_…2de28d6b0d'
    """
    if len(name) <= limit:
        return name
    end = (limit - 1) // 2
    return f"{name[: limit - 1 - end]}…{name[len(name) - end :]}"


def printable(text: str) -> str:
    """Return a text of somebody else as a terminal can show it: what would move its cursor or clear it becomes `?`.

    >>> printable("two\x1b[2J words")
    'two?[2J words'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
