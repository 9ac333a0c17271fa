"""The pictures of judge cards: agreement with people, gains under ascent, best of n, and who judges alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignbench.report.cards.tables import accuracies, alike_groups, ascents
from alignbench.report.pictures import new_figure, save_figure
from alignbench.store.cards import Card, DataAccuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_pictures(cards: Sequence[Card], folder: Path) -> dict[str, Path]:
    """Draw all pictures that cards have figures for, and remove those of earlier cards; return their files by name."""
    found: dict[str, Path] = {}
    for number, rows in enumerate(accuracies(cards).values()):
        found[f"accuracy-{number}"] = _accuracy(rows, folder / _name(rows[0][1]))
    for data, levels, num, steps in ascents(cards):
        name = f"ascent-{data}-{levels}-{num}-{steps}"
        found[name] = _ascent(cards, (data, levels, num, steps), folder / f"{name}.png")
    for data in dict.fromkeys(one.data for card in cards for one in card.best_of):
        found[f"best_of-{data}"] = _best_of(cards, data, folder / f"best_of-{data}.png")
    for number, key in enumerate(alike_groups(cards)):
        found[f"alike-{number}"] = _dendrogram(cards, key, folder / f"alike-{key[0]}-{number}.png")
    for file in set(folder.glob("*.png")) - set(found.values()):
        file.unlink(missing_ok=True)
    return found


def _name(one: DataAccuracy) -> str:
    """Return the name of the picture of accuracies that may be compared."""
    return f"accuracy-{one.data}-{one.digest}-{one.num_pairs}-{one.protocol}.png"


def _accuracy(rows: Sequence[tuple[Card, DataAccuracy]], path: Path) -> Path:
    """Draw the accuracy of each judge with its interval, and beside it how its probabilities are calibrated."""
    figure = new_figure(9, 1.4 + 0.34 * max(len(rows), 6))
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    for height, (card, one) in enumerate(reversed(rows)):
        low = one.accuracy.value if one.accuracy.low is None else one.accuracy.low
        high = one.accuracy.value if one.accuracy.high is None else one.accuracy.high
        colour = "gray" if one.in_domain else "tab:blue"
        left.plot([100 * low, 100 * high], [height, height], color=colour)
        left.plot([100 * one.accuracy.value], [height], "o", color=colour)
        if one.calibration is not None:
            bins = one.calibration.bins
            right.plot([b.confidence for b in bins], [b.agreement for b in bins], ".-", linewidth=1, label=card.name)
    left.axvline(50, color="black", linewidth=0.8, linestyle=":")
    left.set_yticks(range(len(rows)), [card.key for card, _ in reversed(rows)], fontsize=8)
    left.set(xlabel=f"right about pairs of {rows[0][1].data} in %, 95 % interval; grey: in-domain", xlim=(35, 102))
    right.plot([0.5, 1], [0.5, 1], color="gray", linewidth=1)
    right.set(xlabel="probability for the image that it prefers", ylabel="share of people", xlim=(0.5, 1))
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize=6, frameon=False)
    for panel in (left, right):
        _small(panel)
    return save_figure(figure, path)


def _ascent(cards: Sequence[Card], key: tuple[str, int, int, int], path: Path) -> Path:
    """Draw the gain of each scorer, where one of them is raised: a row for each that is raised."""
    rows = ascents(cards)[key]
    names = list(dict.fromkeys(name for card, one in rows for name in (card.name, *(o.scorer for o in one.others))))
    gains = np.full((len(rows), len(names)), np.nan)
    for row, (card, one) in enumerate(rows):
        gains[row, names.index(card.name)] = one.gain
        for other in one.others:
            gains[row, names.index(other.scorer)] = other.gain
    figure = new_figure(2.6 + 0.75 * len(names), 2.4 + 0.5 * len(rows))
    panel = figure.subplots()
    limit = max(float(np.nanmax(np.abs(gains))), 0.1)
    panel.imshow(gains, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in zip(*np.nonzero(~np.isnan(gains)), strict=True):
        value = gains[row, column]
        colour = "white" if abs(value) > 0.6 * limit else "black"
        panel.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=colour)
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    panel.set_yticks(range(len(rows)), [card.name for card, _ in rows], fontsize=8)
    panel.set_title(f"gain in sd where the row is raised by {key[1]}/255", fontsize=9)
    return save_figure(figure, path)


def _best_of(cards: Sequence[Card], data: str, path: Path) -> Path:
    """Draw the gain of the best of n by the scorer that chooses, and in truth, over the divergence."""
    curves = [(card, one) for card in cards for one in card.best_of if one.data == data]
    columns = min(len(curves), 3)
    lines = -(-len(curves) // columns)
    figure = new_figure(3.1 * columns, 0.6 + 2.2 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, (card, one) in zip(panels, curves, strict=False):
        for name, gain in one.gain.items():
            if name != card.name:
                panel.plot(one.divergence, gain, color="lightgray", linewidth=1)
        if card.name in one.gain:
            panel.plot(one.divergence, one.gain[card.name], ".-", color="tab:blue", label="itself")
        if one.truth is not None:
            panel.plot(one.divergence, one.truth, ".--", color="tab:orange", label="truth")
        panel.set_title(card.name, fontsize=9)
        _small(panel)
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("KL bound of the best of n, nats; grey: other scorers", fontsize=9)
    figure.supylabel("gain, sd", fontsize=9)
    return save_figure(figure, path)


def _dendrogram(cards: Sequence[Card], key: tuple[str, int, int, float], path: Path) -> Path:
    """Draw which scorers judge alike: joined at 1 minus their Spearman correlation, by the mean."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    rows = alike_groups(cards)[key]
    names = list(rows)
    distance = np.array([[0.0 if a == b else 1 - (rows[a].correlation.get(b) or 0.0) for b in names] for a in names])
    figure = new_figure(6, 1.2 + 0.35 * len(names))
    panel = figure.subplots()
    tree = linkage(squareform((distance + distance.T) / 2, checks=False), "average")
    dendrogram(tree, labels=names, orientation="right", ax=panel, color_threshold=0, above_threshold_color="tab:blue")
    panel.set_xlabel("1 - Spearman correlation of differences", fontsize=9)
    panel.set_title(f"{len(names)} scorers, worth {key[3]:.1f} ({key[0]})", fontsize=9)
    _small(panel)
    return save_figure(figure, path)


def _small(panel: "Axes") -> None:
    panel.tick_params(labelsize=8)
    panel.xaxis.label.set_fontsize(8)
    panel.yaxis.label.set_fontsize(8)
