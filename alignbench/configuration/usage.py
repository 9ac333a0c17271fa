"""What `python -m alignbench --help` prints."""

import textwrap

import alignbench
from alignbench.configuration.build import choices

WIDTH = 80
INDENT = " " * 14
EXAMPLES = {
    "python -m alignbench": "SRPO on a miniature FLUX, in minutes on a laptop",
    "python -m alignbench method=dpo model=sd15_mini": "any method on any model",
    "python -m alignbench -m method=sft,dpo seed=0,1,2": "a sweep: six runs, one table",
    "python -m alignbench dry_run=true method=dpo model=sdxl": "the memory that it needs, and nothing else",
    "python -m alignbench model=images model.folders=[A,B]": "compare images that exist already",
}
GROUPS = {
    "method": "what is trained, and how",
    "model": "the base model; *_mini ship, images is for existing ones",
    "data": "what is trained on",
    "prompts": "what the trained model is measured on",
    "reward": "what methods with a reward follow",
    "evaluators": "who scores the images",
    "comparers": "who compares images in pairs, in the stage compare",
    "features": "what sets of images are measured by",
    "validation": "scores during training; the best weights are kept",
    "sampling": "how the measured images are made",
    "memory": "ways to need less memory, as a list: memory=[base_4bit,offload]",
    "optimizer": "what makes the updates",
    "auxiliary": "a second loss that is added",
    "tracker": "who is told the figures of training",
    "experiment": "whole comparisons",
}
KEYS = {
    "seed=0": "training seed",
    "stages=[train,generate,score,report]": "what is done, of prepare, train, generate, score, compare and "
    "report; finished work is not repeated",
    "results=FOLDER": "where runs, tables and the report go; results",
    "train.KEY=VALUE": "learning_rate, max_train_steps, total_batch_size, micro_batch_size, tuning, ...",
    "method.KEY=VALUE": "options of the method",
}
FLAGS = {
    "-m": "sweep: run every combination of comma-separated values",
    "--failed": "with -m: only the jobs that failed before",
    "--cfg job": "print every key with its value, and stop",
    "--version": "print the version",
    "-sc install=bash": 'completion: eval "$(alignbench -sc install=bash)"; also zsh, fish',
}
PROGRAMS = {
    "export": "merge trained weights, extract LoRA, write for ComfyUI",
    "study": "let people vote on images",
    "train_reward": "train a reward model on preferences",
    "soup": "average trained weights",
    "capsule": "hand in runs as one file, check and merge such files",
    "sweeps": "how the jobs of sweeps stand; run those that failed again",
    "plan": "how many prompts and seeds a claim needs",
    "serve": "score images over HTTP",
    "card": "how far evaluators and comparers are to be trusted",
    "calibrate": "compare evaluators with their published scores",
}


def usage() -> str:
    """Return the text, at most 80 columns wide."""
    lines = [
        f"alignbench {alignbench.__version__}: compare and apply alignment methods for text-to-image models",
        "",
        "usage: python -m alignbench [-m] [KEY=VALUE ...]",
        "",
    ]
    for command, meaning in EXAMPLES.items():
        lines += [f"  {command}", f"      {meaning}"]
    lines += ["", "groups, chosen by GROUP=NAME:"]
    for group, meaning in GROUPS.items():
        names = " ".join(name for name in choices(group) if name != "default")
        lines.append(f"  {group:<12}{meaning}")
        lines += textwrap.wrap(names, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False)
    lines += ["", "keys:", *_two_columns(KEYS)]
    lines += ["", "flags:", *_two_columns(FLAGS)]
    lines += ["", "other programs, each with --help:"]
    lines += _two_columns({f"python -m alignbench.{name}": meaning for name, meaning in PROGRAMS.items()})
    lines += ["", "Every key is explained in docs/configuration.md."]
    return "\n".join(lines)


def _two_columns(entries: dict[str, str]) -> list[str]:
    width = max(len(left) for left in entries) + 4
    return [
        line
        for left, right in entries.items()
        for line in textwrap.wrap(right, WIDTH, initial_indent=f"  {left}".ljust(width),
                                  subsequent_indent=" " * width, break_on_hyphens=False)
    ]  # fmt: skip
