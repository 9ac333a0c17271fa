"""What methods that trained on a scorer gained by it, and by the scorers that they did not train on."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from alignbench.errors import UserError
from alignbench.report.columns import TableRow, read_table
from alignbench.report.comparison import ALL
from alignbench.store.cards import PolicyGain
from alignbench.store.manifest import BASE


def policy_gains(leaderboard: Path) -> dict[tuple[str, str], list[PolicyGain]]:
    """Return what methods gained, by name and version of a scorer that each trained on.

    Args:
        leaderboard: `leaderboard.csv` of a results folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not leaderboard.is_file():
        raise UserError(
            f"runs={leaderboard.parent} holds no leaderboard.csv; make it with stages=[report], or leave runs out"
        )
    rows: Iterable[TableRow] = read_table(leaderboard).to_dict("records")
    by_method: dict[tuple[str, str, str], list[TableRow]] = defaultdict(list)
    for row in rows:
        has_rate = row["win_rate_vs_base"] == row["win_rate_vs_base"]  # not NaN
        if row["group"] == ALL and row["method"] != BASE and has_rate:
            by_method[row["model"], row["prompt_set"], row["method"]].append(row)
    found: dict[tuple[str, str], list[PolicyGain]] = defaultdict(list)
    for (model, prompt_set, method), measured in by_method.items():
        held_out = [float(row["win_rate_vs_base"]) for row in measured if not row["trained_on"]]
        for row in (one for one in measured if one["trained_on"] and held_out):
            found[row["evaluator"], row["version"]].append(
                PolicyGain(
                    model,
                    prompt_set,
                    method,
                    float(row["win_rate_vs_base"]),
                    sum(held_out) / len(held_out),
                    len(held_out),
                    int(row["num_seeds"]),
                )
            )
    return found
