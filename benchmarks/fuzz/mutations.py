"""Change a valid file at random: as a disk, a cut download, an editor or somebody with bad intentions would."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 2**31, 2**63, -(2**63) - 1, 10**400, float("nan"), float("inf"), -float("inf"),
    1e308, "", " ", "a", "\0", "\ud800", "é漢😀", "x" * 300, "a/../b", "/etc/passwd", "nan", "1e400", "${oc.env:HOME}",
    "???", "<img src=x onerror=alert(1)>", [], [[]], [None], {}, {"": None}, ["a", "b"], [1, 2], {"a": 1},
]  # fmt: skip
ODD_BYTES = [
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b"'", b",", b"\t", b"{", b"}", b"[",
    b"]", b":", b"\\", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b"null",
    b"true", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"*a", b"&a ", b"!!python/object:os.system ", b"${a}", b"-1",
    b"\x1f\x8b",     b"PK\x03\x04", b"version https://git-lfs",
]  # fmt: skip


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return other bytes: one to four changes, most of them small."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(CHANGES)(content, draw)
    return content


def _flip_bit(content: bytes, draw: random.Random) -> bytes:
    return _with(content, draw, lambda byte: bytes([byte ^ 1 << draw.randrange(8)]))


def _change_byte(content: bytes, draw: random.Random) -> bytes:
    return _with(content, draw, lambda _: bytes([draw.choice((0, 255, 127, 128, draw.randrange(256)))]))


def _with(content: bytes, draw: random.Random, change: Callable[[int], bytes]) -> bytes:
    if not content:
        return content
    # most formats begin or end with what the rest is read by
    place = draw.choice((draw.randrange(len(content)), draw.randrange(min(64, len(content)))))
    place = len(content) - 1 - place if draw.random() < 0.3 else place
    return content[:place] + change(content[place]) + content[place + 1 :]


def _insert(content: bytes, draw: random.Random) -> bytes:
    place = draw.randint(0, len(content))
    return content[:place] + draw.choice(ODD_BYTES) + content[place:]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randint(0, len(content))]


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randint(0, len(content))
    return start, min(len(content), start + draw.choice((1, 2, 4, 8, 64, 1024)))


def _delete(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def _zero(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:end] + content[start:end] * draw.choice((1, 2, 50)) + content[end:]


def _other_json(content: bytes, draw: random.Random) -> bytes:
    """Put an odd value somewhere into JSON, or into one line of it; content that is no JSON gets odd bytes."""
    lines = content.split(b"\n")
    number = draw.randrange(len(lines))
    for whole in (True, False):
        try:
            value = json.loads(content if whole else lines[number])
        except (ValueError, RecursionError):
            continue
        text = json.dumps(_with_odd_value(value, draw), ensure_ascii=draw.random() < 0.5)
        lines[number] = text.encode(errors="surrogatepass")
        return lines[number] if whole else b"\n".join(lines)
    return _insert(content, draw)


def _with_odd_value(value: Any, draw: random.Random) -> Any:
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return draw.choice(ODD_VALUES)
    holder, key = draw.choice(places)
    match draw.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[str(draw.choice(ODD_VALUES))] = holder[key]
        case _:
            holder[key] = draw.choice(ODD_VALUES)
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


CHANGES = (_flip_bit, _change_byte, _insert, _cut, _delete, _zero, _repeat, _other_json, _other_json)
