"""Which steps are measured: the program's command, and the plain steps that take turns with it."""

from dataclasses import dataclass
from typing import Literal

Against = Literal["equal"] | int

# what a plain step is not written for, and what would put other work into some turns
COMMON = (
    "train.ema_decay=null", "train.dataloader_num_workers=0", "train.checkpointing_minutes=null",
    "train.checkpointing_steps=1000000", "train.tuning=full", "train.mixed_precision=no", "tracker=none",
)  # fmt: skip
PUBLISHED_LEVELS = "method.min_sigma=0"


@dataclass(frozen=True)
class Row:
    """One command of the program.

    Attributes:
        name: as typed after `--only`.
        method, model: as on the command line; `--model` replaces the latter.
        options: further settings.
        against: micro-batch of each plain step: that of the program (`equal`), or a number of samples.
        prepared: whether the program reads encoded prompts and images from its caches.
        updates: paired turns that are measured unless `--updates` says otherwise. A turn is a batch of samples, which
            some online methods, and inversions with several points, make several updates of.
    """

    name: str
    method: str
    model: str
    options: tuple[str, ...] = ()
    against: tuple[Against, ...] = ("equal",)
    prepared: bool = True
    updates: int = 8


BATCH_OF_24 = ("train.total_batch_size=24", "train.micro_batch_size=24")
ROWS = (
    Row("dpo", "dpo", "sd15_mini", BATCH_OF_24, ("equal", 1)),
    Row("dpo-first-visit", "dpo", "sd15_mini", BATCH_OF_24, prepared=False),
    Row("kto", "kto", "sd15_mini", BATCH_OF_24, ("equal", 2)),
    Row("mapo", "mapo", "sd15_mini", BATCH_OF_24),
    Row("sft", "sft", "sd15_mini", BATCH_OF_24),
    Row("smpo-5", "smpo", "sd15_mini", (*BATCH_OF_24, "method.inversion.num_steps=5"), (1,), updates=6),
    Row("smpo-10", "smpo", "sd15_mini", (*BATCH_OF_24, "method.inversion.num_steps=10"), (1,), updates=6),
    Row(
        "smpo-5-points",
        "smpo",
        "sd15_mini",
        (*BATCH_OF_24, "method.inversion.num_steps=5", "method.points_per_inversion=5"),
        (1,),
        updates=6,
    ),
    Row(
        "smpo-10-points",
        "smpo",
        "sd15_mini",
        (*BATCH_OF_24, "method.inversion.num_steps=10", "method.points_per_inversion=10"),
        (1,),
        updates=6,
    ),
    Row("srpo", "srpo", "flux_mini", (*BATCH_OF_24, "method.num_rollout_steps=25"), (1,), updates=6),
    Row("refl", "refl", "sd15_mini", (PUBLISHED_LEVELS,), updates=6),
    Row("draft", "draft", "sd15_mini", (PUBLISHED_LEVELS,), updates=6),
    Row("grpo", "grpo", "flux_mini", ("method.window.choice=fixed", "method.kl_weight=0.01"), updates=6),
    Row("nft", "nft", "flux_mini", updates=6),
)
