"""Read which training engine `accelerate launch --config_file FILE` asks for by its environment variables."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from alignbench.configuration.build import installation
from alignbench.configuration.optimizers import needs_whole_weights
from alignbench.errors import UserError

Engine = Literal["ddp", "fsdp2", "deepspeed"]


def engine_asked_for(environment: Mapping[str, str] = os.environ) -> Engine:
    """Return the engine that the launcher asks for.

    Raises:
        UserError: this program does not support the engine, or sharding is asked for and there is only one process.
    """

    def on(name: str) -> bool:
        return environment.get(name, "false").lower() in ("true", "1", "yes")

    for name, engine in (
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "tensor, context or sequence parallelism"),
    ):
        if on(name):
            raise UserError(f"the launcher asks for {engine}, which is not supported; choose a file of conf/accelerate")
    if on("ACCELERATE_USE_DEEPSPEED"):
        return _deepspeed(environment)
    if not on("ACCELERATE_USE_FSDP"):
        return "ddp"
    if environment.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP 1; set fsdp_version: 2, as conf/accelerate/fsdp2.yaml does")
    if on("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError("fsdp_activation_checkpointing is memory=checkpointing here; set it to false")
    _refuse_one_process("FSDP", environment)
    return "fsdp2"


def check_engine(train: Mapping[str, Any], auxiliary: Mapping[str, Any]) -> None:
    """Refuse what cannot be done with parts of weights or of gradients, if the launcher asks for such.

    Args:
        train, auxiliary: values of the configuration.

    Raises:
        UserError: naming the setting and what to set instead.
    """
    if (engine := engine_asked_for()) == "ddp":
        return
    if needs_whole_weights(train["optimizer"]):
        raise UserError(
            f"train.optimizer={train['optimizer']['_target_']} needs whole weights, and under {engine} a process has "
            "parts of them; choose optimizer=adamw or optimizer=adamw8bit"
        )
    if train["mixed_precision"] == "fp16":
        raise UserError(f"train.mixed_precision=fp16 scales gradients, which {engine} does not do here; use bf16")
    if engine == "fsdp2":
        return
    off = {"mixed_precision": "no", "weight_updates": "nearest", "max_grad_value": None, "weight_distance": 0}
    for name, value in off.items():
        if train[name] != value:
            raise UserError(
                f"train.{name}={train[name]} needs what DeepSpeed keeps to itself; set it to "
                f"{'null' if value is None else value} (bfloat16 weights get float32 copies there), or use "
                "conf/accelerate/fsdp2.yaml"
            )
    if auxiliary:
        raise UserError("auxiliary losses need what DeepSpeed keeps to itself; use conf/accelerate/fsdp2.yaml")


def _deepspeed(environment: Mapping[str, str]) -> Engine:
    if environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise UserError("deepspeed_config_file is not read; set zero_stage as conf/accelerate/deepspeed.yaml does")
    if environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") not in ("1", "2"):
        raise UserError(
            "DeepSpeed is supported with zero_stage 1 or 2; to shard whole networks, use conf/accelerate/fsdp2.yaml"
        )
    if find_spec("deepspeed") is None:
        raise UserError(f"the launcher asks for DeepSpeed, which is not installed: {installation('deepspeed')}")
    _refuse_one_process("DeepSpeed", environment)
    return "deepspeed"


def _refuse_one_process(name: str, environment: Mapping[str, str]) -> None:
    if environment.get("WORLD_SIZE", "1") == "1":
        raise UserError(
            f"the launcher asks for {name}, but there is only one process, so nothing would be sharded; start several "
            f"(--num_processes; on a CPU, torchrun --nproc_per_node), or do not use {name}"
        )
