"""The lines of a plan: what a win rate needs, and what the prompt sets that ship can show."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from alignbench.errors import UserError
from alignbench.settings.section import Count, NotNegative, Positive, Section, Share, ShareBelowOne, setting
from alignbench.statistics.power import POWER, Spread
from alignbench.text import duration

WinRate = Annotated[
    float, Field(gt=0.5, le=1, json_schema_extra={"expected": "a share above 0.5, up to 1, as 0.55 for 55 %"})
]
MOST = 10**7  # prompts; what these do not show, seeds alone can


class PlanSettings(Section):
    """What is planned. The defaults of rho and ties are our assumption; `results` measures them."""

    win_rate: WinRate = setting(0.55, "True win rate that is to be seen, ties half.")
    images: Count = setting(1, "Images of each prompt.")
    seeds: Count = setting(1, "Training seeds; with 1 the claim is about these weights alone.")
    comparisons: Count = setting(1, "Rows that are tested together, by Holm's method.")
    rho: Share = setting(0.3, "Correlation of two images of one prompt that were won or lost.")
    ties: ShareBelowOne = setting(0.0, "Share of images that are equal.")
    seed_deviation: NotNegative = setting(0.03, "Standard deviation of the win rates of training seeds, as a share.")
    prompts: Count | None = setting(None, "Number of prompts of which the smallest visible win rate is told, too.")
    seconds_per_image: Positive | None = setting(None, "Time of one image on one device; `results` measures it.")
    results: str | None = setting(None, "Results folder whose variances are taken in place of those above.")


@dataclass(frozen=True)
class Measured:
    """What one method's finished comparison with base shows.

    Attributes:
        seconds: time of one image; None where it is not known.
    """

    model: str
    method: str
    evaluator: str
    spread: Spread
    seconds: float | None


def plan(settings: PlanSettings) -> Iterator[str]:
    """Yield the lines of a plan."""
    if settings.results is None:
        spread = Spread(settings.rho, settings.ties, settings.seed_deviation)
        if settings.win_rate > spread.largest_win_rate:
            raise UserError(
                f"win_rate={settings.win_rate:g} cannot be with ties={settings.ties:g}: ties count half, so it is at "
                f"most {spread.largest_win_rate:g}"
            )
        yield from _plan_of(settings, spread, settings.seconds_per_image)
    else:
        left_out: dict[str, str] = {}
        found = measured(Path(settings.results).expanduser(), left_out)
        yield from (f"{name} is left out: {reason}" for name, reason in left_out.items())
        for one in found:
            spread = _filled(one.spread, settings)
            yield f"{one.method} over base on {one.model} by {one.evaluator}"
            if settings.win_rate > spread.largest_win_rate:
                yield f"  {100 * spread.ties:.3g} % of the images are equal, so that no method can win so much"
            else:
                yield from _plan_of(settings, spread, settings.seconds_per_image or one.seconds)
            yield ""
    if settings.seeds == 1:
        yield "One seed says nothing about training again; for a claim on the method, plan with seeds=5 or more."


def _plan_of(settings: PlanSettings, spread: Spread, seconds: float | None) -> Iterator[str]:
    tested = (settings.images, settings.seeds, settings.comparisons)
    assumed = [f"{settings.images} image{'s' * (settings.images > 1)} a prompt", f"rho {spread.correlation:.2g}"]
    assumed += [f"ties {100 * spread.ties:.3g} %", f"{settings.seeds} training seed{'s' * (settings.seeds > 1)}"]
    if settings.seeds > 1:
        assumed.append(f"whose win rates deviate by {100 * spread.seed_deviation:.2g} points")
    together = f"{settings.comparisons} comparison{'s' * (settings.comparisons > 1)}"
    yield f"  win rate {100 * settings.win_rate:.3g} %, {', '.join(assumed)}, {together}"
    needed = spread.prompts_needed(settings.win_rate, *tested, most=MOST)
    if needed is None:
        more = next((n for n in range(settings.seeds + 1, 1000) if _is_seen(spread, settings, n)), None)
        advice = f"; {more} seeds can" if more else ""
        yield f"  no number of prompts shows it with {settings.seeds} seeds{advice}"
    else:
        images = needed * settings.images * (settings.seeds + 1)
        cost = "" if seconds is None else f", {duration(seconds * images)} on one device"
        made = f"{images:,} images, those of base included{cost}"
        yield f"  {needed:,} prompts show it with {100 * POWER:.0f} % power: {made}"
    yield f"  smallest win rate that is seen with {100 * POWER:.0f} % power:"
    sizes = shipped_sets() if settings.prompts is None else {"your own": settings.prompts} | shipped_sets()
    for name, size in sizes.items():
        smallest = spread.smallest_win_rate(size, *tested)
        yield f"    {size:>6,} prompts  {'none' if smallest is None else f'{100 * smallest:.1f} %':>7}  {name}"


def _is_seen(spread: Spread, settings: PlanSettings, seeds: int) -> bool:
    return spread.power(settings.win_rate, MOST, settings.images, seeds, settings.comparisons) >= POWER


def shipped_sets() -> dict[str, int]:
    """Return the number of prompts of the sets that ship, the largest first."""
    from alignbench.data import prompts

    sets = (
        prompts.hpdv2, prompts.parti, prompts.text_rendering, prompts.geneval, prompts.pickapic_test, prompts.drawbench,
    )  # fmt: skip
    sizes = {f"prompts={one.__name__}": len(one(one.__name__, None).prompts) for one in sets}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def measured(root: Path, left_out: dict[str, str]) -> list[Measured]:
    """Return what the finished comparisons of methods with base show, in the order of the tables.

    Args:
        left_out: receives the reason for each run, and each file of scores, that cannot be read or compared.

    Raises:
        UserError: there are none.
    """
    import numpy as np

    from alignbench.report.readable import readable
    from alignbench.report.tables import build
    from alignbench.store.manifest import BASE

    if not root.is_dir():
        raise UserError(f"results={root} does not exist; give the folder of finished runs")
    there, found = readable(root), []
    tables = build(root, 10, there.runs, there.studies, there.verdicts, there.reader)
    left_out |= there.left_out | tables.left_out
    for (model, _, evaluator, version), contenders in tables.contenders.items():
        base = next((one for one in contenders if one.label == BASE), None)
        for one in contenders:
            if base is None or one is base or one.is_data:
                continue
            images = sorted(base.image_set & one.image_set)
            if not images:
                continue
            better = one.scores(images) - base.scores(images)
            prompts = base.runs[0].prompts
            costs = [cost["seconds"] for run in one.runs for cost in run.manifest.image_costs.values()]
            found.append(
                Measured(
                    model,
                    one.label,
                    f"{evaluator}@{version}",
                    Spread.of(np.sign(better), [prompts[prompt_id].prompt for prompt_id, _ in images]),
                    float(np.mean(costs)) if costs else None,
                )
            )
    if not found:
        raise UserError(
            f"results={root} holds no method that was scored beside base; run one first, or leave results out"
        )
    return found


def _filled(spread: Spread, settings: PlanSettings) -> Spread:
    """Return what was measured, and the settings where it could not be: one image a prompt, or one seed."""
    return Spread(
        settings.rho if math.isnan(spread.correlation) else spread.correlation,
        spread.ties,
        settings.seed_deviation if math.isnan(spread.seed_deviation) else spread.seed_deviation,
    )
