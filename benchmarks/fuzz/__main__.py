"""Try every reader of outside input on damaged and hostile files, every setting on odd values, and changed bytes.

    python -m benchmarks.fuzz --inputs 100000 --configurations 10000 --bytes 300 --seed 0
    python -m benchmarks.fuzz --inputs 20000 --only tar            # the readers whose names have this in them
    python -m benchmarks.fuzz --only "tar shard" --again 4711      # one input again, with its traceback

Inputs are spread over the readers. An input must be read, or refused in one sentence: a traceback, a process that dies
and one that takes more than 20 s of a core are failures, whose numbers are told. Exit status 1 if there are any.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.fuzz.worker import Count

HEADS = ("reader", "tried", "refused", "read", "tracebacks", "hangs", "a second")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description="Damaged and hostile input.")
    parser.add_argument("--inputs", type=int, default=0, help="damaged files, spread over all readers")
    parser.add_argument("--configurations", type=int, default=0, help="commands with odd settings")
    parser.add_argument("--bytes", type=int, default=0, help="changed bytes in the files of a results folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="end after this time")
    parser.add_argument("--only", default="", help="readers whose names have this in them")
    parser.add_argument("--again", type=int, help="do one input of `--only` again, and let it fail")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # a made-up name of a model is asked for nowhere
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        os.fsync = lambda _: None  # whether files survive a power cut is no question here
        failed = _all(arguments, Path(place))
    sys.exit(int(failed))


def _all(arguments: argparse.Namespace, place: Path) -> bool:
    from benchmarks.fuzz.configurations import configuration
    from benchmarks.fuzz.damage import changed_bytes
    from benchmarks.fuzz.readers import changed_file, readers
    from benchmarks.fuzz.worker import run

    until = time.monotonic() + 60 * arguments.minutes
    chosen = [one for one in readers() if arguments.only in one.name]
    if arguments.again is not None:
        (reader,) = (one for one in chosen if one.name == arguments.only)
        changed_file(reader, place, arguments.seed)(arguments.again)()
        return False
    counts: list[Count] = []
    if arguments.inputs:
        share = -(-arguments.inputs // len(chosen))
        for number, reader in enumerate(chosen):
            attempt = changed_file(reader, place, arguments.seed)
            deadline = time.monotonic() + (until - time.monotonic()) / (len(chosen) - number)
            counts.append(run(reader.name, attempt, range(share), deadline))
            _print_row(counts[-1], first=number == 0)
    if arguments.configurations:
        numbers = range(arguments.configurations)
        counts.append(run("configuration", configuration(arguments.seed), numbers, until, lines=4))
        _print_row(counts[-1], first=True)
    if arguments.bytes:
        counts += changed_bytes(place, arguments.bytes, arguments.seed, until, _print_row)
    _print_row(_sum(counts), first=False)
    return any(one.tracebacks or one.hangs for one in counts)


def _print_row(count: "Count", first: bool) -> None:
    if first:
        print(f"| {' | '.join(HEADS)} |\n|---|{'---:|' * (len(HEADS) - 1)}", flush=True)
    rate = count.tried / count.seconds if count.seconds else 0
    cells = (count.tried, count.refused, count.read, count.tracebacks, count.hangs)
    print(f"| {count.reader} | {' | '.join(f'{one:,}' for one in cells)} | {rate:,.0f} |", flush=True)
    for number, text in sorted(count.failures.items()):
        print(f"  {count.reader} {number}: {text}", flush=True)


def _sum(counts: Sequence["Count"]) -> "Count":
    from benchmarks.fuzz.worker import Count

    total = Count("all")
    for name in ("tried", "refused", "read", "tracebacks", "hangs", "seconds"):
        setattr(total, name, sum(getattr(one, name) for one in counts))
    return total


if __name__ == "__main__":
    main()
