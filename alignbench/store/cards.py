"""Judge cards: what was measured of how far an evaluator or a comparer is to be trusted.

results/cards/<name>@<version>.json. Numbers that do not exist are null. Cards may come from elsewhere, so all that is
read is checked.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from alignbench.errors import UserError
from alignbench.files import is_intact, with_check, without_check, write_json
from alignbench.reading import check_record, read_json_object

CARDS = "cards"
MAKE_AGAIN = "delete it and make the card again: python -m alignbench.card"
PROTOCOL = 1  # of accuracies; those of two protocols are never compared

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its 95 % interval; none where one prompt alone was there."""

    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None


@dataclass(frozen=True)
class RuleFigure:
    """An accuracy by the rule of a publication; see `alignbench.card.rules`."""

    rule: str
    value: Share
    num: int
    told: str


@dataclass(frozen=True)
class PartFigure:
    """The accuracy on a part of the pairs."""

    name: str
    num: int
    accuracy: Interval


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs that a judge is about equally sure of; see `alignbench.statistics.reliability`."""

    confidence: Share
    agreement: Share
    num_pairs: int


@dataclass(frozen=True)
class CardCalibration:
    """Whether differences of scores mean probabilities, after a fitted scale."""

    error: FiniteFloat
    by_chance: FiniteFloat
    bins: list[CalibrationBin]


@dataclass(frozen=True)
class PositionFigures:
    """How far the order of two images decided; see `alignbench.pairwise.orders`."""

    calls: int
    pairs: int
    failures: int
    ties: int
    first_rate: Share | None
    consistent: Share | None
    always_first: Share | None
    always_second: Share | None
    log_odds: FiniteFloat | None
    is_biased: bool


@dataclass(frozen=True)
class DataAccuracy:
    """How often a judge agrees with people on a data set.

    Attributes:
        published: year and month of the data set.
        is_of_people: False where a program is the truth.
        digest: of prompts and labels; figures over other pairs are not compared.
        num_ties: pairs that people call equal; they are not among `num_pairs`.
        in_domain: whether the judge learned from the training part, or from the same people.
        accuracy: over pairs that people do not call equal: right 1, a predicted tie 1/2; interval over prompts.
        mean_of_prompts: the mean over prompts of their accuracies.
        own_rule: name of the rule of the data set's publication.
        rules: accuracies by all rules that apply.
        by_margin, by_group: of thirds of pairs by how far apart people see them, and of parts of the data set.
    """

    data: str
    published: str
    is_of_people: bool
    digest: str
    protocol: int
    num_pairs: int
    num_prompts: int
    num_ties: int
    in_domain: bool
    accuracy: Interval
    mean_of_prompts: Share
    own_rule: str
    rules: list[RuleFigure]
    by_margin: list[PartFigure]
    by_group: list[PartFigure]
    calibration: CardCalibration | None
    position: PositionFigures | None


@dataclass(frozen=True)
class OtherGain:
    """What another scorer says of images that were changed, or chosen, for this one.

    Attributes:
        gain: mean change of its score, in standard deviations between images of one prompt, minus `control`; higher is
            better.
        control: the mean change by random changes of the same size.
        won: share of the images that it finds better than before, ties half.
        in_lineage: whether one of the two learned from the other.
    """

    scorer: str
    gain: FiniteFloat
    control: FiniteFloat
    won: Share
    in_lineage: bool


@dataclass(frozen=True)
class PixelAscent:
    """How far a scorer is raised by changes of pixels that people hardly see.

    Attributes:
        levels: largest change of a channel, of 255 levels.
        gain, control, won: of the scorer itself, as in `OtherGain`.
        others: all other scorers of the command.
        exploitability: gain minus the largest gain of a scorer outside the lineage; null where there is none.
        others_won: median of `won` over scorers outside the lineage.
    """

    data: str
    levels: int
    num_steps: int
    num_images: int
    gain: FiniteFloat
    control: FiniteFloat
    won: Share
    others: list[OtherGain]
    exploitability: FiniteFloat | None
    others_won: Share | None


@dataclass(frozen=True)
class BestOf:
    """What the best of n images by this scorer gains, by itself and by others.

    Attributes:
        divergence: bound of the KL divergence from taking one image: log n - (n - 1) / n, in nats.
        gain: mean gain over one image, by scorer, in standard deviations between images of one prompt; this scorer is
            among them.
        truth: the same in what people think of the images.
    """

    data: str
    num_prompts: int
    n: list[int]
    divergence: list[FiniteFloat]
    gain: dict[str, list[FiniteFloat]]
    truth: list[FiniteFloat] | None


@dataclass(frozen=True)
class PolicyGain:
    """What a method that trained on this scorer won over base by it, and by those that it did not train on."""

    model: str
    prompt_set: str
    method: str
    won: Share
    held_out_won: Share
    num_held_out: int
    num_seeds: int


@dataclass(frozen=True)
class Alike:
    """How alike this scorer and others judge the same pairs; see `alignbench.card.redundancy`."""

    data: str
    num_pairs: int
    num_scorers: int
    effective: FiniteFloat
    correlation: dict[str, FiniteFloat | None]
    kappa: dict[str, FiniteFloat | None]
    phi: dict[str, FiniteFloat | None]


@dataclass(frozen=True)
class Cost:
    """What judging took on the machine that made the card.

    Attributes:
        seconds: of an image; of a call of a comparer.
        memory_gib: most that the device held; on a CPU the whole process.
    """

    device: str
    seconds: FiniteFloat
    memory_gib: FiniteFloat


@dataclass(frozen=True)
class Card:
    """What is known of one evaluator or comparer of one version and weights.

    Attributes:
        identity: all that its answers depend on beside name and version.
        weights: digest of its weights; empty where the version alone decides.
        labelled_by: evaluators whose judgement it learned from.
        accuracy: the newest data set of people first.
    """

    name: str
    version: str
    kind: Literal["evaluator", "comparer"]
    identity: str
    weights: str
    labelled_by: list[str]
    program: str
    accuracy: list[DataAccuracy] = field(default_factory=list)
    ascent: list[PixelAscent] = field(default_factory=list)
    best_of: list[BestOf] = field(default_factory=list)
    policies: list[PolicyGain] = field(default_factory=list)
    alike: list[Alike] = field(default_factory=list)
    cost: Cost | None = None

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def lead(self) -> DataAccuracy | None:
        """The accuracy that stands for the card: on the newest images that people judged, else on a program's."""
        return self.accuracy[0] if self.accuracy else None


def newest_first(found: list[DataAccuracy]) -> list[DataAccuracy]:
    """Return accuracies in the order in which a card shows them: of people before programs, and the newest first."""
    by_name = sorted(found, key=lambda one: one.data)
    return sorted(by_name, key=lambda one: (one.is_of_people, one.published), reverse=True)


def card_file(root: Path, name: str, version: str) -> Path:
    return Path(root) / CARDS / f"{name}@{version}.json"


def write_card(root: Path, card: Card) -> Path:
    """Write a card, atomically; return its file."""
    file = card_file(root, card.name, card.version)
    write_json(file, with_check(asdict(card)))
    return file


def read_card(file: Path) -> Card:
    """Read a card, which may be anybody's.

    Raises:
        UserError: it is no card, has changed since it was written, or belongs to another name.
    """
    from pydantic import TypeAdapter

    values = read_json_object(file, MAKE_AGAIN)
    if not is_intact(values):
        raise UserError(f"{file} has changed since it was written; {MAKE_AGAIN}")
    values = without_check(values)
    check_record(Card, values, str(file), MAKE_AGAIN)
    card: Any = TypeAdapter(Card).validate_python(values)
    if file.name != f"{card.key}.json":
        raise UserError(f"{file} is the card of {card.key}; {MAKE_AGAIN}")
    return card


def read_cards(root: Path, left_out: dict[str, str] | None = None) -> dict[tuple[str, str], Card]:
    """Return all cards of a results folder, by name and version.

    Args:
        left_out: receives the reason for each file that cannot be read; without it, such a file raises.

    Raises:
        UserError: a card cannot be read, and `left_out` is None.
    """
    found = {}
    for file in sorted((Path(root) / CARDS).glob("*@*.json")):
        try:
            card = read_card(file)
        except UserError as error:
            if left_out is None:
                raise
            left_out[f"{CARDS}/{file.name}"] = str(error)
            continue
        found[card.name, card.version] = card
    return found
