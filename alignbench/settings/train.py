"""The settings under `train`: the loop, whatever the method. Values of a method on a model are elsewhere in conf."""

from typing import Annotated, Any, Literal

from pydantic import Field

from alignbench.settings.section import (
    REQUIRED,
    Count,
    CountOrZero,
    LearningRate,
    NotNegative,
    Positive,
    ProperShare,
    Section,
    setting,
)

Precision = Literal["no", "fp16", "bf16"]
# the schedules of diffusers that take no arguments beyond the number of updates
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
Crop = Literal["centre", "random"]
Size = Annotated[list[Count], Field(min_length=2, max_length=2)]


class Train(Section):
    """How training runs, for every method."""

    max_train_steps: Count = setting(100, "Optimizer updates.")
    max_network_passes: Count | None = setting(
        None,
        "Network passes after which training ends, even if updates are left. Use it to compare methods at equal cost. "
        "A pass is one sample through the network; a call with a gradient counts as three. null: no limit.",
    )
    max_train_minutes: Positive | None = setting(
        None,
        "Minutes of training after which it ends, even if updates are left. Loading, validation and the time between a "
        "kill and its continuation are not counted. null: no limit.",
    )
    total_batch_size: Count = setting(
        16, "Samples (prompts, images or pairs) in an update, over all processes and micro-batches."
    )
    micro_batch_size: Count = setting(
        16, "Samples that one process passes through the network at once. Gradient accumulation is derived from it."
    )
    learning_rate: LearningRate = setting(1.0e-5, "Learning rate of the optimizer.")
    lr_scheduler: Schedule = setting("constant", "Learning-rate schedule, by the name that diffusers gives it.")
    lr_warmup_steps: CountOrZero = setting(0, "Updates over which the learning rate rises from 0.")
    max_grad_norm: Positive = setting(
        1.0, "Largest global norm of the gradient. A larger gradient is scaled down to it."
    )
    max_grad_value: Positive | None = setting(
        None,
        "Largest absolute value of an entry of the gradient. Larger entries are clipped to it before the norm is "
        "computed. null: no limit.",
    )
    weight_distance: NotNegative = setting(
        0.0,
        "Pull of the trained weights towards their start: half of their squared distance, times this factor, is added "
        "to the loss.",
    )
    tuning: Literal["full", "lora"] = setting(
        "full",
        "full: train all weights of the denoiser. lora: train low-rank adapters on the model's `lora_targets`.",
    )
    lora_rank: Count = setting(16, "Rank of the adapters, with train.tuning=lora.")
    lora_alpha: Positive = setting(16, "Scale of the adapters: their output is multiplied by lora_alpha / lora_rank.")
    ema_decay: ProperShare | None = setting(
        None,
        "Decay of an exponential moving average of the weights. The average is saved instead of the weights. null: no "
        "average.",
    )
    mixed_precision: Precision = setting(
        "no", "Precision of autocast. The weights keep their own (train.weights_dtype)."
    )
    weights_dtype: Literal["float32", "bfloat16"] | None = setting(
        None, "Precision in which the denoiser is held. null: as the model's file loads it. Set by memory=NAME."
    )
    weight_updates: Literal["nearest", "compensated", "stochastic"] = setting(
        "nearest",
        "How bfloat16 weights are rounded after an update. compensated: the rounding error is kept, in 2 more bytes "
        "per weight. stochastic: rounded at random, correct on average. nearest: rounded to the nearest number, which "
        "loses most updates; refused for bfloat16 weights unless only adapters, which are float32, are trained. Set "
        "by memory=NAME.",
    )
    base_bits: Literal[8, 4] | None = setting(
        None,
        "Bits per weight of the frozen denoiser's linear layers, with train.tuning=lora. null: the precision of "
        "train.weights_dtype. Set by memory=NAME.",
    )
    reward_vae: str | None = setting(
        None,
        "A tiny VAE that decodes when a loss reads pixels: an AutoencoderTiny of diffusers, as a folder or one of "
        "madebyollin/taesd, taesdxl, taesd3, taef1. The model's own VAE still generates images. null: losses use the "
        "model's own VAE, too.",
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute the denoiser's activations in the backward pass. Set by memory=NAME."
    )
    decode_checkpointing: bool = setting(
        "${.gradient_checkpointing}", "The same for the VAE's decoder, when a loss reads pixels. Set by memory=NAME."
    )
    compile: bool = setting(
        False, "torch.compile of the denoiser. Takes minutes at the start, and again for each new shape."
    )
    attention_backend: str | None = setting(
        None,
        "Attention backend of diffusers for training (native, _native_cudnn, flash, sage, xformers, ...). For "
        "transformers only. null: torch's own choice.",
    )
    tf32: bool = setting(
        False,
        "Compute float32 products with 10 instead of 23 bits of mantissa on a GPU. In training only; scores are "
        "always computed with full precision.",
    )
    size_conditioning: Literal["square", "true_size"] = setting(
        "square",
        "Size conditioning of SDXL for training images. square: the size that the model sees, without a crop. "
        "true_size: the original size and the corner of the crop. Other families have no size conditioning.",
    )
    crop: Crop = setting(
        "centre",
        "Position of the crop of a training image. The image is first resized until it just covers model.resolution. "
        "random: a new position each time. Both images of a pair are cropped alike.",
    )
    random_flip: bool = setting(
        False,
        "Mirror half of all training images, left to right. Not for prompts that mention left and right, or letters.",
    )
    crops_per_image: Count | None = setting(
        None,
        "With train.crop=random: number of possible crop positions, the same for all images, so that stages=[prepare] "
        "can encode them. null: any position.",
    )
    aspect_ratio_buckets: Literal["auto"] | Annotated[list[Size], Field(min_length=1)] | None = setting(
        None,
        "Crop each image to the size with the nearest aspect ratio. A micro-batch holds one size. auto: sizes with at "
        "most model.resolution squared pixels and sides from half to twice model.resolution. Or a list of [height, "
        "width]. null: square.",
        expected="auto, a list such as [[512,512],[448,576]] of heights and widths, or null",
    )
    allow_evaluation_prompts: bool = setting(
        False, "Allow training on prompts that are evaluated. The rows of such runs are marked in tables."
    )
    optimizer: dict[str, Any] = setting(REQUIRED, "The optimizer and its arguments. Set by optimizer=NAME.")
    logging_steps: Count = setting(1, "Updates between two log lines. Does not change the weights.")
    checkpointing_steps: Count = setting(
        20, "Updates between two checkpoints. A killed run loses at most that many. Does not change the weights."
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
    offload: bool = setting(
        False, "Keep text encoders and VAE in main memory while they are not used. Set by memory=NAME."
    )
    dataloader_num_workers: CountOrZero = setting(0, "Processes that read data. Does not change the weights.")
