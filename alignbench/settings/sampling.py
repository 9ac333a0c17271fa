"""The settings under `sampling`: how evaluation images are generated."""

from typing import Annotated, Any, Literal

from pydantic import Field

from alignbench.settings.section import Count, NotNegative, ProperShare, Section, Seed, setting

NoiseMode = Literal["per_prompt", "constant"]
StrengthKind = Literal["prediction", "weights"]
StopRule = Literal["none", "obrien_fleming", "pocock"]
Looks = Count | Annotated[list[ProperShare], Field(min_length=1)]


class Sampling(Section):
    """How evaluation images are generated."""

    num_inference_steps: Count = setting("${model.num_inference_steps}", "Denoising steps.")
    guidance_scale: NotNegative = setting(
        "${model.guidance_scale}", "Guidance scale, in the sense of the model's family."
    )
    num_images_per_prompt: Count = setting(1, "Images of each prompt.")
    noise: NoiseMode = setting(
        "per_prompt",
        "per_prompt: the noise depends on prompt, image number and seed. constant: every prompt starts from the same "
        "noise, as in the papers.",
    )
    seed: Seed = setting(
        0, "Seed of the noise. It is not the training seed: the base images are generated once for all runs."
    )
    scheduler: str | None = setting(
        "${model.scheduler}",
        "A scheduler of diffusers in place of the model's own, without the word Scheduler; docs/sampling.md lists "
        "those that fit. null: the model's own.",
    )
    negative_prompt: str | None = setting(
        None, "Prompt to guide away from. null: the empty prompt.", source="all papers of the methods"
    )
    true_cfg_scale: Annotated[float, Field(gt=1)] | None = setting(
        None,
        "Scale of classifier-free guidance, for a model with distilled guidance (FLUX.1-dev). It takes two network "
        "passes per step. null: none.",
    )
    resolution: Count | None = setting(
        "${model.sampling_resolution}", "Height and width of the images in pixels. null: model.resolution."
    )
    control: dict[str, Any] | None = setting(
        None,
        "ControlNet and the maps that images follow. Set by sampling=controlnet_canny or sampling=controlnet_depth.",
    )
    strength: NotNegative = setting(
        1.0,
        "How far a trained policy goes from what training started from: 0 is the start, 1 the policy, and above 1 goes "
        "further in the same direction. It does not change training. See docs/sampling.md.",
    )
    strength_kind: StrengthKind = setting(
        "prediction",
        "What strength scales. prediction: the difference of the predictions of policy and start in each step, which "
        "takes twice the network passes. weights: the difference of their weights, at no cost.",
        source="prediction: Reinforcement Learning Guidance (arXiv 2508.21016)",
    )
    batch_size: Count = setting(16, "Images generated and scored at once.")
    base_bits: Literal[8, 4] | None = setting(
        None,
        "Bits per weight of the denoiser's linear layers during sampling; adapters keep their precision. For a network "
        "that does not fit otherwise. It changes the images of the policy and of the base model. null: as loaded.",
    )
    stop: StopRule = setting(
        "none",
        "Generate and score the prompts in parts, and stop as soon as the win rate over base is significant. "
        "obrien_fleming: hardly ever at the first looks. pocock: equally strict at each look. none: all prompts. See "
        "docs/statistics.md.",
    )
    looks: Looks = setting(
        5,
        "With stop: how many times the win rate is tested, each time after equally many more prompts; or the shares of "
        "the prompts after which it is tested, as in [0.25,0.5], before the test of all.",
        expected="a whole number of at least 1, or a list of shares that rise between 0 and 1, as in [0.25,0.5]",
    )
    stop_on: str | None = setting(
        None, "With stop: the evaluator whose win rate decides. null: the only evaluator of the command."
    )
