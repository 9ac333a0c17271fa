"""The settings under `model`: the keys that a model's file sets, and those that are the same for all models."""

from typing import Literal

from alignbench.settings.section import REQUIRED, Count, FrameCount, NotNegative, Positive, Section, setting


class Model(Section):
    """The model: its weights, and what its evaluation takes."""

    name: str | None = setting(
        REQUIRED,
        "Name of the model in tables and run folders. model=images: name of the comparison; null: the name of its "
        "first folder.",
    )
    pretrained_model_name_or_path: str = setting(
        REQUIRED,
        "Weights: a diffusers folder, a hub id, or a single safetensors file in the original layout. The miniatures "
        "have no such key; their weights ship with the program.",
    )
    revision: str | None = setting(None, "Commit, branch or tag, if the weights come from the hub.")
    config: str | None = setting(
        REQUIRED,
        "For a single file: a diffusers folder or hub id that has the tokenizers, the scheduler and the networks that "
        "the file lacks.",
    )
    policy: str | None = setting(
        None,
        "Trained weights: a folder, a file or a hub id, in any layout of docs/models.md. A training method starts "
        "from them, and they are its reference; method=base measures them. Win rates are over the untouched model, "
        "and over these weights beside it. null: none.",
    )
    policy_revision: str | None = setting(None, "Commit, branch or tag, if the policy comes from the hub.")
    policy_step: Literal["last"] | None = setting(
        None,
        "last: model.policy is a run that was stopped before its end, and its last checkpoint is taken. null: "
        "model.policy holds finished weights.",
    )
    policy_trained_on: list[str] = setting(
        [],
        "Evaluators whose scores or labels the policy was trained on, as far as known. Tables mark them, and rankings "
        "leave them out.",
        expected="a list of names of evaluators",
    )
    num_inference_steps: Count = setting(REQUIRED, "Denoising steps of evaluation images.")
    guidance_scale: NotNegative = setting(REQUIRED, "Guidance scale of evaluation images.")
    scheduler: str | None = setting(
        None,
        "Scheduler of diffusers for evaluation images, without the word Scheduler. null: DDIM for UNets, "
        "FlowMatchEulerDiscrete for flow models.",
    )
    sampling_resolution: Count | None = setting(
        None, "Height and width of evaluation images in pixels. null: model.resolution."
    )
    folders: list[str] = setting(
        REQUIRED, "model=images: folders of images or lists of them, of one prompt set. The first one is the base."
    )
    resolution: Count = setting(REQUIRED, "Height and width of training images in pixels.")
    num_frames: FrameCount = setting(
        REQUIRED, "Frames of a video in training and evaluation. 1: images. Models of images have no such key."
    )
    fps: Positive = setting(
        REQUIRED,
        "Frames of a video in a second: training videos are resampled to so many, and generated ones play at that "
        "speed. Models of images have no such key.",
    )


SHARED = ("policy", "policy_revision", "policy_step", "policy_trained_on", "scheduler", "sampling_resolution")
"""The keys whose defaults all models have in common."""
