"""The words of a command as they are typed: which are understood, and how the others have to be typed instead."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from alignbench.errors import UserError

HOME = re.compile(r"""(^|[\[,:{'"]\s*)~(?=/|$|[\],}'"])""")  # where a value, or an entry of it, begins
KEY = re.compile(r"[+~]{0,2}[\w./@:-]+")


def with_home(words: Sequence[str]) -> list[str]:
    """Return the words of a command with the home folder for each `~` that a path begins with, as a shell does.

    A shell itself leaves `model.policy=~/lora` as it is, because of the dot.
    """
    home = os.path.expanduser("~").replace("\\", "/")
    parts = [word.partition("=") for word in words]
    return [key + equal + HOME.sub(lambda found: found[1] + home, value) for key, equal, value in parts]


def parse_words(words: Sequence[str], config_loader: ConfigLoader | None = None) -> list[Override]:
    """Return the words of a command as Hydra reads them.

    Args:
        config_loader: knows the choices that `method=glob(*)` stands for; None where no such word is read.

    Raises:
        UserError: naming the word, and how it has to be typed.
    """
    parser, parsed = OverridesParser.create(config_loader), []
    for number, word in enumerate(words):
        try:
            parsed += parser.parse_overrides([word])
        except OverrideParseException as error:
            if isinstance(error.__cause__, HydraException | TypeError | ValueError):  # said by a function, as by range
                reason = str(error.__cause__).strip().splitlines()[0]
                told = f"{word} is not understood: {reason}; write the values, as in {_listed(word)}"
                raise UserError(told) from None
            raise UserError(_not_understood(word, words[number - 1] if number else None)) from None
    return parsed


def results_of(words: Sequence[str]) -> Path:
    """Return the results folder that the words of a command name.

    Raises:
        UserError: the word that names it is not understood.
    """
    named = [word for word in words if word.startswith("results=")]
    return Path(str(parse_words(named)[-1].value()) if named else "results").expanduser()


def swept_values(override: Override) -> list[str]:
    """Return the values that a word with several of them stands for.

    Raises:
        UserError: the values cannot be counted, or there are none.
    """
    try:
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    except (HydraException, ValueError) as error:
        raise UserError(f"{override.input_line} cannot be swept over: {error}") from None
    if not values:
        raise UserError(
            f"{override.input_line} stands for no list of values; write them, as in {_listed(str(override.input_line))}"
        )
    return values


def needs_multirun(override: Override, is_group: bool) -> UserError:
    """Return the sentence about a word with several values in a command that is one run."""
    word = str(override.input_line)
    told = f"{word} has several values; add -m to run one job for each"
    key, _, value = word.partition("=")
    if is_group or "(" in value:
        return UserError(told)
    told += f", or type {_in_shell(f'{key}=[{value}]')} for one list"
    if any(isinstance(one, str) for one in getattr(override.value(), "list", ())):
        told += f", or {_in_shell(f'{key}={quoted(value)}')} for one text"
    return UserError(told)


def quoted(value: str) -> str:
    """Return a value as text that Hydra takes as it is."""
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", value)
    escaped = re.sub(r"(\\+)$", lambda found: found[1] * 2, escaped)
    return f"'{escaped}'"


def _in_shell(word: str) -> str:
    """Return a word as it is typed in a shell."""
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def _listed(word: str) -> str:
    return f"{word.partition('=')[0]}=1,2,3"


def _not_understood(word: str, before: str | None) -> str:
    key, equal, value = word.partition("=")
    if not equal and before is not None and "=" in before:  # a blank that no quotes protect
        name, _, start = before.partition("=")
        whole = _in_shell(f"{name}={quoted(f'{start} {word}')}")
        return f"{word!r} is not understood; expected key=value. If it belongs to the word before it, type {whole}"
    if not equal or not KEY.fullmatch(key):
        return f"{word!r} is not understood; expected key=value without blanks, as in train.max_train_steps=50"
    typed = value.strip("'\"") if value[:1] in ("'", '"') else value
    for form in (_entries_quoted(value), quoted(typed)):
        if form is not None and _is_understood(f"{key}={form}"):
            return (
                f"{word!r} is not understood, because of the characters in its value; put it in quotes, as in "
                f"{_in_shell(f'{key}={form}')}"
            )
    return f"{word!r} is not understood; expected key=value, as in train.max_train_steps=50"


def _entries_quoted(value: str) -> str | None:
    """Return `[a,b]` with quotes around its entries; None for what is no such list."""
    if not (value.startswith("[") and value.endswith("]")):
        return None
    entries = [entry.strip().strip("'\"") for entry in value[1:-1].split(",")]
    return f"[{','.join(entry if _is_understood(f'key={entry}') else quoted(entry) for entry in entries)}]"


def _is_understood(word: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([word])
    except OverrideParseException:
        return False
    return True
