"""The one interface between methods and model families."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from alignbench.batch import Conditioning
from alignbench.schedule import Level, NoiseSchedule


@dataclass(frozen=True)
class Ladder:
    """The noise levels one sampling walks down.

    Attributes:
        timesteps: label given to the network before each step, [n], float64, 0..1000, noisy to clean.
        level: level of the latents before each step and after the last, alpha and sigma [n + 1].
    """

    timesteps: Tensor
    level: Level

    def __len__(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class Trajectory:
    """One sampling.

    Attributes:
        latents: where it ended, [B, C, h, w].
        noisy_latents: the state before each step, n tensors [B, C, h, w]; empty unless asked for.
    """

    latents: Tensor
    noisy_latents: list[Tensor]


class ModelAdapter(ABC):
    """A text-to-image model: the only thing that knows Stable Diffusion from FLUX.

    Wraps a diffusers pipeline. Latents everywhere are unpacked, shifted and scaled as the denoiser expects; network time
    is `timesteps` in 0..1000; predictions come back in float32.

    Attributes:
        pipeline: the diffusers pipeline whose parts are used.
        policy: the network being trained; the loop replaces it by its prepared (wrapped) form.
        schedule: how noise and latents mix and what a prediction means.
        resolution: side of the square images, in pixels.
        train_guidance_scale: guidance given to a guidance-distilled network in training; None for other families.
        network_passes: work done so far, in forward passes on one image; a pass with a gradient counts 3 with its
            backward pass. Recomputation by gradient checkpointing is not counted.
    """

    denoiser_name: str  # attribute of the pipeline: "unet" or "transformer"
    lora_targets: Sequence[str]

    def __init__(self, pipeline, resolution: int, lora_targets: Sequence[str], train_guidance_scale: float | None = None):
        self.pipeline = pipeline
        self.resolution = resolution
        self.lora_targets = list(lora_targets)
        self.train_guidance_scale = train_guidance_scale
        self.schedule = NoiseSchedule.from_scheduler(pipeline.scheduler)
        self.policy: nn.Module = self.denoiser
        self._frozen: nn.Module | None = None
        self.network_passes = 0.0
        for name in self.frozen_parts:
            getattr(pipeline, name).requires_grad_(False).eval()
        self.denoiser.requires_grad_(False).eval()

    # ---- parts

    @property
    @abstractmethod
    def frozen_parts(self) -> Sequence[str]:
        """Pipeline attributes that are never trained: the VAE and the text encoders."""

    @property
    def denoiser(self) -> nn.Module:
        """The network itself, without the wrappers of a distributed run."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Move the pipeline."""
        self.pipeline.to(device)

    # ---- text and pixels

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the features of each prompt, without a gradient."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Return latents [B, C, h, w] of pixels [B, 3, H, W] in 0..1, without a gradient.

        Args:
            generators: one CPU generator an image, to sample the VAE posterior; its mode is taken without them.
        """

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Return pixels [B, 3, H, W] in 0..1 (clamped) of latents, differentiable."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of one image."""

    def unconditional(self, guidance_scale: float | None, num: int) -> Conditioning | None:
        """Return `num` rows of the empty prompt where `guidance_scale` needs them in `predict`, else None."""
        if self.guidance_is_distilled or guidance_scale in (None, 1):
            return None
        return self.encode_prompts([""]).repeat(num)

    # ---- noise levels

    @abstractmethod
    def ladder(self, num_inference_steps: int) -> Ladder:
        """Return the levels that the family's own pipeline visits, the clean end included."""

    @abstractmethod
    def sample_timesteps(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw the family's training timesteps, [B], float64 on the CPU."""

    # ---- the network

    @abstractmethod
    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call `self.policy` once. `guidance` [B] reaches only guidance-distilled networks."""

    @property
    def guidance_is_distilled(self) -> bool:
        """Whether guidance is an input of the network instead of a second call."""
        return False

    def call(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Return the network's output in float32, and count the work."""
        prediction = self.forward(noisy_latents, timesteps, conditioning, guidance).float()
        self.network_passes += len(noisy_latents) * (3 if prediction.requires_grad else 1)
        return prediction

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        guidance_scale: float | None = None,
        unconditional: Conditioning | None = None,
        detach_unconditional: bool = False,
    ) -> Tensor:
        """Return the prediction of the policy (or of the reference, inside `reference()`).

        Args:
            noisy_latents: [B, C, h, w].
            timesteps: [B], 0..1000.
            conditioning: B rows.
            guidance_scale: for a guidance-distilled family the input of the network (default: `train_guidance_scale`);
                for others the weight of classifier-free guidance, which needs `unconditional`.
            unconditional: features of the empty or negative prompt, B rows.
            detach_unconditional: whether to send no gradient through the unconditional call.

        Returns:
            [B, C, h, w], float32.

        Raises:
            ValueError: if guidance and its parts do not match the family.
        """
        if self.guidance_is_distilled:
            if unconditional is not None:
                raise ValueError("guidance of this model is an input of its network; it takes no unconditional prompt")
            scale = self.train_guidance_scale if guidance_scale is None else guidance_scale
            guidance = torch.full((len(noisy_latents),), float(scale), device=noisy_latents.device)
            return self.call(noisy_latents, timesteps, conditioning, guidance)
        if unconditional is None:
            if guidance_scale not in (None, 1.0):
                raise ValueError("classifier-free guidance needs the unconditional prompt")
            return self.call(noisy_latents, timesteps, conditioning, None)
        if guidance_scale is None:
            raise ValueError("an unconditional prompt without a guidance_scale has no effect")
        if detach_unconditional:
            with torch.no_grad():
                empty = self.call(noisy_latents, timesteps, unconditional, None)
            full = self.call(noisy_latents, timesteps, conditioning, None)
        else:
            both = Conditioning.cat([unconditional, conditioning])
            doubled = self.call(noisy_latents.repeat(2, 1, 1, 1), timesteps.repeat(2), both, None)
            empty, full = doubled.chunk(2)
        return empty + guidance_scale * (full - empty)

    def sample(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        ladder: Ladder,
        guidance_scale: float | None = None,
        unconditional: Conditioning | None = None,
        grad_last: int = 0,
        keep_states: bool = False,
    ) -> Trajectory:
        """Walk down the ladder from `noise` by the deterministic step (DDIM, flow Euler).

        Args:
            noise: [B, C, h, w], unit Gaussian.
            grad_last: the last so many steps keep their graph (DRaFT); 0 keeps none.
            keep_states: whether to return the state before each step.
        """
        latents = noise
        states: list[Tensor] = []
        for number, timestep in enumerate(ladder.timesteps):
            if keep_states:
                states.append(latents)
            with torch.set_grad_enabled(number >= len(ladder) - grad_last):
                timesteps = timestep.to(latents.device).expand(len(latents))
                prediction = self.predict(latents, timesteps, conditioning, guidance_scale, unconditional)
                latents = self.schedule.step(latents, prediction, ladder.level[number], ladder.level[number + 1])
        return Trajectory(latents, states)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], noise: Tensor, num_inference_steps: int, guidance_scale: float
    ) -> list[Image.Image]:
        """Return one picture a prompt, made by the family's own diffusers pipeline from `noise` [B, C, h, w]."""
        images = self.pipeline(
            prompt=list(prompts),
            latents=self.pack(noise).to(self.device, self.denoiser.dtype),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            height=self.resolution,
            width=self.resolution,
            **self.generation_arguments,
        ).images
        return images

    @property
    def generation_arguments(self) -> dict:
        """Further arguments of the family's pipeline call."""
        return {}

    def pack(self, latents: Tensor) -> Tensor:
        """Return latents in the layout that the family's pipeline takes."""
        return latents

    # ---- training and weights

    def prepare_training(self, tuning: Literal["full", "lora"], rank: int, alpha: float) -> None:
        """Make the policy trainable: all its weights, or adapters on its linear layers that start as the identity."""
        if tuning == "lora":
            from peft import LoraConfig

            lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(self.lora_targets), init_lora_weights=True)
            self.denoiser.add_adapter(lora)
        else:
            self.denoiser.requires_grad_(True)

    @property
    def is_lora(self) -> bool:
        """Whether the policy is the frozen start with adapters on it."""
        return bool(getattr(self.denoiser, "peft_config", None))

    def make_reference(self) -> None:
        """Keep the start for `reference()`. Free for adapters (they are switched off); a frozen copy otherwise."""
        if not self.is_lora:
            import copy

            self._frozen = copy.deepcopy(self.denoiser).requires_grad_(False).eval()

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Let `predict` and `sample` answer for the frozen start instead of the policy."""
        if self.is_lora:
            self.denoiser.disable_adapters()
            try:
                yield
            finally:
                self.denoiser.enable_adapters()
            return
        if self._frozen is None:
            raise RuntimeError("this run keeps no reference; a method that uses one sets needs_reference")
        policy, self.policy = self.policy, self._frozen
        try:
            yield
        finally:
            self.policy = policy

    def save_policy(self, folder: Path) -> None:
        """Write the trained weights as diffusers loads them: a network folder, or pytorch_lora_weights.safetensors."""
        if self.is_lora:
            from diffusers.utils import convert_state_dict_to_diffusers
            from peft import get_peft_model_state_dict

            layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.denoiser))
            self.pipeline.save_lora_weights(folder, **{f"{self.denoiser_name}_lora_layers": layers})
        else:
            self.denoiser.save_pretrained(folder / self.denoiser_name)

    def load_policy(self, folder: Path) -> None:
        """Take weights that `save_policy` wrote.

        Raises:
            FileNotFoundError: if the folder holds neither a network nor an adapter of this family.
        """
        if (folder / "pytorch_lora_weights.safetensors").is_file():
            self.pipeline.load_lora_weights(folder, local_files_only=True)
        elif (folder / self.denoiser_name / "config.json").is_file():
            loaded = type(self.denoiser).from_pretrained(folder / self.denoiser_name, local_files_only=True)
            self.denoiser.load_state_dict(loaded.state_dict())
        else:
            raise FileNotFoundError(
                f"{folder} holds neither {self.denoiser_name}/config.json nor pytorch_lora_weights.safetensors"
            )
