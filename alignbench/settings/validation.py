"""The settings under `validation`: how a run is evaluated while it trains."""

from typing import Any, Literal

from alignbench.settings.section import Count, NotNegative, Section, setting

Unit = Literal["updates", "network_passes"]


class Validation(Section):
    """How a run is evaluated while it trains."""

    every: Count | None = setting(
        None,
        "Updates, or network passes, between two evaluations. Each generates images of held-out prompts, always from "
        "the same noise. All evaluators score them, and the scores are compared with those at the start of training. "
        "null: no evaluation during training.",
    )
    every_unit: Unit = setting(
        "updates",
        "What `every` counts. network_passes: evaluations after the rollout that reaches each multiple, so that "
        "methods are seen at equal cost; methods differ in the passes of an update.",
    )
    prompts: dict[str, Any] | None = setting(
        None,
        "The prompt set. It must share no prompt with the training data or with the evaluation at the end. Set by "
        "validation=NAME.",
    )
    num_inference_steps: Count = setting("${sampling.num_inference_steps}", "Denoising steps.")
    guidance_scale: NotNegative = setting("${sampling.guidance_scale}", "Guidance scale, as for sampling.")
    batch_size: Count = setting("${sampling.batch_size}", "Images generated and scored at once.")
    select: list[str] | None = setting(
        None,
        "Evaluators of this command that decide which weights are kept: the weights with the highest mean win rate "
        "over the start. Training must not follow their scores. null: keep the last weights.",
        expected="a list of names of evaluators, or null",
    )
    patience: Count | None = setting(
        None, "Evaluations without a better win rate after which training ends. null: train to the end."
    )
