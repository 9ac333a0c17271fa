"""Small commands of every method, model and family: each ends within seconds, and does all that a large one does."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import choices, conf_folder
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import TINY
from benchmarks.faulty_runs import Places, Started, start

SMALL = (
    "train.total_batch_size=4", "train.micro_batch_size=2", "train.max_train_steps=4", "train.checkpointing_steps=2",
    "data.num_pairs=12", "data.num_prompts=12", "prompts.limit=4", "sampling.num_inference_steps=2",
    "sampling.batch_size=2", "tracker=none", "calibration=false",
)  # fmt: skip
FEW = (  # a program and a network
    "evaluators=none", "+evaluator@evaluators.oracle=shapes_oracle_cleanliness",
    "+evaluator@evaluators.clip=shapes_clip",
)  # fmt: skip


@dataclass(frozen=True)
class SmallCommand:
    """A command that takes seconds.

    Attributes:
        words: what it is given besides `SMALL`.
        num_processes: that it runs in.
        launched: what a launcher says to them.
        judge: whether it is `alignbench.train_reward`.
    """

    words: tuple[str, ...]
    num_processes: int = 1
    launched: tuple[tuple[str, str], ...] = ()
    judge: bool = False

    @property
    def all_words(self) -> list[str]:
        return [*(self.words if self.judge else (*SMALL, *FEW, *self.words))]

    def start(self, root: Path, faults: list[Places | None]) -> Started:
        from alignbench.train_reward.__main__ import main

        words = [*self.all_words, f"results={root / 'results'}"]
        return start(words, root / "logs", faults, main if self.judge else None, dict(self.launched))

    def run(self, root: Path) -> Started:
        """Run the command undisturbed."""
        started = self.start(root, [None] * self.num_processes)
        started.wait()
        return started


FSDP2 = (("ACCELERATE_USE_FSDP", "true"), ("FSDP_VERSION", "2"))
VALIDATED = (
    "validation=shapes", "validation.every=2", "validation.prompts.limit=2", "validation.num_inference_steps=1",
    "validation.select=[oracle]", "validation.batch_size=2",
)  # fmt: skip
COMMANDS = {
    "dpo, sd15_mini": SmallCommand(("method=dpo", "model=sd15_mini")),
    "sft with an average, validated": SmallCommand(
        ("method=sft", "model=sd15_mini", "train.ema_decay=0.9", *VALIDATED)
    ),
    "kto, adapters, flux_mini": SmallCommand(
        ("method=kto", "model=flux_mini", "train.tuning=lora", "train.lora_rank=2")
    ),
    "smpo, prepared": SmallCommand(
        ("method=smpo", "model=sd15_mini", "stages=[prepare,train,generate,score]", "method.inversion.num_steps=2")
    ),
    "nft, flux_mini": SmallCommand(
        ("method=nft", "model=flux_mini", "method.num_rollout_steps=2", "method.levels.stop=2", "method.levels.num=1",
         "method.group_size=2")
    ),
    "srpo, flux_mini": SmallCommand(("method=srpo", "model=flux_mini", "method.num_rollout_steps=2")),
    "dpo, two processes": SmallCommand(("method=dpo", "model=sd15_mini"), 2),
    "sft, two processes, FSDP2": SmallCommand(("method=sft", "model=sd15_mini"), 2, FSDP2),
    "a reward model": SmallCommand(
        (
            "judge=head", "data.num_pairs=64", "data.num_prompts=64", "train.max_train_steps=6", "name=fitted",
            "train.evaluation_steps=3", "train.checkpointing_steps=2", "heldout_share=0.3", "validation_share=0.3",
            "train.total_batch_size=8", "train.micro_batch_size=8",
        ),
        judge=True,
    ),
}  # fmt: skip
MINIATURES = ("sd15_mini", "sdxl_mini", "sd3_mini", "flux_mini", "qwen_mini")
WAYS = (  # of training: words, processes, what a launcher says
    ((), 1, ()),
    (("train.tuning=lora", "train.lora_rank=2"), 1, ()),
    (("train.ema_decay=0.9", *VALIDATED), 1, ()),
    (("stages=[prepare,train,generate,score]",), 1, ()),
    ((), 2, ()),
    ((), 2, FSDP2),
    (("train.tuning=lora", "train.lora_rank=2"), 2, FSDP2),
)


def drawn(generator: random.Random, folder: Path) -> Iterator[tuple[str, SmallCommand]]:
    """Yield names and commands without end: methods, models and ways of training that the program takes together.

    Args:
        folder: for the weights of tiny random pipelines, one a family.
    """
    methods, models = [one for one in choices("method") if one != "base"], [*MINIATURES, *FAMILIES]
    while True:
        method, model = generator.choice(methods), generator.choice(models)
        words, num_processes, launched = generator.choice(WAYS)
        of_model = (f"model={model}",) if model in MINIATURES else of_family(model, folder / model)
        start = [f"method={method}", "reward=shapes_clip"]
        short = [f"method.{word}" for word in short_words(composed([*start, "model=sd15_mini"]).method)]
        command = SmallCommand((*start, *of_model, *short, *words), num_processes, launched)
        try:
            check_command_line(command.all_words, multirun=False)
        except UserError:
            continue  # not together, such as generated pairs without the runs that they come from
        kinds = [" ".join(words[:1]), f"{num_processes} processes" * (num_processes > 1), "FSDP2" * bool(launched)]
        yield ", ".join([method, model, *filter(None, kinds)]), command


def of_family(family: str, weights: Path) -> tuple[str, ...]:
    """Return the words that choose a tiny random pipeline of a family, which is saved if it is not yet."""
    tiny = TINY[family]
    if not weights.exists():
        tiny.pipeline().save_pretrained(weights)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in tiny.settings.items()}
    return (
        f"model={model_of(family)}", f"model.pretrained_model_name_or_path={weights}",
        *(f"model.adapter.{key}={value}" for key, value in settings.items()),
        "train.mixed_precision='no'", "sampling.resolution=64", "model.resolution=64",
        "model.adapter.pipeline.torch_dtype=float32", "data=shapes", "prompts=shapes",
    )  # fmt: skip


def model_of(family: str) -> str:
    """Return the first model of the program that has this family."""
    target = f"alignbench.models.families.{family}."
    files = sorted((conf_folder() / "model").glob("*.yaml"))
    loaded = {file.stem: OmegaConf.load(file) for file in files}
    return next(
        name
        for name, one in loaded.items()
        if "pipeline_class" in one.get("adapter", {}).get("pipeline", {})
        and one.adapter.get("_target_", "").startswith(target)
    )


def short(method: DictConfig, num_steps: int) -> dict[str, Any]:
    """Return settings of a method with which it walks few steps of whatever it walks, in the smallest groups."""
    values = {
        "num_rollout_steps": num_steps,
        "group_size": 2,
        "threshold": 0.0,  # random networks make images that a judge hardly tells apart
        "updates_per_round": 1,
        "levels": {"num": 1, "first": 0, "stop": num_steps},
        "window": {"first": 0, "stop": None, "size": 1, "num_trained": None},
        "inversion": {"num_steps": num_steps},
    }
    if "stop" not in method.get("window", {}):  # of noise levels, not of steps
        del values["window"]
    return {key: value for key, value in values.items() if key in method}


def short_words(method: DictConfig, num_steps: int = 2) -> list[str]:
    """Return `short` as `key=value`."""
    found = []
    for key, value in short(method, num_steps).items():
        inner = value.items() if isinstance(value, dict) else ()
        found += [f"{key}.{name}={'null' if one is None else one}" for name, one in inner] or [f"{key}={value}"]
    return found
