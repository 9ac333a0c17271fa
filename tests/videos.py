"""Tiny random models of videos."""

from alignbench.models.families.wan import Wan
from alignbench.models.tiny_random import RESOLUTION, TINY

NUM_FRAMES = 9  # three latent frames


def tiny_video_model(num_frames: int = NUM_FRAMES) -> Wan:
    """Return a random Wan of videos of so many frames."""
    tiny = TINY["wan"]
    return Wan(tiny.pipeline(), RESOLUTION, tiny.lora_targets, num_frames=num_frames, **tiny.settings)
