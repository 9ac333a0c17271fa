"""The figures of the GPU benchmark as a table in Markdown.

python -m benchmarks.gpu.table DIR/gpu.json
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = ("part", "seconds a sample", "by phase", "outside networks", "of the matmul rate", "peak memory, GiB")


def markdown(found: Mapping[str, Any]) -> str:
    """Return what `benchmarks.gpu` has written, as Markdown: one row a training, and one line for all else."""
    machine, parts = found["machine"], found["parts"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [f"{machine['device']}; {versions}; {found['seconds']:.0f} s at {found['scale']} scale.", ""]
    lines += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    measured = [part for part in parts if part["status"] == "measured"]
    lines += [_row(part["name"], part["figures"]) for part in measured if "seconds" in part["figures"]]
    lines.append("")
    for part in parts:
        if part["status"] != "measured":
            lines.append(f"- `{part['name']}` {part['status']}: {part['reason']}")
        elif "seconds" not in part["figures"]:
            lines.append(f"- `{part['name']}`: {_told(part['name'], part['figures'])}")
    return "\n".join(lines) + "\n"


def _row(name: str, figures: Mapping[str, Any]) -> str:
    whole = sum(figures["seconds"].values())
    phases = {phase: seconds for phase, seconds in figures["seconds"].items() if seconds > 1e-3 * whole}
    peak = f"{figures['peak_memory_gib']:.1f}"
    if "stated_gib" in figures:
        peak += f" ({figures['stated_gib']} stated)"
    cells = (
        f"`{name}`",
        f"{figures['seconds_a_sample']:.3g}",
        ", ".join(f"{phase} {seconds / figures['samples_an_update']:.3g}" for phase, seconds in phases.items()),
        f"{figures['share_outside_networks']:.1%}",
        f"{figures['share_of_matmul_rate']:.0%}" if any(figures["tflop"].values()) else "",
        peak,
    )
    return f"| {' | '.join(cells)} |"


def _told(name: str, figures: Mapping[str, Any]) -> str:
    if name == "rates":
        rates = ", ".join(f"{dtype} {rate:.3g}" for dtype, rate in figures["matmul_tflops"].items())
        return f"{rates} TFLOP/s in matrix products; copies at {figures['copy_gb_per_second']:.3g} GB/s"
    if name == "scoring":
        return "; ".join(map(_score_row, figures["measured"]))
    return ", ".join(f"{key} {value}" for key, value in figures.items())


def _score_row(row: Mapping[str, Any]) -> str:
    told = f"{row['evaluator']} {row['way']} {row['images_per_second']:.3g} images/s"
    told += f", {row['network_share']:.0%} in networks"
    return told + (f", {row['ratios']['images']:.3g} times as long" if row["ratios"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    print(markdown(json.loads(parser.parse_args().file.read_text())), end="")


if __name__ == "__main__":
    main()
