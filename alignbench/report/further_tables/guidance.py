"""`guidance.csv`: win rates over base at other scales of guidance, so that a gain that is guidance alone shows as such.

Training on images that were sampled with guidance can build the guidance into the weights. Base at a larger scale then
has the same gain without any training.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL, MethodComparison
from alignbench.report.conflicts.scores import Conflicts, conflicts_within
from alignbench.report.contenders import Contender
from alignbench.statistics.resampling import Resamplings
from alignbench.store.image_records import SamplingRecord
from alignbench.store.manifest import BASE

Cell = tuple[str, str, str, str, str]  # model, prompt set, sampling hash, evaluator and its version


def of_base_at_other_guidance(cells: Mapping[Cell, Sequence[Contender]]) -> set[Cell]:
    """Return the cells with base alone beside which methods were sampled alike, but at another scale of guidance."""
    found = set()
    for group in _alike_but_for_guidance(cells):
        of_methods = {_guidance(cells[key]) for key in group if not _is_base_alone(cells[key])}
        if of_methods:
            found |= {key for key in group if _guidance(cells[key]) not in of_methods}
    return found


def guidance_rows(
    cells: Mapping[Cell, Sequence[Contender]], names: Mapping[tuple[str, str, str], str], resamplings: Resamplings
) -> list[TableRow]:
    """Return the rows of `guidance.csv`: each method, and base itself, over base at each scale that it has images of.

    Args:
        cells: whom each table compares.
        names: how the tables call a prompt set and sampling, by model, prompt set and hash of the sampling.
    """
    rows = []
    for key, scale, bases in _with_bases(cells):
        comparable = {other: base for other, base in bases.items() if not _conflicts(bases[scale], base)}
        if len(comparable) > 1:
            rows += _rows_at(scale, cells[key], comparable, names[key[:3]], resamplings)
    return rows


def guidance_left_out(cells: Mapping[Cell, Sequence[Contender]]) -> dict[str, str]:
    """Return why scores of base at other scales are in no row of `guidance.csv`, by their path in the results."""
    found: dict[str, str] = {}
    for _, scale, bases in _with_bases(cells):
        for base in bases.values():
            found |= _conflicts(bases[scale], base).left_out()
    return found


def _conflicts(base: Contender, other: Contender) -> Conflicts:
    """Return why scores of base at another scale cannot be compared with those at the scale of the methods."""
    own = base.runs[0]
    return conflicts_within([own, other.runs[0]], is_base=lambda entry: entry is own)


def _with_bases(cells: Mapping[Cell, Sequence[Contender]]) -> Iterator[tuple[Cell, float, dict[float, Contender]]]:
    """Yield the cells with methods and base, their scale of guidance, and base at each scale that it has images of."""
    for group in _alike_but_for_guidance(cells):
        at_scale = {scale: key for key in group if (scale := _guidance(cells[key])) is not None}
        bases = {scale: base for scale, key in at_scale.items() if (base := _base(cells[key]))}
        for scale, key in at_scale.items():
            if len(bases) > 1 and scale in bases and not _is_base_alone(cells[key]):
                yield key, scale, bases


def _rows_at(
    scale: float, contenders: Sequence[Contender], bases: Mapping[float, Contender], name: str, resamplings: Resamplings
) -> list[TableRow]:
    """Return the rows of the methods that were sampled at one scale of guidance."""
    others = {other: replace(base, label=f"{BASE} {other}") for other, base in bases.items() if other != scale}
    comparison = MethodComparison(name, [*contenders, *others.values()], resamplings)
    by_label = {one.label: one for one in comparison.contenders}
    within = comparison.within(ALL)
    over = {one.label: {} for one in contenders if not one.is_data}
    for label, results in over.items():
        for other in bases:
            opponent = others[other].label if other in others else BASE
            if label != opponent and (result := within.compare(by_label[label], by_label[opponent])):
                results[other] = result
    # whom base itself wins least over is the best of base; that base at this scale wins half over itself
    won_by_base = {scale: 0.5, **{other: result.win_rate.value for other, result in over[BASE].items()}}
    best = min(won_by_base, key=lambda other: won_by_base[other])
    return [
        {
            "model": comparison.model,
            "method": label,
            "run": " ".join(run.manifest.run for run in by_label[label].runs),
            "num_seeds": len(by_label[label].runs),
            "prompt_set": name,
            "evaluator": comparison.info.evaluator,
            "version": comparison.info.version,
            "trained_on": comparison.trained_on(by_label[label]),
            "guidance_scale": scale,
            "base_guidance_scale": other,
            "best": other == best,
            "n": result.n,
            "win_rate": result.win_rate.value,
            "ci_low": result.win_rate.low,
            "ci_high": result.win_rate.high,
        }
        for label, results in over.items()
        for other, result in results.items()
    ]


def _alike_but_for_guidance(cells: Mapping[Cell, Sequence[Contender]]) -> list[list[Cell]]:
    """Group cells of one model, prompt set and evaluator whose images differ in guidance alone, the lowest first."""
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for key, contenders in sorted(cells.items()):
        sampling = _sampling(contenders)
        if sampling is not None:
            alike = json.dumps(asdict(replace(sampling, guidance_scale=None)), sort_keys=True)
            model, prompt_set, _, *evaluator = key
            groups[model, prompt_set, alike, *evaluator].append(key)
    return [sorted(group, key=lambda key: _guidance(cells[key]) or 0.0) for group in groups.values()]


def _sampling(contenders: Sequence[Contender]) -> SamplingRecord | None:
    """Return how the images were made that models made as they were trained; None if all are real or scaled."""
    found = (run.sampling for one in contenders if not one.is_data for run in one.runs)
    return next((one for one in found if one.strength == 1), None)


def _guidance(contenders: Sequence[Contender]) -> float | None:
    sampling = _sampling(contenders)
    return sampling and sampling.guidance_scale


def _base(contenders: Sequence[Contender]) -> Contender | None:
    return next((one for one in contenders if one.label == BASE), None)


def _is_base_alone(contenders: Sequence[Contender]) -> bool:
    return all(one.label == BASE or one.is_data for one in contenders)
