"""The settings of `python -m alignbench.train_reward`, which fits a reward model to pairs; see docs/judges.md."""

from typing import Any

from alignbench.settings.section import (
    REQUIRED,
    Count,
    CountOrZero,
    LearningRate,
    Positive,
    ProperShare,
    Section,
    Seed,
    setting,
)
from alignbench.settings.train import Precision, Schedule


class RewardCommand(Section):
    """What one command fits, and where it goes."""

    name: str | None = setting(
        None,
        "Name of the evaluator that the reward model becomes, and of its folder results/judges/NAME. null: a name made "
        "of the choices and a hash of the values.",
    )
    seed: Seed = setting(0, "Seed of the order of pairs, and of the weights that are drawn at the start.")
    heldout_share: ProperShare = setting(
        0.2,
        "Share of all prompts that are held out. Their pairs measure the reward model. The hash of a prompt's text "
        "decides whether the prompt is held out.",
    )
    validation_share: ProperShare = setting(
        0.1, "Share of all prompts whose pairs decide which update is kept and how scores are scaled."
    )
    results: str = setting("results", "Folder of results. Reward models go to its folder judges.")


class RewardTrain(Section):
    """How a reward model is trained."""

    max_train_steps: Count = setting(2000, "Largest number of optimizer updates.")
    evaluation_steps: Count = setting(
        100,
        "Updates between two evaluations on the validation pairs. The weights that predict them best are kept.",
    )
    patience_steps: Count | None = setting(
        None, "Updates without a better validation loss after which training ends. null: never."
    )
    total_batch_size: Count = setting(64, "Pairs in an update, over all processes and micro-batches.")
    micro_batch_size: Count = setting(
        64, "Pairs that one process passes through the network at once. Gradient accumulation is derived from it."
    )
    learning_rate: LearningRate = setting(3.0e-4, "Learning rate of the optimizer. Set by judge=NAME, too.")
    lr_scheduler: Schedule = setting("cosine", "Learning-rate schedule, by the name that diffusers gives it.")
    lr_warmup_steps: CountOrZero = setting(50, "Updates over which the learning rate rises from 0.")
    max_grad_norm: Positive = setting(
        1.0, "Largest global norm of the gradient. A larger gradient is scaled down to it."
    )
    mixed_precision: Precision = setting(
        "no", "Precision of autocast. The weights and the reported figures stay float32."
    )
    optimizer: dict[str, Any] = setting(REQUIRED, "The optimizer and its arguments. Set by optimizer=NAME.")
    logging_steps: Count = setting(10, "Updates between two log lines. Does not change the weights.")
    checkpointing_steps: Count = setting(
        20,
        "Updates between two checkpoints; there is one after each evaluation as well. A killed command loses at most "
        "that many. Does not change the weights.",
    )
    checkpointing_minutes: Positive | None = setting(
        15.0,
        "Minutes of training between two checkpoints, if they pass before train.checkpointing_steps updates. Does not "
        "change the weights. null: count updates only.",
    )
    checkpoints_in_background: bool = setting(
        False,
        "Write checkpoints while training goes on. Takes main memory for one more copy of what a checkpoint holds, and "
        "the disk space of three. Does not change the weights. false: training waits.",
    )
    dataloader_num_workers: CountOrZero = setting(0, "Processes that read images. Does not change the weights.")
