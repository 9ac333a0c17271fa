"""Draw growth as an SVG that follows the reader's choice of light or dark."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 128, 128  # of the area of a panel
LEFT, TOP, PITCH = 34, 34, 208  # where the first area begins, and how far apart they are
LINE = 12  # of text
STYLE = """
text{fill:#1c2b45}.note{fill:#5d6778}.frame{fill:none;stroke:#b9c2d3}.linear{stroke:#8a94a6;stroke-dasharray:3 3}
.time{stroke:#2f6fde}.memory{stroke:#c2570c}text.time{stroke:none;fill:#2f6fde}text.memory{stroke:none;fill:#c2570c}
polyline{fill:none;stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#e8eefb}.note{fill:#aab6cc}.frame{stroke:#46536b}.linear{stroke:#8a94a6}
.time{stroke:#7fb0ff}.memory{stroke:#ffb066}text.time{fill:#7fb0ff}text.memory{fill:#ffb066}}
"""


@dataclass(frozen=True)
class Curve:
    """How a command grows.

    Attributes:
        title: the command and what of it grows.
        factors: how many times as large as the smallest it was, the smallest first.
        seconds, mib: CPU time and peak memory at each.
    """

    title: str
    factors: Sequence[int]
    seconds: Sequence[float]
    mib: Sequence[float]


def svg(curves: Sequence[Curve]) -> str:
    """Return a panel for each curve: time and memory over those of the smallest, both axes logarithmic."""
    width, height = LEFT + PITCH * len(curves), TOP + HEIGHT + 56
    highest = max(max(*one.factors, *_over_first(one.seconds), *_over_first(one.mib)) for one in curves)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11">',
        f"<style>{STYLE.strip()}</style>",
        *(part for column, curve in enumerate(curves) for part in _panel(curve, LEFT + PITCH * column, highest)),
        _text(LEFT, height - 8, "CPU time", "time"),
        _text(LEFT + 62, height - 8, "peak memory", "memory"),
        _text(LEFT + 146, height - 8, "as multiples of the smallest; dashed: as large as what grows", "note"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(curve: Curve, left: float, highest: float) -> Iterator[str]:
    """Yield the parts of the panel of one curve; its area begins at `left`, and the top of its axis is `highest`."""
    widest = curve.factors[-1]

    def point(factor: float, multiple: float) -> tuple[float, float]:
        across, up = math.log(factor) / math.log(widest), math.log(max(multiple, 1)) / math.log(highest)
        return left + WIDTH * across, TOP + HEIGHT * (1 - up)

    yield _text(left, TOP - 12, curve.title)
    yield f'<rect class="frame" x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}"/>'
    for factor in curve.factors:
        yield _text(point(factor, 1)[0], TOP + HEIGHT + 15, f"{factor}x", "note", "middle")
        yield _text(left - 5, point(1, factor)[1] + 4, f"{factor}", "note", "end")
    multiples = {"linear": curve.factors, "memory": _over_first(curve.mib), "time": _over_first(curve.seconds)}
    for kind, values in multiples.items():
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(point, curve.factors, values))
        yield f'<polyline class="{kind}" points="{points}"/>'
    words = {"time": f"{curve.seconds[-1]:.0f} s", "memory": f"{curve.mib[-1]:.0f} MiB"}
    heights = {kind: point(widest, multiples[kind][-1])[1] for kind in words}
    upper, lower = sorted(words, key=heights.__getitem__)
    heights[upper] = min(heights[upper], heights[lower] - LINE)  # or the words would lie over each other
    for kind, text in words.items():
        yield _text(left + WIDTH + 4, heights[kind] + 4, text, kind)


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _over_first(values: Sequence[float]) -> list[float]:
    return [value / values[0] for value in values]
