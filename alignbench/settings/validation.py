"""The settings under `validation`: how a run is evaluated while it trains."""

from typing import Any

from alignbench.settings.section import Count, NotNegative, Section, setting


class Validation(Section):
    """How a run is evaluated while it trains."""

    every: Count | None = setting(
        None,
        "Updates between two evaluations. Each generates images of held-out prompts, always from the same noise, "
        "scores them by all evaluators and compares them with those of the start. null: no evaluation during "
        "training.",
    )
    prompts: dict[str, Any] | None = setting(
        None,
        "The prompt set. None of its prompts may be trained on. Prompts that are evaluated at the end are left out. "
        "Set by validation=NAME.",
    )
    num_inference_steps: Count = setting("${sampling.num_inference_steps}", "Denoising steps.")
    guidance_scale: NotNegative = setting("${sampling.guidance_scale}", "Guidance scale, as for sampling.")
    batch_size: Count = setting("${sampling.batch_size}", "Images generated and scored at once.")
    select: list[str] | None = setting(
        None,
        "Evaluators, out of those chosen, that decide which weights are kept: those with the highest mean win rate "
        "over the start. Training must not use their scores. null: keep the last weights.",
        expected="a list of names of evaluators, or null",
    )
    patience: Count | None = setting(
        None, "Evaluations without a better win rate after which training ends. null: train to the end."
    )
