"""The tables of judge cards: rows of text, in groups whose figures may be compared."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from alignbench.report.columns import TableRow
from alignbench.report.display import Grid
from alignbench.report.figures import percent
from alignbench.store.cards import Alike, BestOf, Card, DataAccuracy, Interval, OtherGain, PixelAscent

RULES = ("hpsv2", "pickscore", "imagereward", "genai_bench_li", "genai_bench_jiang", "mmrb2")


def accuracies(cards: Sequence[Card]) -> dict[tuple[str, str, str, int, int], list[tuple[Card, DataAccuracy]]]:
    """Return the accuracies that may be compared: of one data set, the same pairs and one protocol; newest first."""
    found = defaultdict(list)
    for card in cards:
        for one in card.accuracy:
            found[one.published, one.data, one.digest, one.protocol, one.num_pairs].append((card, one))
    for rows in found.values():
        rows.sort(key=lambda row: (-row[1].accuracy.value, row[0].key))
    return dict(sorted(found.items(), reverse=True))


def accuracy_grids(cards: Sequence[Card]) -> list[Grid]:
    """Return a table for each data set."""
    grids = []
    for rows in accuracies(cards).values():
        first = rows[0][1]
        used = [rule for rule in RULES if any(one.rule == rule for _, row in rows for one in row.rules)]
        heads = ["judge", "right, % [95 %]", "mean of prompts", *(f"rule of {rule}" for rule in used)]
        heads += ["calibration error", "by chance", ""]
        cells = []
        for card, one in rows:
            by_rule = {figure.rule: f"{100 * figure.value:.1f}" for figure in one.rules}
            errors = ("", "") if one.calibration is None else (
                f"{one.calibration.error:.3f}", f"{one.calibration.by_chance:.3f}",
            )  # fmt: skip
            mark = "in-domain" if one.in_domain else ""
            mean = f"{100 * one.mean_of_prompts:.1f}"
            cells.append(
                [card.key, _share(one.accuracy), mean, *(by_rule.get(rule, "") for rule in used), *errors, mark]
            )
        ties = f", {first.num_ties:,} ties left out" if first.num_ties else ""
        truth = "" if first.is_of_people else "; the truth is a program's"
        title = f"{first.data}: {first.num_pairs:,} pairs of {first.num_prompts:,} prompts{ties}{truth}"
        grids.append(Grid(title, heads, cells))
    return grids


def rule_notes(cards: Sequence[Card]) -> list[str]:
    """Return a sentence for each rule, and which is the data set's own."""
    told: dict[str, str] = {}
    own: dict[str, str] = {}
    for card in cards:
        for one in card.accuracy:
            own[one.data] = one.own_rule
            for figure in one.rules:
                if figure.rule not in ("pickscore", "genai_bench_li"):  # each judge has a threshold of its own
                    told.setdefault(figure.rule, figure.told)
    told.setdefault("pickscore", "one tie of two counts 1/2; each half of the prompts has the threshold of the other")
    told.setdefault("genai_bench_li", "all pairs of the set, whatever their prompts; the tie threshold fits these data")
    notes = [f"rule of {rule}: {told[rule]}" for rule in RULES if rule in told] if own else []
    return notes + [f"{data}: the rule of its publication is that of {rule}" for data, rule in sorted(own.items())]


def margin_grids(cards: Sequence[Card]) -> list[Grid]:
    """Return the accuracy by thirds of the human margin, and by groups, for each data set that has them."""
    grids = []
    for rows in accuracies(cards).values():
        names = [part.name for part in rows[0][1].by_margin] + [part.name for part in rows[0][1].by_group]
        if not names:
            continue
        cells = []
        for card, one in rows:
            by_name = {part.name: part for part in [*one.by_margin, *one.by_group]}
            cells.append([card.key, *(_share(by_name[name].accuracy) if name in by_name else "" for name in names)])
        grids.append(
            Grid(f"{rows[0][1].data}, by the difference in what people think, and by group", ["judge", *names], cells)
        )
    return grids


def ascents(cards: Sequence[Card]) -> dict[tuple[str, int, int, int], list[tuple[Card, PixelAscent]]]:
    """Return the ascents that may be compared: on as many images of one data set, by one bound."""
    found = defaultdict(list)
    for card in cards:
        for one in card.ascent:
            found[one.data, one.levels, one.num_images, one.num_steps].append((card, one))
    return dict(sorted(found.items()))


def ascent_grids(cards: Sequence[Card]) -> list[Grid]:
    grids = []
    for (data, levels, num, steps), rows in ascents(cards).items():
        heads = ["scorer", "own gain", "own wins, %", "next scorer", "its gain", "exploitability"]
        heads += ["others find better, %", "who notices most", "its change"]
        cells = []
        for card, one in sorted(rows, key=lambda row: -(row[1].exploitability or -np.inf)):
            outside = [other for other in one.others if not other.in_lineage]
            best = max(outside, key=lambda other: other.gain, default=None)
            worst = min(outside, key=lambda other: other.gain + other.control, default=None)
            cells.append(
                [
                    card.key, f"{one.gain:+.2f}", f"{100 * one.won:.0f}", best.scorer if best else "",
                    f"{best.gain:+.2f}" if best else "",
                    "" if one.exploitability is None else f"{one.exploitability:+.2f}",
                    "" if one.others_won is None else f"{100 * one.others_won:.0f}",
                    worst.scorer if worst else "", f"{worst.gain + worst.control:+.2f}" if worst else "",
                ]
            )  # fmt: skip
        grids.append(Grid(f"{data}: {num} images, {steps} steps, at most {levels} of 255 levels", heads, cells))
        names = list(dict.fromkeys(name for card, one in rows for name in (card.name, *(o.scorer for o in one.others))))
        gains = []
        for card, one in rows:
            by_name = {other.scorer: f"{other.gain:+.2f}" for other in one.others} | {card.name: f"{one.gain:+.2f}"}
            gains.append([card.name, *(by_name.get(name, "") for name in names)])
        grids.append(
            Grid(
                f"Gain of each scorer (column) where one (row) is raised by {levels} levels", ["raised", *names], gains
            )
        )
    return grids


def best_of_grids(cards: Sequence[Card]) -> list[Grid]:
    """Return what the best of the largest n gains; the picture shows the other n."""
    by_n: dict[tuple[str, int, int], list[tuple[Card, BestOf]]] = defaultdict(list)
    for card in cards:
        for one in card.best_of:
            by_n[one.data, one.num_prompts, one.n[-1]].append((card, one))
    grids = []
    for (data, num, n), rows in by_n.items():
        cells = []
        for card, one in rows:
            own = one.gain[card.name][-1] if card.name in one.gain else float("nan")
            truth = "" if one.truth is None else f"{one.truth[-1]:+.2f}"
            others = [curve[-1] for name, curve in one.gain.items() if name != card.name]
            median = f"{np.median(others):+.2f}" if others else ""
            cells.append([card.key, f"{own:+.2f}", median, truth])
        title = f"{data}: best of {n}, {num} prompts, KL at most {rows[0][1].divergence[-1]:.2f} nats"
        grids.append(Grid(title, ["scorer that chooses", "own gain", "median gain of others", "gain in truth"], cells))
    return grids


def policy_grid(cards: Sequence[Card]) -> list[Grid]:
    cells = [
        [
            card.key, one.method, one.model, one.prompt_set, f"{100 * one.won:.1f}", f"{100 * one.held_out_won:.1f}",
            f"{100 * (one.won - one.held_out_won):+.1f}", str(one.num_held_out), str(one.num_seeds),
        ]
        for card in cards
        for one in sorted(card.policies, key=lambda one: (one.model, one.held_out_won - one.won))
    ]  # fmt: skip
    heads = ["scorer", "method", "model", "prompts", "by it", "by others", "gap", "others", "seeds"]
    return [Grid("Win rates over base", heads, cells)] if cells else []


def alike_groups(cards: Sequence[Card]) -> dict[tuple[str, int, int, float], dict[str, Alike]]:
    """Return what scorers have in common, by the command that measured them together; by the scorer's name."""
    found: dict[tuple[str, int, int, float], dict[str, Alike]] = defaultdict(dict)
    for card in cards:
        for one in card.alike:
            found[one.data, one.num_pairs, one.num_scorers, one.effective][card.name] = one
    return {key: rows for key, rows in sorted(found.items()) if len(rows) > 1}


def redundancy_grids(cards: Sequence[Card]) -> list[Grid]:
    grids = []
    for (data, num, scorers, effective), rows in alike_groups(cards).items():
        for what in ("correlation", "kappa", "phi"):
            cells = []
            for name, one in rows.items():
                others: dict[str, float | None] = getattr(one, what)
                values = [1.0 if other == name else others.get(other) for other in rows]
                cells.append([name, *("" if value is None else f"{value:.2f}" for value in values)])
            title = {
                "correlation": f"{data}, {num:,} pairs: {scorers} scorers are worth {effective:.1f}; Spearman",
                "kappa": f"{data}: kappa, twice the share of pairs with the same sign minus 1",
                "phi": f"{data}: phi, correlation of being right about what people prefer",
            }[what]
            grids.append(Grid(title, ["scorer", *rows], cells))
    return grids


def position_grid(cards: Sequence[Card]) -> list[Grid]:
    cells = []
    for card in cards:
        for one in card.accuracy:
            if (bias := one.position) is not None:
                shares = ["" if share is None else f"{100 * share:.1f}" for share in (bias.first_rate, bias.consistent)]
                odds = "" if bias.log_odds is None else f"{bias.log_odds:+.2f}"
                flag = "biased" if bias.is_biased else ""
                cells.append([card.key, one.data, f"{bias.calls:,}", *shares, odds, str(bias.failures), flag])
    heads = ["comparer", "data", "answers", "first, %", "both orders agree, %", "first place, log-odds", "failures", ""]
    return [Grid("Order of two images", heads, cells)] if cells else []


def cost_grid(cards: Sequence[Card]) -> list[Grid]:
    cells = [
        [
            card.key,
            f"{1000 * card.cost.seconds:.1f}",
            f"{card.cost.memory_gib:.2f}",
            card.cost.device,
            card.weights[:12],
        ]
        for card in cards
        if card.cost is not None
    ]
    heads = ["judge", "ms an image or call", "GiB at most", "device", "weights"]
    return [Grid("Time, memory and weights", heads, cells)] if cells else []


def _share(one: Interval) -> str:
    low, high = (float("nan") if end is None else end for end in (one.low, one.high))
    return percent(one.value, (low, high))


def accuracy_rows(cards: Sequence[Card]) -> list[TableRow]:
    """Return the rows of `cards.csv`: one for each judge and data set."""
    rows = []
    for (*_, protocol, _), found in accuracies(cards).items():
        for card, one in found:
            by_rule = {figure.rule: figure.value for figure in one.rules}
            rows.append(
                {
                    "evaluator": card.name,
                    "version": card.version,
                    "weights": card.weights,
                    "data": one.data,
                    "published": one.published,
                    "of_people": one.is_of_people,
                    "pairs_digest": one.digest,
                    "protocol": protocol,
                    "pairs": one.num_pairs,
                    "prompts": one.num_prompts,
                    "ties": one.num_ties,
                    "in_domain": one.in_domain,
                    "accuracy": one.accuracy.value,
                    "ci_low": one.accuracy.low,
                    "ci_high": one.accuracy.high,
                    "mean_of_prompts": one.mean_of_prompts,
                    "own_rule": one.own_rule,
                    **{f"rule_{rule}": by_rule.get(rule) for rule in RULES},
                    "calibration_error": None if one.calibration is None else one.calibration.error,
                    "calibration_by_chance": None if one.calibration is None else one.calibration.by_chance,
                    "first_rate": None if one.position is None else one.position.first_rate,
                }
            )
    return rows


def ascent_rows(cards: Sequence[Card]) -> list[TableRow]:
    """Return the rows of `ascent.csv`: what each scorer says where one is raised; itself among them."""
    rows = []
    for (data, levels, images, steps), found in ascents(cards).items():
        for card, one in found:
            where = {"data": data, "levels": levels, "steps": steps, "images": images}
            where |= {"raised": card.name, "raised_version": card.version}
            own = OtherGain(card.name, one.gain, one.control, one.won, True)
            for other in (own, *one.others):
                rows.append(
                    where | {name: getattr(other, name) for name in ("scorer", "in_lineage", "gain", "control", "won")}
                )
    return rows
