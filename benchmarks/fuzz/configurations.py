"""Commands whose settings have odd values: each must be accepted or refused in one sentence, before anything loads."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig

from alignbench.cli import _tell_what_is_done, read_flags
from alignbench.configuration.compose import check_command_line, composed, for_sweep, is_plausible, unchecked

STARTS = (
    ["method=dpo", "model=sd15_mini"],
    ["method=srpo", "model=flux_mini"],
    ["method=kto", "model=flux_mini", "validation=shapes"],
    ["method=sft", "model=sd15_mini", "auxiliary=denoising", "optimizer=adafactor"],
    ["method=grpo", "model=sd15_mini", "train.tuning=lora"],
    ["method=base", "model=sd15_mini"],
    ["method=dpo", "model=sd15_mini", "data=local", "data.path=conf"],
    ["method=dpo", "model=flux_mini", "sampling=controlnet"],
)
VALUES = (
    "${nope}", "${train}", "${oc.env:NOPE}", "true", "false", "null", "nan", "inf", "-inf", "1e400", "1e38", "-1",
    "0", "5", "0.5", "2", "99999999999999999999", "-99999999999999999999999", "[]", "[1]", "[nan]", "[null]",
    "[[]]", "{}", "{a:1}", "''", "' '", "a", "'5'", "'nan'", "\ud800", "'a\x00b'", "x" * 300, "漢字", "'é\u202e'",
    "???", "~", "/no/such/place", "/etc/passwd", "..", "'../..'", "a/b", "'a b'", "'<b>'", "'%s'", "'{x}'", "1,2",
    "'1,2'", "glob(*)", "range(3)", "choice()", "interval(0,1)", "[a,b,c]", "{_target_: os.system}",
    "torch.hub.load", "0x10", "1_000", "1e-400", "'\\n'", "!!",
)  # fmt: skip
GROUPS = ("method", "model", "data", "validation", "sampling", "optimizer", "tracker", "memory", "evaluators",
          "features", "prompts", "auxiliary", "reward", "experiment", "stages")  # fmt: skip


def configuration(seed: int) -> Callable[[int], Callable[[], Any]]:
    """Return what checks the command of each number."""
    keys = {number: [*_keys(composed(start))] for number, start in enumerate(STARTS[:-2])}

    def attempt(number: int) -> Callable[[], Any]:
        draw = random.Random(f"{seed}/configuration/{number}")
        start = draw.randrange(len(STARTS))
        words = [*STARTS[start], *(_word(keys.get(start, keys[0]), draw) for _ in range(draw.choice((1, 1, 1, 2, 3))))]
        return lambda: check_words(words)

    return attempt


def check_words(words: list[str]) -> None:
    """Do with the words of a command what the program does before it loads anything."""
    args = read_flags(words)
    found = unchecked(args.overrides)
    if found is not None and not (args.multirun or found.is_sweep) and is_plausible(found.cfg):
        _tell_what_is_done(found.cfg)
    check_command_line(args.overrides, args.multirun)
    for_sweep(args.overrides, args.multirun)


def _word(keys: list[str], draw: random.Random) -> str:
    value = draw.choice(VALUES)
    match draw.randrange(12):
        case 0:
            return f"{draw.choice(GROUPS)}={value}"
        case 1:
            return f"{draw.choice(('+', '++', '~'))}{draw.choice(keys)}={value}"
        case 2:
            return f"{draw.choice(keys)}.{draw.choice(('x', '0', '_target_'))}={value}"
        case 3:
            return draw.choice(
                (value, f"={value}", f"{draw.choice(keys)}", f"--{draw.choice(keys)}={value}", f"~{draw.choice(keys)}")
            )
    return f"{draw.choice(keys)}={value}"


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        child = node._get_node(key)
        yield f"{prefix}{key}"
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            yield from _keys(child, f"{prefix}{key}.")
