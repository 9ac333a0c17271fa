"""Kill commands, fill their disk and start several at once, and compare what is left with a run that nothing disturbed.

    python -m benchmarks.faults --kills 60
    python -m benchmarks.faults --disk-full 20
    python -m benchmarks.faults --starters 8 --rounds 5

- Kills: SIGKILL at places that are drawn over commands, once or twice a command. Commands are those of `COMMANDS`, then
  drawn ones: methods, miniatures and families, adapters and all weights, stages, one and two processes, of which one
  or both are killed. The same command is then repeated until its end. Every file that it is to leave has to equal that
  of a command that was never killed, byte for byte: policies, logs, images, scores, caches and tables. Durations and
  dates are left out, and so are pictures and pages of the report.
- Full disks: the same commands on a small disk of their own (as root), or under a limit for the size of a file. They
  have to end in one sentence without a traceback, leave no file half done, and go on when there is room.
- Starters: one command started several times at once, two seeds whose base run is missing, and reports meanwhile. The
  tables have to equal those of a command that was alone, one starter has to train, and the others are refused.

Exit status 1: something was not as promised. `--seed` draws other places.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.faulty_runs import Places, contents, differences, kill, kill_after, limit_file_size, start
from benchmarks.small_commands import COMMANDS, SmallCommand, drawn


@dataclass(frozen=True)
class Reference:
    """A command that nothing disturbed: the files it leaves, and the places that each of its processes has."""

    files: dict[str, str]
    num_places: list[int]


def reference(command: SmallCommand, root: Path) -> Reference:
    """Run a command undisturbed, and leave nothing of it in the folder: other commands run where it ran.

    Raises:
        RuntimeError: it fails.
    """
    counted = [root / f"count-{rank}" for rank in range(command.num_processes)]
    root.mkdir(parents=True)
    started = command.start(root, [Places(root / "results", counted=file) for file in counted])
    if any(started.wait()):
        raise RuntimeError(started.told[-3000:])
    known = Reference(contents(root / "results"), [int(file.read_text()) for file in counted])
    shutil.rmtree(root)
    return known


def one_kill(command: SmallCommand, known: Reference, root: Path, generator: random.Random) -> tuple[str, list[str]]:
    """Kill a command once or twice, and repeat it to its end; return what was done and what is wrong then."""
    told = []
    for _ in range(generator.choice([1, 1, 2])):
        ranks = generator.choice([[rank] for rank in range(command.num_processes)] + [[*range(command.num_processes)]])
        faults: list[Places | None] = [None] * command.num_processes
        for rank in ranks:
            at = generator.randint(1, known.num_places[rank])
            later = generator.choice([0.0, generator.uniform(0.0, 0.02)])
            faults[rank] = Places(root / "results", at, kill_after(later) if later else kill)
            told.append(f"{at}/{known.num_places[rank]}" + (f" of process {rank}" if command.num_processes > 1 else ""))
        command.start(root, faults).wait()
    again = command.run(root)
    wrong = differences(contents(root / "results"), known.files)
    if any(again.statuses.values()):
        wrong.insert(0, f"the repeated command failed: {again.told[-500:]}")
    if _unfinished(root):
        wrong.append(f"left unfinished: {_unfinished(root)[0]}")
    return ", then ".join(told), wrong


def _unfinished(root: Path) -> list[Path]:
    """Return folders that a kill left half written and nobody took away."""
    found = [*(root / "results").rglob("partial"), *(root / "results").rglob(".*.tmp")]
    return [path for path in found if path.is_dir()]


@contextmanager
def small_disk(place: Path, num_kib: int) -> Iterator[bool]:
    """Mount a disk of a size; say whether that was possible."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_kib}k", "tmpfs", str(place)]
    mounted = os.getuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def one_full_disk(command: SmallCommand, root: Path, generator: random.Random) -> tuple[str, list[str]]:
    """Run a command with too little room, then with enough; return what was done and what is wrong."""
    place = root / "results"
    num_kib = generator.randint(100, 40_000)
    with small_disk(place, num_kib) as mounted:
        if mounted:
            limited = command.run(root)
            told = f"a disk of {num_kib} KiB"
        else:
            fault = limit_file_size(1024 * generator.randint(4, 8000))
            limited = start([*command.all_words, f"results={place}"], root / "logs", [fault])
            limited.wait()
            told = "files of limited size"
        wrong = [f"unfinished: {path}" for path in (*place.rglob("partial"), *place.rglob("*.tmp"))]
        if limited.statuses[limited.pids[0]] not in (0, 2):
            wrong.append(f"status {limited.statuses[limited.pids[0]]}: {limited.told[-500:]}")
        if "Traceback" in limited.told or "defect" in limited.told:
            wrong.append(f"no sentence: {limited.told[-800:]}")
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
        again = command.run(root)
        if any(again.statuses.values()):
            wrong.append(f"it does not go on: {again.told[-500:]}")
    return f"{told}, {'full' if limited.statuses[limited.pids[0]] else 'enough'}", wrong


def one_round_of_starters(num: int, known: Reference, root: Path) -> tuple[str, list[str]]:
    """Start a command several times at once, two seeds among them, and reports meanwhile; return what is wrong."""
    command = COMMANDS["dpo, sd15_mini"]
    words = [*command.all_words, f"results={root / 'results'}"]
    started = [start([*words, f"seed={number % 2}"], root / f"logs{number}") for number in range(num)]
    reports = []
    while any(one.statuses == {} for one in started):
        for one in started:
            one.poll()
        if len(reports) < 3 and (root / "results" / "leaderboard.csv").exists():
            reports.append(start([*words, "stages=[report]"], root / f"reports{len(reports)}"))
        time.sleep(0.2)
    statuses = Counter(one.wait()[0] for one in started)
    wrong = [f"status {status}: {count} times" for status, count in statuses.items() if status not in (0, 2)]
    wrong += [
        one.told[-500:] for one in started if one.statuses[one.pids[0]] == 2 and "is being trained" not in one.told
    ]
    wrong += [one.told[-500:] for one in started + reports if "Traceback" in one.told]
    wrong += [f"a report failed: {one.told[-300:]}" for one in reports if one.wait() != [0]]
    for seed in (0, 1):
        again = start([*words, f"seed={seed}"], root / "again")
        wrong += [again.told[-500:]] if again.wait() != [0] else []
    found = differences(contents(root / "results"), known.files)
    # the configuration of the base run, whose digest its manifest has, is that of the seed which began it
    began = ("/config.yaml differs", "/manifest.json differs")
    wrong += [one for one in found if not (one.startswith("base-") and one.endswith(began))]
    return f"{statuses[0]} did the work or found it, {statuses[2]} were refused", wrong


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="commands that are killed")
    parser.add_argument("--disk-full", type=int, default=0, metavar="N", help="commands whose disk is full")
    parser.add_argument("--starters", type=int, default=0, metavar="N", help="commands that start at once")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often they do")
    parser.add_argument("--each", type=int, default=2, metavar="N", help="how often a command is killed (default: 2)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="kill commands whose names hold one of the words")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    arguments = parser.parse_args()
    _load()
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    tried: Counter[str] = Counter()
    failed: dict[str, list[str]] = {}

    def note(kind: str, told: str, wrong: list[str], root: Path) -> None:
        tried[kind] += 1
        number = sum(tried.values())
        print(f"{number} {kind}: {told}: {'; '.join(wrong[:3]) or 'as promised'}", flush=True)
        if wrong:
            kept = root.rename(work / f"wrong-{number}")
            failed.setdefault(kind, []).append(f"{told}: {wrong[0]} ({kept})")
        else:
            shutil.rmtree(root, ignore_errors=True)

    generator, root = random.Random(arguments.seed), work / "root"
    commands = chain(COMMANDS.items(), drawn(random.Random(arguments.seed), work / "families"))
    chosen = (one for one in commands if not arguments.only or any(word in one[0] for word in arguments.only))
    for done in range(0, arguments.kills, arguments.each):
        name, command = next(chosen)
        known = reference(command, root)
        for _ in range(min(arguments.each, arguments.kills - done)):
            told, wrong = one_kill(command, known, root, generator)
            note("killed", f"{name}: {told}", wrong, root)
    alone = [name for name, one in COMMANDS.items() if one.num_processes == 1 and not one.judge]
    for name in islice(cycle(alone), arguments.disk_full):
        told, wrong = one_full_disk(COMMANDS[name], root, generator)
        note("full disk", f"{name}: {told}", wrong, root)
    if arguments.starters:
        known = two_seeds(root)
        for _ in range(arguments.rounds):
            note("started at once", *one_round_of_starters(arguments.starters, known, root), root)
    _print(tried, failed)
    sys.exit(1 if failed else 0)


def two_seeds(root: Path) -> Reference:
    """Run two seeds one after the other, and leave nothing of them in the folder."""
    words = [*COMMANDS["dpo, sd15_mini"].all_words, f"results={root / 'results'}"]
    for seed in (0, 1):
        started = start([*words, f"seed={seed}"], root / "logs")
        if any(started.wait()):
            raise RuntimeError(started.told[-3000:])
    known = Reference(contents(root / "results"), [])
    shutil.rmtree(root)
    return known


def _load() -> None:
    """Load once what all commands need: they are forked from this process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    import alignbench.report.page.write
    import alignbench.report.terminal.print_results
    import alignbench.report.write
    import alignbench.stages.job
    import alignbench.stages.track_results
    import alignbench.sweeps.launch
    import alignbench.train_reward.run
    import alignbench.training.train  # noqa: F401
    from alignbench.terminal.endings import one_sentence  # noqa: F401

    torch.set_num_threads(1)


def _print(tried: Counter[str], failed: dict[str, list[str]]) -> None:
    table = Table("what", "tried", "as promised")
    for name, count in tried.items():
        table.add_row(name, str(count), str(count - len(failed.get(name, []))))
    console = Console()
    console.print(table)
    for name, told in failed.items():
        for one in told:
            console.print(f"{name}: {one}", markup=False)
    console.print(f"{sum(tried.values())} tried, {sum(map(len, failed.values()))} not as promised")


if __name__ == "__main__":
    main()
