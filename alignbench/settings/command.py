"""The settings at the root of the configuration: what a command does, and where its results go."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from alignbench.settings.section import Section, Seed, setting

Stage = Literal["prepare", "train", "generate", "score", "compare", "report"]
STAGES = get_args(Stage)


class Command(Section):
    """What one command does."""

    seed: Seed = setting(0, "Training seed: data order, noise, timesteps, initial adapters.")
    stages: Annotated[list[Stage], Field(min_length=1)] = setting(
        ["train", "generate", "score", "report"],
        "Stages to run, always in the order prepare, train, generate, score, compare, report. prepare encodes and "
        "scores the training data beforehand. compare lets comparers judge pairs of images (docs/comparers.md).",
    )
    dry_run: bool = setting(
        False, "Print the memory that training would need on a device, part by part, and stop. Needs no weights."
    )
    calibration: bool = setting(
        True,
        "Score a few shipped images first, and refuse evaluators whose scores are not as expected. false: skip this, "
        "for example for evaluators with random weights.",
    )
    shard: str | None = setting(
        None,
        "Share of the images that this command prepares, or generates and scores, as in `1/4`. The command that "
        "finishes last makes the tables. null: all.",
        expected="I/N with I from 1 to N, as in shard=1/4, or null",
    )
    name: str | None = setting(
        None,
        "How tables, pictures and the page call the run; the folder and the weights do not depend on it. null: its "
        "method. A later command with the same configuration can change it.",
    )
    real_images: str | None = setting(
        None,
        "Folder of real images with captions, or a list of them, as for model.folders. Those whose caption is an "
        "evaluation prompt are scored as the row data of the tables. null: none.",
    )
    profile: bool = setting(
        False,
        "Record where the time of three updates of the training goes, in the folder `profile` of the run. Changes no "
        "result.",
    )
    requeue: bool = setting(
        False,
        "Under Slurm: put the job back into the queue when SIGUSR1 announces its end, as `--signal=USR1@300` asks for. "
        "false: only write a checkpoint and end.",
    )
    results: str = setting("results", "Folder of runs and tables.")
