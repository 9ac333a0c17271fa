"""Measure on one GPU, in the order of their worth, as many parts of the program as there is time for.

    python -m benchmarks.gpu --minutes 9 --out DIR
    python -m benchmarks.gpu --minutes 9 --out DIR --only sdxl_dpo sdxl_smpo
    python -m benchmarks.gpu --out DIR --scale tiny        # on a CPU, in a minute or two: shows that all parts work

It needs the packages of the program and nothing else: networks of full size get random weights on the device, data are
made up, nothing is downloaded. Each part runs in a process of its own, so one that fails, hangs or runs out of memory
takes nothing from the others, and each finds the memory empty. A part that is not expected to fit into the time that
is left is skipped; one that takes longer is ended. `gpu.json`, written after each part, holds the figures, `gpu.md` a
table of them, and `gpu.log` what the parts printed. docs/performance.md explains the fields.
"""

import argparse
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Processes of parts are forked so as not to import everything again. CUDA does not work in them if this one has asked
# the driver for anything; so torch asks another library whether there is a GPU.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch

from alignbench.devices import device_name
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.runner import MACHINE, Figures, Runner, Scale

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes")


def measure(name: str, scale: Scale) -> Figures:
    """Return the figures of the part of a name."""
    return machine(scale) if name == MACHINE else next(part for part in PARTS if part.name == name).measure(scale)


def machine(scale: Scale) -> Figures:
    """Return what the figures are measured on."""
    device = torch.device("cuda" if scale == "full" else "cpu")
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30 if scale == "full" else None
    versions = {"python": sys.version.split()[0], **{name: _version(name) for name in PACKAGES}}
    return {"device": device_name(device), "memory_gib": memory, "cpu_cores": os.cpu_count(), "versions": versions}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def main() -> None:
    began = time.monotonic()
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which all ends; %(default)s by default")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.md and gpu.log")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--start-method", choices=("fork", "spawn"), default="fork",
                        help="spawn takes longer, and helps where CUDA does not work in forked processes")  # fmt: skip
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runner = Runner(measure, args.out, args.scale, began + 60 * args.minutes, args.start_method)
    runner.run([part for part in PARTS if args.only is None or part.name in args.only])


if __name__ == "__main__":
    main()
