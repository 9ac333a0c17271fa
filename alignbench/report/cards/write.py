"""Write all judge cards of a results folder as one page, with pictures and tables."""

from pathlib import Path

from alignbench.files import write_csv, write_text
from alignbench.report.cards.page import markdown
from alignbench.report.cards.pictures import write_pictures
from alignbench.report.cards.tables import accuracy_rows, ascent_rows
from alignbench.report.columns import ASCENT_COLUMNS, CARD_COLUMNS
from alignbench.store.cards import CARDS, read_cards

PAGE = "cards.md"
PICTURES = "pictures"


def write_cards_page(root: Path) -> Path:
    """Write `cards.md`, `cards.csv`, `ascent.csv` and pictures of all cards into results/cards; return the page."""
    left_out: dict[str, str] = {}
    cards = list(read_cards(root, left_out).values())
    folder = Path(root) / CARDS
    pictures = write_pictures(cards, folder / PICTURES)
    names = {name: f"{PICTURES}/{file.name}" for name, file in pictures.items()}
    write_text(folder / PAGE, markdown(cards, left_out, names))
    write_csv(folder / "cards.csv", CARD_COLUMNS, accuracy_rows(cards))
    write_csv(folder / "ascent.csv", ASCENT_COLUMNS, ascent_rows(cards))
    return folder / PAGE
