"""The page of judge cards, as GitHub Markdown."""

from collections.abc import Mapping, Sequence

from alignbench.store.cards import Card


def markdown(cards: Sequence[Card], left_out: Mapping[str, str]) -> str:
    return "# Judge cards\n"
