"""Pretrain the networks of the shapes world.

    python -m alignbench.miniature.pretrain all --work pretrain      # some hours on two cores
    python -m alignbench.miniature.pretrain vae --work pretrain --threads 2

Each stage writes its result to the work folder and reads the results of earlier stages there. If a stage is killed and
called again, it resumes from its last checkpoint.
"""

import argparse

import torch

from alignbench.files import home_path
from alignbench.miniature.pretrain import stages
from alignbench.terminal.endings import one_sentence


def main() -> None:
    """Run one stage, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m alignbench.miniature.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=[*stages.STAGES, "all"])
    parser.add_argument("--work", type=home_path, required=True, help="folder of data, checkpoints and results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of this process")
    parser.add_argument("--updates", type=int, help="number of updates of this stage, in place of its default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with one_sentence(arguments.work):
        for name in stages.STAGES if arguments.stage == "all" else [arguments.stage]:
            stages.STAGES[name](arguments.work, arguments.updates)


if __name__ == "__main__":
    main()
