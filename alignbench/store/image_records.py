"""What an image folder says of its images: their prompts, how they were made, and which of them are to be scored."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from alignbench.files import write_json, write_json_lines
from alignbench.reading import check_record, read_json_lines, read_json_object
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder, checked
from alignbench.text import keyed
from alignbench.videos import FrameSpec

ImageKey = tuple[str, int]  # prompt id and number of the image within its prompt
PROMPTS, SAMPLING = "prompts.jsonl", "sampling.json"
GENERATE_AGAIN = "put the right file back, or generate the images again"


@dataclass(frozen=True)
class PromptRecord:
    """One prompt of an image folder: its text as in the source, its style or category names, its image files."""

    prompt_id: str
    prompt: str
    groups: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class SamplingRecord:
    """How the images of a folder were made.

    Attributes:
        noise: `per_prompt`, or `constant` where every prompt starts from the same noise.
        seed: sampling seed, not the training seed.
        full_size: number of prompts of the whole prompt set.
        subset: whether fewer were used.
        base_bits: bits that the linear layers of the denoiser were held in; None as they were loaded.
        scheduler: that of diffusers which sampled; None for the model's own.
        negative_prompt: what guidance led away from; None for no prompt.
        true_cfg_scale: classifier-free guidance beside that which was distilled into the network.
        resolution: sides in pixels where they are not the model's own.
        control: the ControlNet that was followed and a fingerprint of its maps; None where there was none.
        strength: how far the policy went from its start; 1 is the policy as it was trained.
        strength_kind: what that scaled, `prediction` or `weights`; None at strength 1.
        base_sampling: hash of the same sampling at strength 1, whose images of base these are compared with; None at
            strength 1.
        num_frames: of each file: 1 for images, more for videos.
        fps: frames that a video shows in a second; None for images.
    """

    prompt_set: str
    num_inference_steps: int
    guidance_scale: float | None
    noise: str
    seed: int
    num_images_per_prompt: int
    full_size: int
    subset: bool
    base_bits: int | None = None
    scheduler: str | None = None
    negative_prompt: str | None = None
    true_cfg_scale: float | None = None
    resolution: int | None = None
    control: dict[str, Any] | None = None
    strength: float = 1.0
    strength_kind: str | None = None
    base_sampling: str | None = None
    num_frames: int = 1
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.base_sampling is not None and not re.fullmatch(r"[0-9a-f]+", self.base_sampling):
            raise ResultsError(f"base_sampling is {self.base_sampling!r} in {SAMPLING}, expected a hash")

    @property
    def frames(self) -> FrameSpec | None:
        """The frames of each file; None for images."""
        return None if self.fps is None else FrameSpec(self.num_frames, self.fps)


def image_name(prompt_id: str, number: int, is_video: bool = False) -> str:
    """Return the file name of one image or video; ids must be safe as file names on any system."""
    if not re.fullmatch(r"\w[\w.-]*", prompt_id):
        raise ResultsError(f"prompt id {prompt_id!r} is not path-safe; expected letters, digits, '_', '.' and '-'")
    return f"{prompt_id}-{number}.{'webp' if is_video else 'png'}"


@dataclass(frozen=True)
class ImageSet:
    """Images that are to be scored, and where a run keeps their scores.

    Attributes:
        records: their prompts and files, named within the run's image folder or by absolute paths.
        size: width and height that all of them have to have; None where they may differ.
        generated: whether this program made them and can make them again.
        frames: of each file, where they are videos; None for images.
    """

    prompt_set: str
    sampling_hash: str
    records: Sequence[PromptRecord]
    size: tuple[int, int] | None
    generated: bool
    frames: FrameSpec | None = None

    @property
    def num_frames(self) -> int:
        """Frames of each file."""
        return 1 if self.frames is None else self.frames.num_frames


def store_records(run: RunFolder, folder: Path, prompts: Iterable[PromptRecord], sampling: SamplingRecord) -> None:
    """Write what an image folder of a run says of its images, with the digests in the run's ledger."""
    run.store(folder / PROMPTS, lambda file: _write_prompts(file, prompts))
    run.store(folder / SAMPLING, lambda file: _write_sampling(file, sampling))


def write_prompts(folder: Path, prompts: Iterable[PromptRecord]) -> None:
    """Write `prompts.jsonl` of an image folder, in the given order."""
    _write_prompts(Path(folder) / PROMPTS, prompts)


def _write_prompts(file: Path, prompts: Iterable[PromptRecord]) -> None:
    write_json_lines(file, map(asdict, prompts))


def read_prompts(folder: Path) -> list[PromptRecord]:
    """Read `prompts.jsonl` of an image folder.

    Raises:
        ResultsError: the folder is that of a run, and the file is not as it was written.
    """
    file = checked(Path(folder) / PROMPTS)
    records = read_json_lines(file, GENERATE_AGAIN)
    for number, record in enumerate(records, start=1):
        check_record(PromptRecord, record, f"line {number} of {file}", GENERATE_AGAIN)
    return [PromptRecord(r["prompt_id"], r["prompt"], tuple(r["groups"]), tuple(r["images"])) for r in records]


def write_sampling(folder: Path, sampling: SamplingRecord) -> None:
    """Write `sampling.json` of an image folder; what has a default is left out where it has it."""
    _write_sampling(Path(folder) / SAMPLING, sampling)


def _write_sampling(file: Path, sampling: SamplingRecord) -> None:
    optional = {entry.name: entry.default for entry in fields(SamplingRecord) if entry.default is not MISSING}
    values = {k: v for k, v in asdict(sampling).items() if k not in optional or v != optional[k]}
    write_json(file, values)


def read_sampling(folder: Path) -> SamplingRecord:
    """Read `sampling.json` of an image folder.

    Raises:
        ResultsError: the folder is that of a run, and the file is not as it was written.
    """
    file = checked(Path(folder) / SAMPLING)
    values = read_json_object(file, GENERATE_AGAIN)
    check_record(SamplingRecord, values, str(file), GENERATE_AGAIN)
    return SamplingRecord(**values)


def drawn_prompts(records: Mapping[str, PromptRecord], num: int, seed: int) -> tuple[str, ...]:
    """Draw prompts by their ids, as equally many of each style or category as there are; in the order of `records`.

    A larger number keeps the prompts of a smaller one.
    """
    groups: dict[str, list[str]] = {}
    for prompt_id in sorted(records, key=lambda key: keyed(seed, "prompts", key)):
        groups.setdefault((*records[prompt_id].groups, "")[0], []).append(prompt_id)
    rounds = [(place, group) for group in sorted(groups) for place in range(len(groups[group]))]
    drawn = {groups[group][place] for place, group in sorted(rounds)[:num]}
    return tuple(prompt_id for prompt_id in records if prompt_id in drawn)
