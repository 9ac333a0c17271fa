"""The first facts of a job: what runs, on what, and where the results are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from accelerate import Accelerator
from omegaconf import DictConfig
from rich.console import Console

from alignbench.configuration.build import trains
from alignbench.data.prompts import PromptSet
from alignbench.generation.generate import Sampling
from alignbench.models.prompt_length import CutPrompts
from alignbench.store.run_folder import RunFolder


def introduction(
    cfg: DictConfig,
    stages: Sequence[str],
    accelerator: Accelerator,
    prompts: PromptSet | None,
    sampling: Sampling,
) -> Iterator[tuple[str, str]]:
    """Yield the name of each fact, and what is said of it."""
    settings = cfg.train
    yield "model", f"{cfg.model.name}, {cfg.model.resolution} px, {accelerator.device}"
    if "train" in stages and trains(cfg):
        processes = accelerator.num_processes
        share = math.ceil(settings.total_batch_size / processes)
        rest = math.ceil(share / settings.micro_batch_size)
        yield (
            "batch",
            f"{settings.total_batch_size} samples an update = {processes} process{'es' if processes > 1 else ''} x "
            f"{rest} micro-batch{'es' if rest > 1 else ''} of {min(settings.micro_batch_size, share)}; "
            f"{_length(settings)}, {settings.tuning} tuning",
        )
    if prompts is not None:
        part = f" of {prompts.full_size} (subset)" if prompts.is_subset else ""
        yield "prompts", f"{prompts.name}, {len(prompts)}{part}"
        yield "sampling", str(sampling)


def tell_cut_prompts(
    cut: Mapping[str, CutPrompts], of: str, run: RunFolder, accelerator: Accelerator, console: Console
) -> None:
    """Say and record how many prompts are longer than the text encoders read.

    Args:
        cut: what is cut, by the kind of the tokenizer.
        of: the prompt set or data that has them.
    """
    for kind, one in cut.items():
        console.print(f"  {one.told(kind, of)}")
    if accelerator.is_main_process and cut:
        told = {kind: asdict(one) for kind, one in cut.items()}
        run.update(cut_prompts={**run.manifest.cut_prompts, of: told})


def _length(settings: DictConfig) -> str:
    updates, passes, minutes = settings.max_train_steps, settings.max_network_passes, settings.max_train_minutes
    limits = [] if passes is None else [f"{passes:,} network passes"]
    limits += [] if minutes is None else [f"{minutes:g} minutes"]
    return f"{' or '.join(limits)}, at most {updates} updates" if limits else f"{updates} updates"
