"""The settings under `tracker`: the experiment tracker that a run reports to."""

from typing import Any, Literal

from alignbench.settings.section import REQUIRED, Section, setting


class Tracker(Section):
    """The experiment tracker that a run reports to; each choice has those of these keys that its tracker knows."""

    log_with: Literal["tensorboard", "wandb", "swanlab", "mlflow"] | None = setting(
        REQUIRED,
        "The tracker. null: none; train.jsonl and validation.csv in the run folder are written in any case. Set by "
        "tracker=NAME.",
    )
    project: str = setting(REQUIRED, "The tracker's project. TensorBoard has none.")
    options: dict[str, Any] = setting(
        REQUIRED,
        "Further arguments of the tracker: those of SummaryWriter (TensorBoard), wandb.init, swanlab.init, or "
        "accelerate's MLflowTracker.",
    )
