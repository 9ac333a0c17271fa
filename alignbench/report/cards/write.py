"""Write all judge cards of a results folder as one page, with pictures."""

from pathlib import Path

from alignbench.files import write_text
from alignbench.report.cards.page import markdown
from alignbench.store.cards import CARDS, read_cards

PAGE = "cards.md"


def write_cards_page(root: Path) -> Path:
    """Write results/cards/cards.md and its pictures; return the page."""
    left_out: dict[str, str] = {}
    cards = list(read_cards(root, left_out).values())
    page = Path(root) / CARDS / PAGE
    write_text(page, markdown(cards, left_out))
    return page
