"""Time the training loop and measure its memory on a model of full size with random weights; nothing is downloaded.

    python benchmarks/memory_and_speed.py --model flux --method srpo [--tuning lora|full] [--steps 2] [KEY=VALUE ...]
    python benchmarks/memory_and_speed.py --model flux --method srpo --scale tiny        # anywhere, in seconds

The recipe for 24 GB is `--model flux --method dpo --tuning lora memory=[base_4bit,checkpointing,offload]`.

It prints seconds an update by phase, the arithmetic of forward and backward as a share of what the device reaches in a
large matrix product, and the peak of memory. The first update warms up and counts the arithmetic; it is not timed. The
loop is that of `alignbench.training.train`; only its calls are watched. Prompts are random features, so no text
encoder runs; with --caches, images are random latents in a cache on the disk, as after `prepare`, so no VAE encodes.
Methods that need a reward get a CLIP ViT-H/14 in float32 at random, the network of HPSv2.1.
Arithmetic that gradient checkpointing repeats counts as done: the share is that of the hardware.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel

from alignbench.batch import Conditioning
from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.context import keyed_generator
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import Caches
from alignbench.data.batches.fill_cache import RequiredFeatures, prepare
from alignbench.data.source import DataSource, Pair, PairSource, TrainingImage
from alignbench.devices import device_name, peak_memory_gib
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.skeleton import skeleton
from alignbench.store.run_folder import RunFolder
from alignbench.training import train as loop
from alignbench.work_share import WorkShare
from evaluators.clip_reward import ClipReward
from evaluators.networks.clip import clip_config
from evaluators.networks.preprocess import ClipPixels

LEARNING = ("forward", "reference", "backward")  # calls of the policy with a gradient, of the reference without
NETWORKS = ("rollout", *LEARNING, "decode", "reward")
PHASES = (*NETWORKS, "optimizer", "other")
WarmUp = Literal["counted", "plain", "none"]
TINY_REWARD = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


class Clock:
    """Seconds and floating-point operations of each phase; a phase within another is taken off it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self._counter: FlopCounterMode | None = None
        self._phases = ["other"]
        self._seconds, self._flops = time.monotonic(), 0

    @property
    def phase(self) -> str:
        """The present one."""
        return self._phases[-1]

    def enter(self, phase: str) -> None:
        self.note()
        self._phases.append(phase)

    def leave(self) -> None:
        self.note()
        self._phases.pop()

    def count(self, counter: FlopCounterMode | None) -> None:
        """Note operations from now on, if there is a counter."""
        self._counter = counter

    def restart(self) -> None:
        """Keep the operations noted so far, note no more, and begin to time."""
        self.note()
        self._counter = None
        self.seconds.clear()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        self.enter(phase)
        yield
        self.leave()

    def watch(self, thing: Any, name: str, phase: str | Callable[[], str]) -> None:
        """Count the calls of a function of `thing` as `phase`."""
        function = getattr(thing, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.during(phase if isinstance(phase, str) else phase()):
                return function(*args, **kwargs)

        setattr(thing, name, watched)

    def note(self) -> None:
        """Credit what has passed since the last note to the present phase."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        self.seconds[self._phases[-1]] += now - self._seconds
        self._seconds = now
        if self._counter is not None:
            flops = self._counter.get_total_flops()
            self.flops[self._phases[-1]] += flops - self._flops
            self._flops = flops


class Watched:
    """A method whose rollouts are timed."""

    def __init__(self, method: Any, clock: Clock) -> None:
        self._method, self._clock = method, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def rollout(self, *args: Any) -> Iterator[Any]:
        updates = iter(self._method.rollout(*args))
        while True:
            with self._clock.during("rollout"):
                update = next(updates, None)
            if update is None:
                return
            yield update


class RandomPairs(PairSource):
    """Pairs of random pictures, which serve methods that need only prompts or images, too."""

    name, mixed, fingerprint = "random", "dropped", "random"
    num_filtered: Counter[str] = Counter()  # noqa: RUF012
    pairs = tuple(Pair(f"prompt {n}", f"{n}-w", f"{n}-l", 0.8) for n in range(64))
    prompts = tuple(pair.prompt for pair in pairs)

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def image(self, key: str) -> TrainingImage:
        shape = (self.resolution, self.resolution, 3)
        pixels = torch.randint(0, 256, shape, generator=keyed_generator(key), dtype=torch.uint8)
        return TrainingImage(key, pixels.numpy())


class RandomReward(ClipReward):
    """A CLIP network at random, made where it works."""

    name, version = "random", "1"

    def __init__(self, architecture: Any, image_size: int, device: torch.device) -> None:
        super().__init__(ClipPixels(image_size), 1.0)
        self.architecture, self.made_on = architecture, device

    @cached_property
    def network(self) -> CLIPModel:
        with self.made_on:
            return CLIPModel(clip_config(self.architecture)).requires_grad_(False).eval()

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), 77, dtype=torch.long)


def random_model(cfg: DictConfig, scale: str, device: torch.device) -> ModelAdapter:
    """Return the model with random weights, and random features in place of encoded prompts."""
    if scale == "tiny":
        adapter = tiny_adapter(cfg.model.adapter._target_.split(".")[-2])
    else:
        # what is to be quantised on its way to the device need not fit there as it is
        adapter = skeleton(cfg.model, device if cfg.train.base_bits is None else "cpu")
        for part in (adapter.denoiser, adapter.pipeline.vae):
            _randomise(part, device)
        for name in adapter.frozen_parts[1:]:
            setattr(adapter.pipeline, name, None)

    def features(prompts: Sequence[str]) -> Conditioning:
        return adapter.blank_conditioning(len(prompts)).map(torch.randn_like)

    adapter.encode_prompts = features
    return adapter


@torch.no_grad()
def _randomise(network: nn.Module, device: torch.device) -> None:
    """Fill a network with numbers that are drawn on the device, which is fast, wherever the network lies."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.empty_like(parameter, device=device).normal_(0, 0.02))
        else:
            parameter.fill_(1.0)
    for buffer in network.buffers():
        buffer.zero_()


def fill_caches(
    root: Path, cfg: DictConfig, model: ModelAdapter, method: Method, data: DataSource, device: torch.device
) -> None:
    """Write random features of all prompts and latents of all images where a training below `root` reads them."""

    def posterior(pixels: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(pixels), *model.latent_shape)
        return tuple(torch.rand(2, *shape, device=device, dtype=model.pipeline.vae.dtype).unbind())

    model.encode_posterior = posterior
    caches = Caches.open(root / "cache", model, data.posterior, device)
    required = RequiredFeatures.of(method, data, CropPolicy.of(cfg.train, model), cfg.train.micro_batch_size)
    encoder = Encoder(model, data.posterior, caches=caches, address=data.address)
    prepare(required, encoder, caches, WorkShare(), progress=False)


def _phase_of_call(phase: str) -> str:
    """Return the phase that a call of the denoiser is counted to, which comes during `phase`."""
    if torch.is_grad_enabled():
        return "forward"
    return "reference" if phase == "other" else phase


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Return floating-point operations a second in a matrix product, the best of ten."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        began = time.monotonic()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - began)
    return 2 * side**3 / min(seconds)


def measure(
    model: str,
    method: str,
    scale: str = "full",
    tuning: str | None = None,
    steps: int = 2,
    overrides: Sequence[str] = (),
    from_caches: bool = False,
    warm_up: WarmUp = "counted",
) -> dict[str, Any]:
    """Return seconds, operations and memory of `steps` updates; see the module's docstring.

    Args:
        warm_up: an update that comes before, whose arithmetic is counted; one that is not counted, for compiled
            networks; or none, for networks that are trained only once, as FSDP leaves them sharded.
    """
    tiny = scale == "tiny"
    cfg = composed([f"model={model}", f"method={method}", "data=shapes", "reward=shapes_clip", *overrides])
    cfg.train.dataloader_num_workers = 0
    cfg.train.tuning = tuning or cfg.train.tuning
    if tiny:
        cfg.train.total_batch_size = cfg.train.micro_batch_size = 2
        if "num_rollout_steps" in cfg.method:
            cfg.method.num_rollout_steps = 2
    device = torch.device("cuda" if torch.cuda.is_available() and not tiny else "cpu")
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=cfg.train.mixed_precision)
    clock = Clock(device)

    adapter = random_model(cfg, scale, device)
    dtype = adapter.dtype if cfg.train.mixed_precision == "no" else torch.bfloat16
    rate = matmul_rate(device, dtype, 256 if tiny else 8192)
    trained = build(cfg.method)
    if cfg.method.get("reward") is not None:
        trained.reward = RandomReward(TINY_REWARD, 32, device) if tiny else RandomReward("ViT-H-14", 224, device)
        clock.watch(trained.reward, "embed_image", "reward")
    clock.watch(adapter, "forward", lambda: _phase_of_call(clock.phase))
    clock.watch(adapter, "decode_latents", "decode")
    clock.watch(accelerator, "backward", "backward")
    adapter.save_policy = lambda folder, weights: folder.mkdir(exist_ok=True)  # writing is not what is measured
    data = RandomPairs(adapter.resolution)

    def watched_optimizer(*args: Any) -> torch.optim.Optimizer:
        optimizer = make_optimizer(*args)
        optimizer.register_step_pre_hook(lambda *_: clock.enter("optimizer"))
        optimizer.register_step_post_hook(lambda *_: clock.leave())
        return optimizer

    make_optimizer, loop.make_optimizer = loop.make_optimizer, watched_optimizer

    def run(updates: int, folder: Path) -> dict[str, Any]:
        cfg.train.max_train_steps = cfg.train.checkpointing_steps = updates
        watched: Any = Watched(trained, clock)
        return loop.train(cfg, adapter, watched, data, RunFolder(folder), accelerator).budget

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if from_caches:
            adapter.pipeline.vae.to(device)
            fill_caches(root, cfg, adapter, trained, data, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # making the model is not what is measured
        try:
            if warm_up != "none":
                with FlopCounterMode(display=False) if warm_up == "counted" else nullcontext() as counter:
                    clock.count(counter)
                    run(1, root / "warm_up")
                if cfg.train.base_bits is not None:
                    adapter.denoiser.unload_lora()  # or the second run would fold them in, which few bits forbid
            clock.restart()
            budget = run(steps, root / "timed")
            clock.note()
        finally:
            loop.make_optimizer = make_optimizer
    seconds = {phase: clock.seconds[phase] / steps for phase in PHASES}
    in_networks, learning = (sum(seconds[phase] for phase in phases) for phases in (NETWORKS, LEARNING))
    return {
        "model": model,
        "method": method,
        "scale": scale,
        "tuning": cfg.train.tuning,
        "base_bits": cfg.train.base_bits,
        "device": device_name(device),
        "torch": torch.__version__,
        "steps": steps,
        "samples_an_update": cfg.train.total_batch_size,
        "trainable_parameters": budget["trainable_parameters"],
        "seconds": seconds,
        "seconds_a_sample": sum(seconds.values()) / cfg.train.total_batch_size,
        "share_outside_networks": 1 - in_networks / sum(seconds.values()),
        "tflop": {phase: clock.flops[phase] / 1e12 for phase in PHASES},
        "matmul_tflops": rate / 1e12,
        "share_of_matmul_rate": sum(clock.flops[phase] for phase in LEARNING) / max(learning, 1e-9) / rate,
        "peak_memory_gib": peak_memory_gib(),
    }


def show(figures: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    tuning = figures["tuning"] + (f" on {figures['base_bits']} bits" if figures["base_bits"] else "")
    lines = [f"{figures['method']} on {figures['model']} ({figures['scale']}), {tuning}, {figures['device']}"]
    for phase in PHASES:
        lines.append(
            f"  {phase:<10}{figures['seconds'][phase]:10.3f} s {figures['tflop'][phase]:10.4g} TFLOP an update"
        )
    lines.append(f"  {'together':<10}{sum(figures['seconds'].values()):10.3f} s")
    lines.append(f"  {figures['share_outside_networks']:.1%} of it outside the networks")
    lines.append(f"  peak memory {figures['peak_memory_gib']:.2f} GiB")
    lines.append(
        f"  forward, reference and backward reach {figures['share_of_matmul_rate']:.1%} of "
        f"{figures['matmul_tflops']:.2f} TFLOP/s"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="as in model=NAME")
    parser.add_argument("--method", required=True)
    parser.add_argument("--tuning", choices=("lora", "full"))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--caches", action="store_true", help="train from caches on the disk, as after prepare")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as on the command line of alignbench")
    args = parser.parse_args()
    figures = measure(args.model, args.method, args.scale, args.tuning, args.steps, args.overrides, args.caches)
    print(show(figures))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
