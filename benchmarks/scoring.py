"""Time the scoring of images: by this program, one image a call as the published code is used, and by its packages.

    python -m benchmarks.scoring --weights FOLDER [--evaluators pickscore hpsv2_1] [--images 32] [--size 512]
        [--official] [--apart] [--json FILE]
    python -m benchmarks.scoring --weights FOLDER --device cuda --precision bfloat16 --images 2048 --others 64
        --batch-size 64

Weights are random ones of the published sizes in the published files, written to FOLDER once (13 GB for all five);
images are generated. Nothing is downloaded. Three ways are measured:

- alignbench: the score stage, alone for each evaluator, and for all of them in one pass;
- singly: the same networks called as the published code calls them: in float32 (HPSv2 on CUDA by autocast), a picture
  opened on the main thread by each scorer, one image a pass, its prompt at full length with it, a number fetched after
  each; HPSv2 reads its checkpoint anew for every prompt;
- package: the official packages themselves (with --official), in the environments of `alignbench.calibrate`.

Loading and text are timed apart. `images` compares what is left when both are taken out; `calls` counts the text on
either side, and `reread` also the checkpoints that HPSv2 reads again. A share of the time inside the networks is one of
that which `images` compares.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from alignbench.calibrate.samples import picture
from alignbench.data.prompts import hpdv2
from alignbench.files import cache_folder, write_json, write_png
from benchmarks.scorer_weights import SCORERS, make_evaluator, weights_file, write_weights
from benchmarks.scoring_ways import PACKAGE_OF, Measured, Samples, by_alignbench, by_package, singly


def make_samples(folder: Path, num: int, size: int) -> Samples:
    """Write pictures as PNG, and take prompts of HPDv2 evenly."""
    texts = hpdv2("hpdv2", None).texts
    prompts = [texts[number * len(texts) // num] for number in range(num)]
    files = [folder / f"{number:05d}.png" for number in range(num)]
    for number, file in enumerate(files):
        write_png(file, picture((size, size), "RGB", seed=number))
    return Samples(tuple(files), tuple(prompts))


def measure(arguments: argparse.Namespace, environments: Path, work: Path) -> tuple[list[Measured], dict[str, float]]:
    """Return what each way took, and how far the scores are from those in float32, in displayed units."""
    device, precision = torch.device(arguments.device), arguments.precision
    folder, reduced, names = arguments.weights, arguments.reduced, arguments.evaluators
    samples = make_samples(work / "images", arguments.images, arguments.size)
    few = Samples(samples.files[: arguments.others], samples.prompts[: arguments.others])
    found, moved = [], {}
    for name in names:
        ours = by_alignbench(
            [make_evaluator(folder, name, reduced, precision=precision)], samples, arguments.batch_size, device, work
        )
        exact = make_evaluator(folder, name, reduced, precision="float32")
        found += [ours, singly(exact, few, device)]
        if precision != "float32":
            scores = exact.score(samples.files, samples.prompts, arguments.batch_size).tolist()
            moved[name] = exact.display_scale * largest_difference(ours.scores, scores)
        exact.release()
        if arguments.official and name in PACKAGE_OF:
            found.append(
                by_package(name, few, weights_file(folder, name, reduced), reduced, device, environments, work)
            )
    if len(names) > 1:
        apart = [one for one in found if one.way == "singly"]
        if not arguments.apart:
            evaluators = [make_evaluator(folder, name, reduced, precision=precision) for name in names]
            found.append(by_alignbench(evaluators, samples, arguments.batch_size, device, work))
        found.append(total(apart))
    return found, moved


def total(apart: Sequence[Measured]) -> Measured:
    """Return what scoring by one evaluator after another takes."""

    def added(name: str) -> Any:
        return sum(getattr(one, name) for one in apart)

    names = [name for name in Measured.__annotations__ if name.endswith("_seconds")]
    return replace(apart[0], evaluator="all", scores=(), **{name: added(name) for name in names})


def largest_difference(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest difference of two rows of scores, of images that both have."""
    return max(abs(score - other) for score, other in zip(scores, others, strict=False))


def ratios(one: Measured, ours: Measured | None) -> dict[str, float]:
    """Return how many times as long for an image one way takes as this program; empty for this program itself."""
    if ours is None or one is ours:
        return {}

    def ratio(seconds: float, our_seconds: float) -> float:
        return (seconds / one.num_images) / (our_seconds / ours.num_images)

    found = {
        "calls": ratio(one.call_seconds, ours.call_seconds),
        "reread": ratio(one.call_seconds + one.rereading_seconds, ours.call_seconds),
    }
    if one.image_seconds is not None and ours.image_seconds is not None:
        found = {"images": ratio(one.image_seconds, ours.image_seconds)} | found
    if one.scores and ours.scores:
        found["largest_difference"] = largest_difference(one.scores, ours.scores)
    return found


def rows_of(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the measurements with what follows from them, evaluator by evaluator."""
    rows = []
    for one in found:
        ours = next((o for o in found if (o.way, o.evaluator) == ("alignbench", one.evaluator)), None)
        derived: dict[str, Any] = {"ratios": ratios(one, ours)}
        if one.image_seconds is not None and one.network_seconds is not None:
            derived["images_per_second"] = one.num_images / one.image_seconds
            derived["network_share"] = one.network_seconds / one.image_seconds
        rows.append(asdict(one) | derived)
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print one table."""
    table = Table(title="seconds; and x: how many times as long for an image as alignbench")
    for column in ("evaluator", "way"):
        table.add_column(column)
    columns = (
        "loading", "number", "text", "images", "images/s", "in networks", "reread", "x images", "x calls",
        "x calls, reread", "scores differ by",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        ratio = row["ratios"]
        cells = [
            f"{row['loading_seconds']:.1f}",
            str(row["num_images"]),
            _cell(row["text_seconds"], "{:.2f}"),
            _cell(row["image_seconds"], "{:.2f}") or f"{row['call_seconds']:.2f} with text",
            _cell(row.get("images_per_second"), "{:.2f}"),
            _cell(row.get("network_share"), "{:.1%}"),
            _cell(row["rereading_seconds"] or None, "{:.1f}"),
            *(_cell(ratio.get(key), "{:.2f}") for key in ("images", "calls", "reread")),
            _cell(ratio.get("largest_difference"), "{:.1e}"),
        ]
        table.add_row(row["evaluator"], row["way"], *cells)
    Console(width=160).print(table)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder of the random weights, made if missing")
    parser.add_argument("--evaluators", nargs="+", choices=[*SCORERS], default=[*SCORERS], metavar="NAME",
                        help=f"of {', '.join(SCORERS)}; all by default")  # fmt: skip
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--others", type=int, default=32, help="of these, images scored in the other ways, at most")
    parser.add_argument("--size", type=int, default=512, help="side of the images")
    parser.add_argument("--batch-size", type=int, default=16, help="images that go through a network of alignbench")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32",
                        help="of alignbench; also tells how far its scores are from those in float32")  # fmt: skip
    parser.add_argument("--official", action="store_true", help="also the packages, in environments of 5 GB")
    parser.add_argument("--apart", action="store_true", help="not all networks in one pass, which takes 15 GB")
    parser.add_argument("--reduced", action="store_true", help="small architectures, to see that all works")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    environments = cache_folder() / "environments"
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary  # what others have encoded is theirs
        start = time.perf_counter()
        made = [name for name in arguments.evaluators if write_weights(arguments.weights, name, arguments.reduced)]
        print(f"weights of {', '.join(made) or 'no evaluator'} made in {time.perf_counter() - start:.1f} s")
        load_before = psutil.getloadavg()[0]
        found, moved = measure(arguments, environments, Path(temporary))
    rows = rows_of(found)
    print_rows(rows)
    for name, difference in moved.items():
        print(f"{name}: {arguments.precision} moves scores by up to {difference:.4f} as displayed")
    machine = {
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine(),
        "threads": torch.get_num_threads(),
        "load_average": [load_before, psutil.getloadavg()[0]],
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if arguments.json is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        write_json(
            arguments.json, {"settings": settings, "machine": machine, "measured": rows, "moved_by_precision": moved}
        )


if __name__ == "__main__":
    main()
