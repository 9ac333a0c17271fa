"""What stopping early costs and saves: the tables of docs/statistics.md, and their picture.

python -m benchmarks.stopping                        # a minute; people who always look are simulated
python -m benchmarks.stopping --svg stopping.svg     # the picture alone
"""

import argparse
import math
from pathlib import Path

import numpy as np
from scipy import special

from alignbench.files import replacing
from alignbench.statistics.always_valid import BETS
from alignbench.statistics.sequential import Boundaries, exit_probabilities

PROMPTS = 1600
LOOKS = (0.2, 0.4, 0.6, 0.8, 1.0)
WIN_RATES = (0.5, 0.52, 0.535, 0.56, 0.6)
RULES = {"obrien_fleming": Boundaries("obrien_fleming", LOOKS), "pocock": Boundaries("pocock", LOOKS)}
NUM_SIMULATED = 2000


def main() -> None:
    """Print a table for each kind of rule, or draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", type=Path, help="file of the picture")
    options = parser.parse_args()
    if options.svg is not None:
        draw(options.svg)
        return
    print("| rule | " + " | ".join(f"{100 * rate:g} %" for rate in WIN_RATES) + " |")
    for name, rule in {"all prompts": Boundaries("pocock", (1.0,)), **RULES}.items():
        print(f"| {name} | " + " | ".join("{:.3f}, {:,.0f}".format(*planned(rule, rate)) for rate in WIN_RATES) + " |")
    for name, log_money in (("Beta mixture", mixture), ("41 bets", bets)):
        print(
            f"| {name} | " + " | ".join("{:.3f}, {:,.0f}".format(*always(log_money, rate)) for rate in WIN_RATES) + " |"
        )


def planned(rule: Boundaries, win_rate: float) -> tuple[float, float]:
    """Return the chance that a rule finds a difference, and how many prompts it takes on average."""
    drift = (win_rate - 0.5) / math.sqrt(win_rate * (1 - win_rate) / PROMPTS)
    exits = exit_probabilities(rule.critical(), rule.fractions, drift)
    shares = np.array(rule.fractions)
    return float(exits.sum()), PROMPTS * float(exits @ shares + 1 - exits.sum())


def mixture(won: np.ndarray, prior: float = 10) -> np.ndarray:
    """Return the logarithm of the money of a mixture of bets after each prompt, [S, N]."""
    wins = won.cumsum(axis=1)
    losses = np.arange(1, won.shape[1] + 1) - wins
    mixed = special.betaln(prior + wins, prior + losses) - special.betaln(prior, prior)
    return mixed + (wins + losses) * math.log(2)


def bets(won: np.ndarray) -> np.ndarray:
    """Return the logarithm of the money of the average bet after each prompt, [S, N]."""
    money = np.full(won.shape, -np.inf)
    for bet in BETS:
        money = np.logaddexp(money, np.log1p(bet * (won - 0.5)).cumsum(axis=1))
    return money - math.log(len(BETS))


def always(log_money, win_rate: float) -> tuple[float, float]:
    """Return the same for people who look after every prompt, from simulated comparisons without ties."""
    won = np.random.default_rng(0).random((NUM_SIMULATED, PROMPTS)) < win_rate
    reached = log_money(won.astype(np.float64)) >= math.log(20)
    found = reached.any(axis=1)
    return float(found.mean()), float(np.where(found, reached.argmax(axis=1) + 1, PROMPTS).mean())


def draw(path: Path) -> None:
    """Draw the boundaries, and the mean number of prompts against the true win rate."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2)
    rates = np.linspace(0.5, 0.6, 41)
    for name, rule in RULES.items():
        left.plot([PROMPTS * share for share in LOOKS], rule.critical(), "o-", label=name)
        right.plot(100 * rates, [planned(rule, rate)[1] for rate in rates], label=name)
    left.axhline(1.96, color="grey", linestyle=":", label="one look")
    left.set(xlabel="prompts", ylabel="boundary of |z|", ylim=(1.5, 5), title="When a look stops")
    right.axhline(PROMPTS, color="grey", linestyle=":", label="one look")
    right.set(xlabel="true win rate, %", ylabel="prompts on average", ylim=(0, 1.08 * PROMPTS), title="What it costs")
    left.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
