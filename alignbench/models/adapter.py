"""The one interface between methods and model families."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alignbench.batch import Conditioning
from alignbench.crop import CropBox
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import NoiseSchedule
from alignbench.errors import UserError
from alignbench.models.controlnet import ControlNetSupport
from alignbench.models.latents import ROWS_PER_CALL, LatentSpace
from alignbench.models.policy import Policy
from alignbench.models.predictor import Predictor
from alignbench.models.prompt_length import CutPrompts, count_cut
from alignbench.models.schedulers import DIFFUSION, FEW_STEP, OF_DIFFUSION, check_published, scheduler_name
from alignbench.models.weights.find_policy import DenoiserName
from alignbench.models.weights.without_weights import is_without_weights

CLIP_TOKENS = 77  # of a prompt, in all CLIP text encoders
NOT_DISTILLED = (
    "sampling.true_cfg_scale adds classifier-free guidance to a network that has its guidance as an input, which this "
    "one has not; set sampling.guidance_scale, which is that weight here"
)


class ModelAdapter(LatentSpace, Policy, Predictor):
    """A text-to-image model: the only thing that knows one family from another.

    Wraps a diffusers pipeline. Latents everywhere are unpacked, shifted and scaled as the denoiser expects. Those of
    images are [B, C, h, w]; those of a model of videos, which this text calls images, too, are [B, C, F, h, w].
    Network time is `timesteps` in 0..1000; predictions come back in float32 (float64 from a float64 network).

    Attributes:
        pipeline: the diffusers pipeline whose parts are used.
        policy: the network being trained; the loop replaces it by its prepared (wrapped) form.
        reference_network: frozen copy of the start, which the loop prepares as it does the policy; None where adapters
            can be switched off instead, or where nothing asked for a reference.
        published: the scheduler that the weights came with, before `sampler_of` replaced it.
        schedule: how noise and latents mix and what a prediction means.
        reward_vae: decodes for losses in place of the pipeline's VAE; None where that does it itself.
        resolution: side of the square images, in pixels.
        train_guidance_scale: guidance given to a guidance-distilled network in training; None for other families.
        no_prompt: what `encode_no_prompt` returns; encoded when first needed, unless it is given.
        network_passes: forward passes of the network so far, counted in samples, the reference's included.
    """

    pipeline_class: ClassVar[str]  # as written in model_index.json
    denoiser_name: ClassVar[DenoiserName]
    frozen_parts: ClassVar[Sequence[str]]  # attributes never trained: the VAE and the text encoders (some may be None)
    patch_size: ClassVar[int] = 1  # latent pixels along the side of one network token
    no_guidance_scale: ClassVar[float] = 1.0  # the largest scale that is no guidance, in the family's own sense
    pads_prompts: ClassVar[bool] = True  # whether all prompts have features of one length, padding included
    takes_negative_prompt: ClassVar[bool] = True  # whether its pipeline guides away from a prompt that is given
    samples_alone: ClassVar[bool] = False  # whether other prompts of a call change the image that its pipeline makes
    is_told_sizes: ClassVar[bool] = False  # whether conditioning says how large images were and what was cut off
    schedulers: ClassVar[Mapping[str, Mapping[str, Any]]] = DIFFUSION  # that may generate in place of the model's own
    published_schedulers: ClassVar[frozenset[str]] = OF_DIFFUSION  # that weights of the family may come with
    # how the keys of each part begin in a single file of the original layout, the denoiser's first; a part that a file
    # lacks comes from `model.config`, and a family without any is not read from single files
    single_file_keys: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # what its pipeline is given in place of a processor that it asks as soon as it is made, where there is none
    stand_ins: ClassVar[Mapping[str, Callable[[], Any]]] = {}
    controlnet: ClassVar[ControlNetSupport | None] = None  # None: it is not sampled under control, for this reason:
    no_controlnet: ClassVar[str] = "its family has no ControlNet here"

    def __init__(
        self,
        pipeline: Any,
        resolution: int,
        lora_targets: Sequence[str],
        train_guidance_scale: float | None = None,
        vae_dtype: str = "float32",
    ) -> None:
        if type(pipeline).__name__ != self.pipeline_class:
            raise UserError(
                f"model.pretrained_model_name_or_path holds a {type(pipeline).__name__}, but {type(self).__name__} "
                f"works with a {self.pipeline_class}; choose the `model` of that family"
            )
        self.pipeline = pipeline
        self.check_resolution(resolution, "model.resolution")
        self.resolution = resolution
        self.lora_targets = list(lora_targets)
        self.train_guidance_scale = train_guidance_scale
        self.published = pipeline.scheduler
        check_published(self.published_scheduler, self.published_schedulers, self.pipeline_class)
        pipeline.scheduler = self.sampler_of(self.published)
        self.schedule = NoiseSchedule.from_scheduler(pipeline.scheduler)
        self.policy: nn.Module = self.denoiser
        self.reference_network: nn.Module | None = None
        self.no_prompt: Conditioning | None = None
        self.reward_vae: Any = None
        self.network_passes = 0
        for part in (*self.frozen_networks, self.denoiser):
            part.requires_grad_(False).eval()
        nn.Module.to(pipeline.vae, getattr(torch, vae_dtype))  # diffusers' own `to` warns of an empty list
        pipeline.set_progress_bar_config(disable=True)

    # ---- parts

    @property
    def denoiser(self) -> Any:
        """The network itself, without the wrappers of a distributed run."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def frozen_networks(self) -> list[nn.Module]:
        """The networks that are never trained: the VAEs and the text encoders, but for those that were left out."""
        parts = (*(getattr(self.pipeline, name) for name in self.frozen_parts), self.reward_vae)
        # a pipeline may lack a text encoder
        return [part for part in parts if part is not None and not is_without_weights(part)]

    @property
    def device(self) -> torch.device:
        """Where the network lies; where it was left out, where the others do."""
        network = next((part for part in self.frozen_networks if is_without_weights(self.denoiser)), self.denoiser)
        return next(network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in (outside autocast); its adapters may be kept in float32."""
        return next(self.denoiser.parameters()).dtype

    @property
    def encodes_prompts(self) -> bool:
        """Whether the text encoders are there; training from a cache leaves them out."""
        names = [name for name in self.frozen_parts if name != "vae"]
        return not any(
            is_without_weights(getattr(self.pipeline, name)) for name in names if getattr(self.pipeline, name)
        )

    @property
    def encodes_pixels(self) -> bool:
        """Whether the VAE is there."""
        return not is_without_weights(self.pipeline.vae)

    def to(self, device: torch.device | str) -> None:
        """Move the pipeline and the reference."""
        self.pipeline.to(device)
        if self.reference_network is not None:
            self.reference_network.to(device)

    # ---- text and pixels

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the features of each prompt, without a gradient."""

    def encode_no_prompt(self) -> Conditioning:
        """Return what the network is given in place of a prompt, one row, without a gradient."""
        return self.encode_prompts([""])

    @property
    def prompts_per_call(self) -> int:
        """Prompts that are encoded together: 8 of 77 tokens, fewer longer ones, and one where lengths differ."""
        if not self.pads_prompts:
            return 1
        num_tokens = self.blank_conditioning(1).prompt_embeds.shape[1]
        return max(1, min(ROWS_PER_CALL, ROWS_PER_CALL * CLIP_TOKENS // num_tokens))

    @property
    def prompt_limits(self) -> dict[str, int]:
        """Tokens of a prompt that are read, by the tokenizer's name in the pipeline."""
        names = ("tokenizer", "tokenizer_2", "tokenizer_3")
        found = {name: getattr(self.pipeline, name, None) for name in names}
        return {name: tokenizer.model_max_length for name, tokenizer in found.items() if tokenizer is not None}

    def shortened(self, prompts: Sequence[str]) -> list[str]:
        """Return prompts as the family's pipeline is given them, which cuts most of them itself."""
        return list(prompts)

    def cut_prompts(self, prompts: Sequence[str]) -> dict[str, CutPrompts]:
        """Return how prompts are cut, by the kind of the tokenizers that cut any."""
        parts = {name: getattr(self.pipeline, name) for name in self.prompt_limits}
        tokenizers = {name: getattr(part, "tokenizer", part) for name, part in parts.items()}  # of a processor, its own
        return count_cut(prompts, [(tokenizers[name], limit) for name, limit in self.prompt_limits.items()])

    @property
    def text_settings(self) -> dict[str, int]:
        """What else than networks and tokenizers decides what `encode_prompts` returns."""
        return {}

    @abstractmethod
    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns; no text encoder is asked."""

    def with_crops(self, conditioning: Conditioning, boxes: Sequence[CropBox]) -> Conditioning:
        """Return conditioning that says how each row's image was brought to its size, where the family is told."""
        return conditioning

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def unconditional(self, guidance_scale: float | None, conditioning: Conditioning) -> Conditioning | None:
        """Return `conditioning` without its prompts where `guidance_scale` needs that in `predict`, else None."""
        return self.without_prompts(conditioning) if self.is_guided(guidance_scale) else None

    def without_prompts(self, conditioning: Conditioning) -> Conditioning:
        """Return what the family's pipeline guides away from: each row without its prompt, all else as it was."""
        if self.no_prompt is None:
            with torch.autocast(self.device.type, enabled=False):  # as the features of all other prompts
                self.no_prompt = self.encode_no_prompt()
        return self.no_prompt.to(self.device).repeat(len(conditioning))

    # ---- noise levels

    @property
    def published_scheduler(self) -> str:
        """Name of the scheduler that the weights came with."""
        return scheduler_name(type(self.published).__name__)

    def sampler_of(self, scheduler: Any) -> Any:
        """Return the scheduler by which `sample` and, unless another is chosen, the pipeline sample.

        Args:
            scheduler: the one that the weights came with.

        Raises:
            UserError: if it is set so that the family's sampler would make other images.
        """
        return scheduler

    @property
    def remarks(self) -> list[str]:
        """What is done with these weights that nobody asked for, a line each, for the head of a run."""
        own, published = scheduler_name(type(self.pipeline.scheduler).__name__), self.published_scheduler
        spacing, before = (one.config.get("timestep_spacing") for one in (self.pipeline.scheduler, self.published))
        remarks = []
        if own != published:
            way = f"sampling.scheduler={published}" if published in self.schedulers else "sampling.scheduler"
            remarks.append(
                f"sampler     {own} in place of the {published} that the weights come with, in rollouts and, unless "
                f"{way} is set, in evaluation"
            )
        if None not in (before, spacing) and before != spacing:
            remarks.append(
                f"sampler     timestep_spacing={spacing} in place of {before}, as the noise process ends in noise alone"
            )
        return remarks

    @classmethod
    def takes_few_steps(
        cls, index: Mapping[str, Any], denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> bool:
        """Say whether weights were distilled for few steps.

        Args:
            index: the model_index.json that they come with.
            denoiser: its config.json.
            scheduler: the scheduler_config.json that they come with.
        """
        return scheduler_name(scheduler["_class_name"]) in FEW_STEP

    def check_num_steps(self, num_inference_steps: int) -> None:
        """Refuse a number of steps in which the family's pipeline would not sample these weights."""

    @abstractmethod
    def noise_levels(self, num_inference_steps: int) -> NoiseLevels:
        """Return the levels that the family's own pipeline visits, the clean end included."""

    @abstractmethod
    def sample_timesteps(
        self, batch_size: int, generator: torch.Generator, latent_size: Sequence[int] | None = None
    ) -> Tensor:
        """Draw the family's training timesteps, [B], float64 on the CPU.

        Args:
            latent_size: height and width of the latents to be noised, where they are not the model's own: larger images
                need more noise to lose the same.
        """

    # ---- the family's pipeline

    def generation_arguments(
        self,
        num_prompts: int,
        guidance_scale: float,
        negative_prompt: str | None = None,
        true_cfg_scale: float | None = None,
    ) -> dict[str, Any]:
        """Return the arguments of the family's pipeline call that depend on the family.

        Args:
            guidance_scale: in the family's own sense.
            negative_prompt: what to guide away from; None for no prompt.
            true_cfg_scale: weight of classifier-free guidance beside that which was distilled into a network.

        Raises:
            UserError: if the family cannot be guided so.
        """
        if true_cfg_scale is not None:
            raise UserError(NOT_DISTILLED)
        arguments: dict[str, Any] = {"guidance_scale": guidance_scale}
        if negative_prompt is not None:
            arguments["negative_prompt"] = [negative_prompt] * num_prompts
        return arguments

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:
        """Return the arguments of the family's pipeline call by which images have so many pixels."""
        return {"height": height, "width": width}

    @property
    def sampling_dtype(self) -> torch.dtype:
        """What the family's pipeline holds latents in from step to step."""
        return self.dtype

    def pack(self, latents: Tensor) -> Tensor:
        """Return latents in the layout that the family's pipeline takes."""
        return latents

    def unpack(self, packed: Tensor, latent_size: Sequence[int]) -> Tensor:
        """Undo `pack` of latents of this height and width."""
        return packed

    def enable_checkpointing(self, network: bool, decoder: bool) -> None:
        """Compute activations of the network or the VAE's decoder anew in the backward pass, not keeping them."""
        if network:
            self.denoiser.enable_gradient_checkpointing()
        if decoder and self.loss_vae._supports_gradient_checkpointing:
            self.loss_vae.enable_gradient_checkpointing()
        self.checkpoints_decoding = decoder and not self.loss_vae._supports_gradient_checkpointing
