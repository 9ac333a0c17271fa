"""How long an evaluator takes for some images: in this program, called image by image, and in its official package."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from alignbench.calibrate.__main__ import OFFICIAL, run_official
from alignbench.calibrate.environments import environment
from alignbench.evaluator import Evaluator, Reward
from alignbench.files import cache_folder, write_png
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.score import score
from alignbench.store.image_records import ImageSet, PromptRecord
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores
from benchmarks.scorer_weights import SCORERS
from evaluators.clip_reward import PublishedClipReward, unit
from evaluators.image_reward import MAX_LENGTH, MEAN, PAD, STD, ImageReward
from evaluators.networks.clip import to_transformers

MADE = "made"  # what model, prompt set and sampling are called
PACKAGE_OF = {official.evaluator: package for package, official in OFFICIAL.items() if official.evaluator in SCORERS}


@dataclass(frozen=True)
class Samples:
    """Images on the disk, with prompts of the usual lengths."""

    files: tuple[Path, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """One evaluator, or all in one pass, scored in one way.

    Attributes:
        way: alignbench, singly or package.
        evaluator: its name, or `all`.
        num_images: images that were scored.
        image_seconds: from files to scores, without loading and text; None where the two cannot be told apart.
        network_seconds: of these, those inside the networks.
        text_seconds: turning prompts into what images are scored against.
        call_seconds: images and text.
        loading_seconds: reading the weights, their digest and a first pass.
        rereading_seconds: reading weights again while scoring.
        scores: one an image; none of all in one pass.
    """

    way: str
    evaluator: str
    num_images: int
    image_seconds: float | None
    network_seconds: float | None
    text_seconds: float | None
    call_seconds: float
    loading_seconds: float
    rereading_seconds: float = 0.0
    scores: tuple[float, ...] = ()


class Clock:
    """Tells what the time goes into: a part that runs inside another is not counted to that one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._parts: list[str] = []
        self._since = 0.0
        self._watched: list[Callable[[], Any]] = []  # how to leave alone what is watched

    def start(self, part: str) -> None:
        """Count the time to a part from now on."""
        self._count()
        self._parts.append(part)

    def stop(self) -> None:
        """Count the time to what it was counted to before."""
        self._count()
        self._parts.pop()

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count the time inside to a part."""
        self.start(part)
        try:
            yield
        finally:
            self.stop()

    def _count(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._parts:
            part = self._parts[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def watch(self, evaluator: Evaluator) -> None:
        """Tell text and image passes through the networks of an evaluator from the rest of its work."""
        encode = evaluator.encode_prompts

        def timed(prompts: Sequence[str]) -> Any:
            with self.timing("text"):
                return encode(prompts)

        vars(evaluator)["encode_prompts"] = timed
        self._watched.append(lambda: vars(evaluator).pop("encode_prompts", None))
        network = evaluator.network
        assert network is not None
        for module in (network, *network.children()):
            self._watched.append(module.register_forward_pre_hook(self._enter).remove)
            self._watched.append(module.register_forward_hook(self._leave).remove)

    def close(self) -> None:
        """Leave all evaluators alone: others may share their networks."""
        for leave in self._watched:
            leave()
        self._watched.clear()

    def _enter(self, *_: Any) -> None:
        self.start("text" if self._parts[-1] == "text" else "network")

    def _leave(self, *_: Any) -> None:
        self.stop()


class TimedResidents(NetworkPool):
    """Networks on one device, and how long it takes to get them there."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        super().__init__(device)
        self.clock = clock

    def use(self, evaluator: Evaluator) -> None:
        """Have the network on the device; one that is read again is watched again."""
        with self.clock.timing("loading"):
            known = vars(evaluator).get("network")
            super().use(evaluator)
            if evaluator.network is not known:
                self.clock.watch(evaluator)


# ---- this program


def by_alignbench(
    evaluators: Sequence[Reward], samples: Samples, batch_size: int, device: torch.device, folder: Path
) -> Measured:
    """Score by the score stage, in a run folder of its own."""
    clock = Clock(device)
    network_pool = TimedResidents(device, clock)
    names = "-".join(evaluator.name for evaluator in evaluators)
    shutil.rmtree(cache_folder() / "prompts", ignore_errors=True)  # text that was encoded before would take no time
    with clock.timing("loading"):
        first = Image.new("RGB", (64, 64))
        write_png(folder / names / "first.png", first)
        alone = Samples((folder / names / "first.png",), ("a first pass, which reads the weights from the disk",))
        _score_stage(evaluators, alone, batch_size, network_pool, folder / names / "first")
    loading = sum(clock.seconds.values())
    clock.seconds.clear()
    run = folder / names / "run"
    with clock.timing("rest"):
        _score_stage(evaluators, samples, batch_size, network_pool, run)
    clock.close()
    network_pool.clear()
    seconds = {part: clock.seconds.get(part, 0.0) for part in ("rest", "network", "text", "loading")}
    scores: tuple[float, ...] = ()
    if len(evaluators) == 1:
        file = RunFolder(run).score_file(MADE, MADE, evaluators[0].name, evaluators[0].version)
        scores = tuple(Scores.read(file).score.tolist())
    return Measured(
        "alignbench", evaluators[0].name if len(evaluators) == 1 else "all",
        len(samples.files),
        image_seconds=seconds["rest"] + seconds["network"],
        network_seconds=seconds["network"],
        text_seconds=seconds["text"],
        call_seconds=seconds["rest"] + seconds["network"] + seconds["text"],
        loading_seconds=loading + seconds["loading"],
        scores=scores,
    )  # fmt: skip


def _score_stage(
    evaluators: Sequence[Reward], samples: Samples, batch_size: int, network_pool: NetworkPool, folder: Path
) -> None:
    run = RunFolder(folder)
    run.open(Manifest(run.name, "base", MADE, None, "0", "0"))
    records = [
        PromptRecord(f"p{number:05d}", prompt, (), (str(file),))
        for number, (file, prompt) in enumerate(zip(samples.files, samples.prompts, strict=True))
    ]
    images = ImageSet(MADE, MADE, records, None, generated=False)
    score(run, images, evaluators, batch_size, network_pool, progress=False)


# ---- one image a call


@torch.no_grad()
def singly(evaluator: Reward, samples: Samples, device: torch.device) -> Measured:
    """Score one image after another with the networks of an evaluator, which computes in float32."""
    clock = Clock(device)
    with clock.timing("loading"):
        evaluator.to(device)
        clock.watch(evaluator)
        call = _call(evaluator)
        call(Image.new("RGB", (64, 64)), "a first pass, which reads the weights from the disk", clock)
    loading = sum(clock.seconds.values())
    clock.seconds.clear()
    scores = []
    with clock.timing("rest"):
        for file, prompt in zip(samples.files, samples.prompts, strict=True):
            if evaluator.name.startswith("hpsv2"):
                with clock.timing("rereading"):
                    _read_again(evaluator, device)
            with Image.open(file) as image:
                scores.append(call(image, prompt, clock))
    clock.close()
    seconds = {part: clock.seconds.get(part, 0.0) for part in ("rest", "network", "text", "rereading")}
    return Measured(
        "singly", evaluator.name, len(samples.files),
        image_seconds=seconds["rest"] + seconds["network"],
        network_seconds=seconds["network"],
        text_seconds=seconds["text"],
        call_seconds=seconds["rest"] + seconds["network"] + seconds["text"],
        loading_seconds=loading,
        rereading_seconds=seconds["rereading"],
        scores=tuple(scores),
    )  # fmt: skip


def _read_again(evaluator: Reward, device: torch.device) -> None:
    """Do what hpsv2.score begins with: read the checkpoint, and copy it into the network."""
    assert isinstance(evaluator, PublishedClipReward)
    state_dict = torch.load(evaluator.file, map_location=device)["state_dict"]
    evaluator.network.load_state_dict(to_transformers(state_dict))


def _call(evaluator: Reward) -> Callable[[Image.Image, str, Clock], float]:
    """Return how one picture is scored with one prompt."""
    if isinstance(evaluator, PublishedClipReward):
        return lambda image, prompt, clock: _clip_call(evaluator, image, prompt, clock)
    if isinstance(evaluator, ImageReward):
        return lambda image, prompt, clock: _blip_call(evaluator, image, prompt, clock)
    return lambda image, _, clock: evaluator.score_inputs(evaluator.preprocess([image]), [None]).item()


def _clip_call(evaluator: PublishedClipReward, image: Image.Image, prompt: str, clock: Clock) -> float:
    network = evaluator.network
    pixels = evaluator.preprocess([image]).to(network.device)
    autocast = evaluator.name.startswith("hpsv2") and network.device.type == "cuda"
    with torch.autocast(network.device.type, torch.float16, enabled=autocast):
        with clock.timing("text"):
            ids = evaluator.tokenize([prompt])
            ids = F.pad(ids, (0, evaluator.context_length - ids.shape[1])).to(network.device)
            text: Any = network.get_text_features(input_ids=ids)
        seen: Any = network.get_image_features(pixel_values=pixels)
        return (unit(seen.pooler_output) @ unit(text.pooler_output).T).item()


def _blip_call(evaluator: ImageReward, image: Image.Image, prompt: str, clock: Clock) -> float:
    network = evaluator.network
    with clock.timing("text"):
        ids = evaluator.tokenizer(
            prompt, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        ).input_ids.to(evaluator.device)  # fmt: skip
    tokens: Tensor = network.vision(pixel_values=evaluator.preprocess([image]).to(evaluator.device)).last_hidden_state
    read = network.text(
        input_ids=ids, attention_mask=ids.ne(PAD).long(), encoder_hidden_states=tokens, is_decoder=False
    )
    return ((network.head(read.last_hidden_state[:, 0]) - MEAN) / STD).item()


# ---- the packages


def by_package(
    name: str, samples: Samples, weights: Path, reduced: bool, device: torch.device, environments: Path, folder: Path
) -> Measured:
    """Score by the official package that an evaluator stands for, with as many threads as this process has."""
    package = PACKAGE_OF[name]
    official = OFFICIAL[package]
    python = environment(environments / package, official.requirements)
    job = {
        "official": package,
        "packages": official.packages,
        "images": [str(file) for file in (samples.files[0], *samples.files)],  # the first call is not counted
        "prompts": [samples.prompts[0], *samples.prompts],
        "weights": str(weights),
        "seed": 0,
        "architecture": official.reduced if reduced else {},
        "vocabulary": str(get_object(official.vocabulary)) if official.vocabulary else None,
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    work = folder / "packages" / package
    work.mkdir(parents=True)
    theirs = run_official(python, job, work)
    seconds = theirs["seconds"]
    return Measured(
        "package", name, len(samples.files),
        image_seconds=None,
        network_seconds=None,
        text_seconds=None,
        call_seconds=sum(seconds["calls"][1:]),
        loading_seconds=seconds["loading"],
        rereading_seconds=sum(seconds["rereading"][1:]),
        scores=tuple(theirs["scores"][1:]),
    )  # fmt: skip
