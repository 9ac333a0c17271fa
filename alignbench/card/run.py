"""Make the cards of the judges of one command: measure them on each data set, then write cards and their page."""

import importlib.metadata
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.table import Table
from transformers.utils import logging as transformers_logging

from alignbench.card.accuracy import accuracy
from alignbench.card.ascent import Ascents
from alignbench.card.best_of import best_of
from alignbench.card.human.records import HumanPairs, Pairs, Record, picture, spread_within
from alignbench.card.policies import policy_gains
from alignbench.card.redundancy import Redundancy, redundancy
from alignbench.card.scoring import Scored, drawn_pairs, judged_pairs, margins_of, scored, tournament_scores
from alignbench.configuration.build import build
from alignbench.devices import device_name, peak_memory_gib
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Reward
from alignbench.files import locked
from alignbench.pairwise.comparer import Comparer
from alignbench.report.cards.write import write_cards_page
from alignbench.scoring.calibration import compare as calibrate
from alignbench.scoring.network_pool import NetworkPool
from alignbench.store.cards import CARDS, Alike, Card, Cost, card_file, newest_first, read_card, write_card
from alignbench.terminal.console import open_console, print_fact
from alignbench.text import duration, keyed

Floats = NDArray[np.float64]


@dataclass
class Measured:
    """What one command has measured, by `<name>@<version>` of the judges."""

    cards: dict[str, Card]
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    redundancies: list[str] = field(default_factory=list)


def make_cards(cfg: DictConfig) -> list[Path]:
    """Measure as the configuration says; return the files of the cards.

    Raises:
        UserError: an evaluator or data set is not as it should be; naming it.
    """
    begin = time.monotonic()
    transformers_logging.disable_progress_bar()
    console = open_console(file_width=140)
    root = Path(cfg.results)
    evaluators: list[Evaluator] = [build(node) for node in cfg.evaluators.values()]
    comparers: list[Comparer] = [build(node) for node in cfg.comparers.values()]
    _refuse_repeated([*evaluators, *comparers])
    data_sets: list[HumanPairs] = [build(node) for node in cfg.human_pairs.values()]
    gains = policy_gains(Path(cfg.runs) / "leaderboard.csv") if cfg.runs is not None else {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pool = NetworkPool(device)
    measured = Measured({_key(one): _empty(one) for one in [*evaluators, *comparers]})
    for card in measured.cards.values():
        _merged(root, card)  # a damaged card is refused before anything is measured
    if cfg.calibration:
        for evaluator in evaluators:
            calibrate(evaluator, None)
    for data in data_sets:
        _measure(cfg, data, evaluators, comparers, root, pool, measured)
    for key, card in measured.cards.items():
        used = measured.seconds[key]
        cost = Cost(device_name(device), float(np.mean(used)), round(peak_memory_gib(), 3)) if used else None
        measured.cards[key] = replace(card, policies=gains.get((card.name, card.version), []), cost=cost)
    with locked(root / CARDS / ".cards.lock"):
        merged = [_merged(root, card) for card in measured.cards.values()]
        files = [write_card(root, card) for card in merged]
        page = write_cards_page(root)
    console.print(_table(merged))
    for text in measured.redundancies:
        print_fact(console, "redundancy", text)
    print_fact(console, "cards", f"{root / CARDS}, made in {duration(time.monotonic() - begin)}")
    print_fact(console, "page", str(page))
    return files


def _measure(
    cfg: DictConfig,
    data: HumanPairs,
    evaluators: Sequence[Evaluator],
    comparers: Sequence[Comparer],
    root: Path,
    pool: NetworkPool,
    measured: Measured,
) -> None:
    records = data.chosen(cfg.num_prompts)
    pairs = Pairs.of(records)
    by_key = scored(evaluators, data.name, records, root, cfg.batch_size, pool)
    margins: dict[str, Floats] = {}
    for evaluator in evaluators:
        found = by_key[_key(evaluator)]
        margins[evaluator.name] = found.margins(pairs)
        figures = accuracy(data, records, pairs, margins[evaluator.name], evaluator.lineage, found.scores)
        curve = _best_of(cfg, data, records, evaluator, evaluators, by_key)
        _add(measured, _key(evaluator), accuracy=figures, best_of=curve)
        measured.seconds[_key(evaluator)].append(found.seconds)
    spreads = {evaluator.name: spread_within(by_key[_key(evaluator)].scores) for evaluator in evaluators}
    _raise(cfg, data, records, evaluators, spreads, pool, measured)
    _tell_alike(redundancy(margins, pairs.worth), data, len(pairs.record), evaluators, measured)
    some = drawn_pairs(records, pairs, cfg.comparer_pairs)
    for comparer in comparers:
        comparer.to(pool.device)
        judged, seconds = judged_pairs(comparer, data.name, records, some, root)
        figures = accuracy(data, records, some, margins_of(judged), (comparer.name,), judged=judged)
        curve = _best_by_comparer(cfg, data, records, comparer, evaluators, by_key, root)
        _add(measured, _key(comparer), accuracy=figures, best_of=curve)
        measured.seconds[_key(comparer)].append(seconds)
        comparer.release()


def _best_of(
    cfg: DictConfig,
    data: HumanPairs,
    records: Sequence[Record],
    evaluator: Evaluator,
    evaluators: Sequence[Evaluator],
    by_key: Mapping[str, Scored],
) -> Any:
    worth = [record.worth for record in records] if data.has_scale else None
    scores = {one.name: by_key[_key(one)].scores for one in evaluators}
    return best_of(evaluator.name, scores, worth, list(cfg.exploit.best_of), data.name)


def _best_by_comparer(
    cfg: DictConfig,
    data: HumanPairs,
    records: Sequence[Record],
    comparer: Comparer,
    evaluators: Sequence[Evaluator],
    by_key: Mapping[str, Scored],
    root: Path,
) -> Any:
    if not cfg.exploit.comparer_prompts:
        return None
    chosen, shares = tournament_scores(comparer, data.name, records, cfg.exploit.comparer_prompts, root)
    worth = [records[number].worth for number in chosen] if data.has_scale else None
    scores = {one.name: [by_key[_key(one)].scores[number] for number in chosen] for one in evaluators}
    return best_of(comparer.name, {comparer.name: shares} | scores, worth, list(cfg.exploit.best_of), data.name)


def _raise(
    cfg: DictConfig,
    data: HumanPairs,
    records: Sequence[Record],
    evaluators: Sequence[Evaluator],
    spreads: Mapping[str, float],
    pool: NetworkPool,
    measured: Measured,
) -> None:
    """Raise each reward on the same images, drawn over all prompts; their order in the data does not matter."""
    places = [(number, image) for number, record in enumerate(records) for image in range(len(record.images))]
    places.sort(key=lambda place: keyed(place[1], records[place[0]].prompt, cfg.seed))
    drawn = places[: cfg.exploit.num_images]
    rewards = [one for one in evaluators if isinstance(one, Reward) and drawn]
    if not rewards:
        return
    images = [picture(records[number].images[image]) for number, image in drawn]
    prompts = [records[number].prompt for number, _ in drawn]
    ascents = Ascents(data.name, evaluators, spreads, images, prompts, cfg.batch_size, pool, cfg.seed)
    for reward in rewards:
        for levels in cfg.exploit.levels:
            _add(measured, _key(reward), ascent=ascents.measure(reward, levels, cfg.exploit.num_steps))


def _tell_alike(
    found: Redundancy | None, data: HumanPairs, num_pairs: int, evaluators: Sequence[Evaluator], measured: Measured
) -> None:
    if found is None or len(found.names) < 2:
        return
    measured.redundancies.append(f"{data.name}: {found}")
    for evaluator in (one for one in evaluators if one.name in found.names):
        row = found.names.index(evaluator.name)
        columns = [
            {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(found.names, matrix[row], strict=True)
                if name != evaluator.name
            }
            for matrix in (found.correlation, found.kappa, found.phi)
        ]
        _add(measured, _key(evaluator), alike=Alike(data.name, num_pairs, len(found.names), found.effective, *columns))


def _add(measured: Measured, key: str, **figures: Any) -> None:
    """Add figures to a card; None adds nothing."""
    card = measured.cards[key]
    added = {name: [*getattr(card, name), one] for name, one in figures.items() if one is not None}
    measured.cards[key] = replace(card, **added)


def _key(one: Evaluator | Comparer) -> str:
    return f"{one.name}@{one.version}"


def _empty(one: Evaluator | Comparer) -> Card:
    program = importlib.metadata.version("alignbench")
    if isinstance(one, Comparer):
        return Card(one.name, one.version, "comparer", one.identity, one.weights, [], program)
    identity = " ".join(filter(None, (one.weights, one.precision, one.preprocess.key)))
    return Card(one.name, one.version, "evaluator", identity, one.weights, list(one.labelled_by), program)


def _merged(root: Path, card: Card) -> Card:
    """Return a card with what an earlier one of the same judge says of other data sets."""
    file = card_file(root, card.name, card.version)
    if not file.exists():
        return replace(card, accuracy=newest_first(card.accuracy))
    before = read_card(file)
    if before.identity != card.identity:
        return replace(card, accuracy=newest_first(card.accuracy))
    kept = {}
    for name in ("accuracy", "ascent", "best_of", "alike"):
        own = getattr(card, name)
        kept[name] = own + [one for one in getattr(before, name) if one.data not in {mine.data for mine in own}]
    kept["accuracy"] = newest_first(kept["accuracy"])
    return replace(card, **kept, policies=card.policies or before.policies, cost=card.cost or before.cost)


def _refuse_repeated(judges: Sequence[Evaluator | Comparer]) -> None:
    names = [one.name for one in judges]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two of the judges are called {repeated}; a card is kept by name, so choose one of them")


def _table(cards: Iterable[Card]) -> Table:
    """Return what cards lead with, as a table for the terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("judge", "agrees with people, %", "on", "raised by", "others find better, %", ""):
        table.add_column(head, no_wrap=head in ("judge", "agrees with people, %"))
    for card in cards:
        lead, most = card.lead, max(card.ascent, key=lambda one: one.levels, default=None)
        agrees, on, remarks = "", "", []
        if lead is not None:
            low, high = lead.accuracy.low, lead.accuracy.high
            agrees = f"{100 * lead.accuracy.value:.1f}"
            agrees += "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
            on = f"{lead.num_pairs:,} pairs of {lead.data}"
            remarks += ["in-domain"] * lead.in_domain
            if lead.position is not None and lead.position.is_biased:
                remarks.append(f"first image in {100 * (lead.position.first_rate or 0):.0f} % of answers")
        raised = "" if most is None else f"{most.gain:+.2f} sd, {most.levels}/255"
        others = "" if most is None or most.others_won is None else f"{100 * most.others_won:.0f}"
        table.add_row(card.key, agrees, on, raised, others, ", ".join(remarks))
    return table
