"""The settings under `data` that the formats have in common: which rows are kept, and how labels are read."""

from typing import Literal

from alignbench.settings.section import Count, CountOrZero, FrameCount, Positive, Section, Seed, Share, setting

Split = Literal["train", "heldout", "all"]
Posterior = Literal["sample", "mode"]
Mixed = Literal["desirable", "undesirable", "dropped"]
Ties = Literal["drop", "half"]
Repeats = Literal["drop", "keep", "vote"]


class RowSettings(Section):
    """What all data on a disk have in common."""

    split: Split = setting(
        "train",
        "Rows to use: those of prompts that are not held out, of held-out prompts, or of all prompts. The hash of a "
        "prompt's text decides whether the prompt is held out.",
    )
    heldout_share: Share = setting(0.0, "Share of all prompts that are held out.")
    exclude: str | None = setting(
        None, "A text file with one prompt or one image name per line. Rows with a listed prompt or image are left out."
    )
    min_side: CountOrZero = setting(
        0, "Shortest side in pixels. Rows with a smaller image are left out. Needs data.check_images=true."
    )
    check_images: bool = setting(
        True,
        "Before training, read the header and the end of every image, and leave out rows with missing or damaged "
        "images. The result is stored until the data change. false: training stops at the first damaged image.",
    )
    posterior: Posterior = setting(
        "sample",
        "Latents of training images. sample: a draw from the VAE's posterior, new each time. mode: its mode, encoded "
        "once.",
        source="Diffusion-DPO trains on samples",
    )


class LabelSettings(RowSettings):
    """What labelled images have in common, beside the above."""

    mixed: Mixed = setting(
        "desirable",
        "Label of an image that is both desirable and undesirable, such as one that won one pair of its prompt and "
        "lost another. For methods that read single images. dropped: the image is left out.",
        source="Diffusion-KTO: desirable is its default gt_label_wi_l, undesirable gt_label_w_il, dropped gt_label_w_l",
    )
    label_noise: Share = setting(
        0.0, "Share of labels that are inverted on purpose, to study the effect of noise on a method."
    )
    noise_seed: Seed = setting(0, "Seed of the choice of labels to invert.")


class PairSettings(LabelSettings):
    """What pairs have in common, beside the above."""

    ties: Ties = setting(
        "drop",
        "Pairs without a preference. drop: left out, as in all papers. half: kept with probability one half, for "
        "methods that read soft labels.",
    )
    repeats: Repeats = setting(
        "drop",
        "Several judgements of the same two images of a prompt. drop: keep the first. keep: keep all. vote: make one "
        "pair, whose soft label is the mean of the judgements.",
    )


class VideoSettings(Section):
    """Which frames are read of videos, where a model of videos is trained."""

    num_frames: FrameCount = setting(
        "${oc.select:model.num_frames,1}",
        "Frames that are read of a video, from its beginning: those of the model. Shorter videos are left out. 1: the "
        "data are pictures.",
    )
    fps: Positive | None = setting(
        "${oc.select:model.fps,null}",
        "Frames in a second to which videos are resampled: those of the model.",
    )


class HubSettings(Section):
    """Which rows of a data set of the hub are streamed."""

    config_name: str | None = setting(
        None, "The configuration of the data set, which the hub calls its subset. null: its default or only one."
    )
    part: str = setting("train", "The published split, such as train, test or validation.")
    revision: str | None = setting(None, "Commit, branch or tag of a data set of the hub. null: its newest commit.")
    num_samples: Count | None = setting(None, "Number of rows to stream, the first ones. null: all.")
    shuffle_buffer: Count | None = setting(
        None,
        "Shuffle the rows before the first data.num_samples are taken: the files in random order, then every row drawn "
        "from a buffer of so many rows, whose images are in memory. null: the published order.",
    )
    shuffle_seed: Seed = setting(0, "Seed of that shuffling; not the training seed.")


class DataSettings(PairSettings, HubSettings, VideoSettings):
    """All of the above; a source has those that mean something for its format."""
