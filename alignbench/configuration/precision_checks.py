"""Which precisions of weights, gradients and updates go together."""

from typing import Any

from alignbench.configuration.launcher import engine_asked_for
from alignbench.configuration.optimizers import needs_all_weights
from alignbench.errors import UserError


def check_gradients(train: dict[str, Any]) -> None:
    """Refuse to read gradients that fp16 scales."""
    for name, off in (("max_grad_value", None), ("weight_distance", 0)):
        if train["mixed_precision"] == "fp16" and train[name] != off:
            raise UserError(f"train.{name} and the gradient scaling of fp16 exclude each other; use bf16")


def check_quantised_base(train: dict[str, Any]) -> None:
    """Refuse to train weights that are held in too few bits to be trained."""
    bits, updates = train["base_bits"], train["weight_updates"]
    if bits is not None and train["tuning"] == "full":
        raise UserError(f"train.base_bits={bits} freezes the denoiser; add train.tuning=lora, or leave base_bits out")
    if bits is not None and updates != "nearest":
        raise UserError(
            f"train.weight_updates={updates} is for training bfloat16 weights, and train.base_bits={bits} leaves none; "
            f"choose memory=base_{bits}bit without memory=bf16_{updates}"
        )


def check_updates(train: dict[str, Any], dtype: str) -> None:
    """Refuse updates of half-precision weights that would be lost in rounding, or cannot be made."""
    if train["tuning"] == "lora" or dtype == "float32":
        return
    if train["mixed_precision"] == "fp16":
        raise UserError(f"train.mixed_precision=fp16 cannot scale gradients of {dtype} weights; use bf16")
    if engine_asked_for() == "deepspeed" and dtype == "bfloat16":
        return  # it keeps float32 copies
    if dtype != "bfloat16" or train["weight_updates"] == "nearest":
        raise UserError(
            f"train.tuning=full on {dtype} weights would lose most updates in rounding; add memory=bf16_compensated or "
            "memory=bf16_stochastic, or train.weights_dtype=float32 where memory allows"
        )
    if needs_all_weights(train["optimizer"]):
        raise UserError(
            f"train.optimizer={train['optimizer']['_target_']} needs all weights at once, and train.weight_updates="
            f"{train['weight_updates']} gives it some at a time; choose another, or train.weights_dtype=float32"
        )
