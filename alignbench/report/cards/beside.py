"""The accuracy of an evaluator on human pairs, as tables name it beside the evaluator where it has a card."""

from collections.abc import Mapping

from alignbench.report.figures import percent
from alignbench.store.cards import Card
from alignbench.store.scores import ScoreInfo

NOTE = (
    "agrees with people: share of pairs of images on which the evaluator prefers what people prefer, in %, from its "
    "card (results/cards, docs/which_judge.md), on the newest data set that it was measured on; compare within one data"
    " set"
)
ROW = "agrees with people, %"


def cards_beside(
    infos: Mapping[tuple[str, str], ScoreInfo], cards: Mapping[tuple[str, str], Card]
) -> dict[tuple[str, str], Card]:
    """Return the cards of the evaluators of a report; one of other weights or another precision is not theirs."""
    return {key: cards[key] for key, info in infos.items() if key in cards and _is_of(cards[key], info)}


def _is_of(card: Card, info: ScoreInfo) -> bool:
    if card.lead is None:
        return False
    identity = " ".join(filter(None, (info.weights, info.precision, info.preprocess)))
    return card.kind == "comparer" or card.identity == identity


def agreement_text(card: Card) -> str:
    """Return the accuracy that a card leads with, its interval and the data set, as in `66.0 [62.1, 69.8] mmrb2`."""
    lead = card.lead
    assert lead is not None
    low, high = (float("nan") if end is None else end for end in (lead.accuracy.low, lead.accuracy.high))
    return f"{percent(lead.accuracy.value, (low, high))} {lead.data}{', in-domain' if lead.in_domain else ''}"
