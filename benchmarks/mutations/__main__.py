"""Make mistakes in the adapters of model families, one at a time, and print those that no test finds.

    python -m benchmarks.mutations
    python -m benchmarks.mutations --only qwen_image  # those whose names hold the word

A mistake is a changed line of a module (`benchmarks/mutations/listed.py`). It is made in a forked process, not on the
disk. One test has to find it, the smallest one: its assertion has to fail. Before that, all of these tests have to pass
on the program as it is.

Exit status 1: a mistake was not found, or a test fails without one.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.mutations.listed import MUTATIONS
from benchmarks.mutations.trial import Mutation, Outcome, tested


def load() -> None:
    """Load once what all tests need: they run in processes that are forked from this one."""
    import torch

    import tests.models.test_adapters  # noqa: F401 and with it the pipelines of all families

    torch.set_num_threads(1)


def survivors(mutations: Sequence[Mutation]) -> dict[str, Outcome]:
    """Make each mistake alone; return those that no test found, by name."""
    left = {}
    for one in mutations:
        outcome = tested(one, [one.test])
        print(f"{one.name}: {'found' if outcome.found else 'not found'}", flush=True)
        if not outcome.found:
            left[one.name] = outcome
    return left


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="mistakes whose names hold this word")
    word = parser.parse_args().only
    chosen = [one for one in MUTATIONS if word in one.name]
    if not chosen:
        parser.error(f"no mistake has {word!r} in its name")
    load()
    without = tested(None, sorted({one.test for one in chosen}))
    if without.status != 0:
        sys.exit(f"a test fails without any mistake, or cannot be run (status {without.status} of pytest)")
    left = survivors(chosen)
    table = Table("not found", "test", "status of pytest", "exceptions")
    for one in chosen:
        if one.name in left:
            outcome = left[one.name]
            table.add_row(one.name, one.test, str(outcome.status), ", ".join(outcome.reasons))
    console = Console(markup=False)
    if left:
        console.print(table)
    console.print(f"{len(chosen)} mistakes, {len(left)} not found")
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
