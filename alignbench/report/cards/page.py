"""The page of judge cards, as GitHub Markdown: one table a question, each of figures that may be compared."""

from collections.abc import Iterator, Mapping, Sequence

from alignbench.report.cards.tables import (
    accuracy_grids,
    ascent_grids,
    best_of_grids,
    cost_grid,
    margin_grids,
    policy_grid,
    position_grid,
    redundancy_grids,
    rule_notes,
)
from alignbench.report.display import Grid
from alignbench.report.markdown import escaped, grid_lines
from alignbench.store.cards import Card

ACCURACY = (
    "How often a judge prefers the image that people prefer, in %. Pairs that people call equal are left out, a "
    "judge's own ties count half; brackets hold the 95 % interval over prompts. The other columns are the rules of the "
    "publications on the same scores. Compare figures of one column only. In-domain judges learned from the training "
    "part of these data, or from the same people."
)
ASCENT = (
    "Each image is changed along the gradient of one scorer, by at most so many of 255 levels. Gains are in standard "
    "deviations of the scorer between images of one prompt; the gain by random changes of the same size is subtracted. "
    "Exploitability is the scorer's own gain minus the largest gain of a scorer outside its lineage. Others find "
    "better: the median share of images that scorers outside the lineage prefer to the unchanged ones. It is 50 "
    "without any change. The scorer that notices most is the one outside the lineage that falls most, or rises least; "
    "its change is told with nothing subtracted."
)
BEST_OF = (
    "The best of n images of a prompt, as each scorer chooses it. Gains over one image are in standard deviations "
    "between images of one prompt. The truth is what people, or the program in their place, think of the images. KL is "
    "the bound log n - (n - 1) / n in nats."
)
POLICIES = (
    "Win rates over base, in %, of methods that trained on a scorer: by this scorer, and the mean by those that the "
    "method did not train on. The gap is what only the scorer sees."
)
ALIKE = (
    "Spearman correlation of the differences that scorers see between two images of a prompt. The effective number is "
    "the exponential of the entropy of the eigenvalues: 1 for copies of one scorer, the number of scorers if they "
    "share nothing."
)
POSITION = (
    "What the order of two images decides: the share of answers for the first image, in %, which is 50 without bias. "
    "Judges outside 40 to 60 are flagged."
)


def markdown(cards: Sequence[Card], left_out: Mapping[str, str], pictures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        left_out: why files were no cards, by their path.
        pictures: path of each picture, by the name of the part of the page that it belongs to.
    """
    lines = ["# Judge cards", ""]
    lines += [f"> {escaped(name)} is left out: {escaped(reason)}\n" for name, reason in left_out.items()]
    for title, text, grids, notes, name in _parts(cards):
        if grids:
            lines += [f"## {title}", "", text, ""]
            for grid in grids:
                lines += [f"**{escaped(grid.title)}**", "", *grid_lines(grid), ""]
            lines += [f"- {escaped(note)}" for note in notes]
            lines += [""] * bool(notes)
            lines += [
                line for key, path in pictures.items() if key.startswith(name) for line in (f"![{title}]({path})", "")
            ]
    return "\n".join(lines)


def _parts(cards: Sequence[Card]) -> Iterator[tuple[str, str, list[Grid], list[str], str]]:
    """Yield title, explanation, tables, notes and the name of the pictures of each part of the page."""
    yield "Agreement with people", ACCURACY, accuracy_grids(cards), rule_notes(cards), "accuracy"
    yield "Agreement by how far apart people see the images", "In %, as above.", margin_grids(cards), [], "margin"
    yield "How far a scorer can be raised", ASCENT, ascent_grids(cards), [], "ascent"
    yield "Best of n", BEST_OF, best_of_grids(cards), [], "best_of"
    yield "Methods that trained on a scorer", POLICIES, policy_grid(cards), [], "policies"
    yield "Redundancy", ALIKE, redundancy_grids(cards), [], "alike"
    yield "Position", POSITION, position_grid(cards), [], "position"
    yield "Cost", "On the machine that made the card.", cost_grid(cards), [], "cost"
