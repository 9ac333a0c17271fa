"""What a job that ends early says: what went wrong, what lies on the disk, and which settings help."""

from contextlib import AbstractContextManager
from pathlib import Path

from omegaconf import DictConfig

from alignbench.configuration.build import has_images, run_name
from alignbench.errors import DivergedError, UserError
from alignbench.settings.command import Stage
from alignbench.store.checkpoint_files import checkpoint_steps
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.machine import memory_advice


def kept(cfg: DictConfig) -> str:
    """Return a sentence without its full stop about what the job of a configuration has left."""
    if has_images(cfg):
        return f"{cfg.results} keeps the scores that were finished"
    run = RunFolder(Path(cfg.results) / run_name(cfg))
    if not run.manifest_file.is_file():
        return "nothing was begun"
    if run.manifest.seed is None:
        return f"{run.path} keeps the images and scores that were finished"
    if run.completed("train"):
        return f"{run.path} keeps the trained policy, and the images and scores that were finished"
    return f"{run.path} keeps {last_checkpoint(run)}"


def last_checkpoint(run: RunFolder) -> str:
    """Return the checkpoint that training goes on from, in words."""
    steps = checkpoint_steps(run.checkpoints)
    return f"the checkpoint of update {steps[-1]}" if steps else "no checkpoint yet"


def diverged(error: FloatingPointError, run: RunFolder) -> DivergedError:
    """Return the sentence about a run whose numbers are no longer finite: what is kept, and what can be done."""
    told = f"{error}; lower train.learning_rate or train.max_grad_norm. {run.path} keeps {last_checkpoint(run)}"
    if run.checkpoints.exists():
        told += f"; model.policy={run.path} model.policy_step=last starts a new run from it"
    return DivergedError(told)


def no_policy(run: RunFolder) -> UserError:
    """Return the sentence about images that are wanted of a run which has not trained."""
    told = f"{run.path} holds no trained policy; add train to stages"
    if run.checkpoints.exists():
        told += f", or measure its last checkpoint by method=base model.policy={run.path} model.policy_step=last"
    return UserError(told)


def advice_in(stage: Stage, cfg: DictConfig) -> AbstractContextManager[None]:
    """Say which settings need less memory if it runs out within a stage."""
    match stage:
        case "train":
            advice = _for_training(cfg)
        case "prepare":
            advice = "leave prepare out of stages, and add memory=offload"
        case "generate":
            advice = f"lower sampling.batch_size (now {cfg.sampling.batch_size}), or set sampling.base_bits=8"
        case "score":
            advice = (
                f"lower sampling.batch_size (now {cfg.sampling.batch_size}), or score by fewer evaluators at a time"
            )
        case "compare":
            advice = "lower comparers.NAME.batch_size or comparers.NAME.max_side"
        case "report":
            advice = "this stage needs main memory: end other programs"
    return memory_advice(f"in the stage {stage}", advice)


def _for_training(cfg: DictConfig) -> str:
    """Name the settings that are not yet as lean as they can be."""
    train = cfg.train
    modes = [
        mode
        for mode, is_on in (("checkpointing", train.gradient_checkpointing), ("offload", train.offload))
        if not is_on
    ]
    ways = [f"lower train.micro_batch_size (now {train.micro_batch_size})"] if train.micro_batch_size > 1 else []
    ways += [f"add memory=[{','.join(modes)}]"] if modes else []
    ways += ["set train.tuning=lora"] if train.tuning == "full" else []
    if train.checkpoints_in_background:
        ways += ["set train.checkpoints_in_background=false if main memory ran out"]
    return f"{', '.join(ways) or 'use a device with more memory'}; dry_run=true estimates what a setting saves"
