"""Qwen-Image 2.1: a block-causal transformer with features of Qwen3-VL, rectified flow, pictures with transparency."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed
from torch.overrides import TorchFunctionMode

from alignbench.batch import Conditioning
from alignbench.context import all_reduce_max
from alignbench.errors import UserError
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.frame_latents import FrameLatents
from alignbench.models.latents import PackedLatents
from alignbench.models.policy import is_sharded
from alignbench.models.schedulers import FLOW_EULER

SLOT = 2  # latent pixels along the side of what one slot of the text encoder stands for


def rows_of_one_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return the numbers of those rows together that are of one length.

    Where several processes train, each row is alone. In a call a process may wait for the others, so all of them must
    make as many, whatever their prompts.
    """
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        return [[row] for row in range(len(lengths))]
    return [[row for row, own in enumerate(lengths) if own == length] for length in dict.fromkeys(lengths)]


class NoProcessor:
    """Stands in for the processor where no prompt will come: the pipeline counts its own text as soon as it is made."""

    @property
    def tokenizer(self) -> "NoProcessor":
        """The same."""
        return self

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        """Return one text without any token."""
        return [[]]

    def encode(self, text: str) -> list[int]:
        """Return one token, whatever the text."""
        return [0]


class MaskInMainMemory(TorchFunctionMode):
    """Lets the network choose by its mask among tensors of the meta device, which take no mask from elsewhere."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.where and any(isinstance(value, Tensor) and value.is_meta for value in args[1:]):
            args = (args[0].to("meta"), *args[1:])
        return func(*args, **(kwargs or {}))


class QwenImage21(FrameLatents, PackedLatents, FlowAdapter):
    """Qwen-Image 2.1 from text, guided by two calls where the scale is above 1.

    The position of an image counts the text before it, padding included, so prompts are never padded: the network and
    the pipeline are called with prompts of one length. The VAE has a channel for opacity: images are given to it as
    opaque, and what it decodes is laid on white, as the pipeline does with pictures for its text encoder.

    Args:
        max_sequence_length: tokens of a prompt, those that end its template included. The pipeline has no such limit;
            longer prompts are cut before it gets them.
    """

    pipeline_class = "QwenImage21Pipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    pads_prompts = False
    samples_alone = True
    schedulers = FLOW_EULER
    stand_ins: ClassVar = {"processor": NoProcessor}

    # ---- text

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the states before the last norm of the tokens of each prompt, without those of the system's text."""
        rows = [self.pipeline.encode_prompt([prompt], device=self.device)[0][0] for prompt in self.shortened(prompts)]
        return Conditioning.of_rows(rows)

    @property
    def prompt_limits(self) -> dict[str, int]:
        around = self.pipeline.processor.tokenizer(self.pipeline.prompt_template_t2i.format(""))["input_ids"]
        return {"processor": self.max_sequence_length - (len(around) - self.pipeline._drop_idx)}

    def shortened(self, prompts: Sequence[str]) -> list[str]:
        """Return prompts without what is not read: from the first token on that is one too many."""
        tokenizer, limit = self.pipeline.processor.tokenizer, self.prompt_limits["processor"]
        short = []
        for prompt in prompts:
            places = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
            short.append(prompt[: places[limit][0]] if len(places) > limit else prompt)
        return short

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the largest shapes that `encode_prompts` returns."""
        return Conditioning(self._zeros(num_prompts, self.max_sequence_length, self.denoiser.config.context_in_dim))

    # ---- latents

    def posterior_of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the codes of opaque pixels, [B, C, h, w] each."""
        return super().posterior_of(torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1))

    def decode(self, latents: Tensor, vae: Any) -> Tensor:
        """Return the picture on white, [B, 3, H, W]."""
        colours, alpha = super().decode(latents, vae).split([3, 1], dim=1)
        opacity = alpha / 2 + 0.5
        return opacity * colours + (1 - opacity)

    @property
    def side_multiple(self) -> int:
        """What sides in pixels are multiples of, so that they make whole slots."""
        return self.latent_factor * SLOT

    # ---- noise levels

    @classmethod
    def takes_few_steps(
        cls, index: Mapping[str, Any], denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> bool:
        """Take weights that come with noise levels of their own for those of Turbo."""
        return index.get("sample_sigmas") is not None

    def check_num_steps(self, num_inference_steps: int) -> None:
        """Refuse other steps than those that weights were distilled for, which the pipeline would take in any case."""
        own = self.pipeline.config.sample_sigmas
        if own is not None and num_inference_steps != len(own):
            raise UserError(
                f"the weights are made for the {len(own)} steps of sample_sigmas in their model_index.json, not for "
                f"{num_inference_steps}; set model.num_inference_steps={len(own)}, and steps of a method likewise"
            )

    def start_sigmas(self, num_inference_steps: int) -> Sequence[float] | None:
        """Return those that come with the weights, else evenly spaced ones from 1 to 1/n."""
        self.check_num_steps(num_inference_steps)
        own = self.pipeline.config.sample_sigmas
        return super().start_sigmas(num_inference_steps) if own is None else own

    # ---- the network

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer once for each length of prompt."""
        mask, num_tokens = conditioning.text_mask, conditioning.prompt_embeds.shape[1]
        lengths = [num_tokens] * len(noisy_latents) if mask is None else mask.sum(1).tolist()
        groups = rows_of_one_length(lengths)
        idle = groups[:1] * self._num_idle(len(groups))
        predictions = [
            self._call_network(
                noisy_latents[rows], timesteps[rows], conditioning.prompt_embeds[rows, : lengths[rows[0]]]
            )
            for rows in groups + idle
        ][: len(groups)]
        order = torch.tensor([row for rows in groups for row in rows]).argsort()
        return torch.cat(predictions)[order.to(noisy_latents.device)]

    def _num_idle(self, num_calls: int) -> int:
        """Return how many calls more another process makes that shares the weights.

        Without a gradient processes may have unlike numbers of rows, as in an inversion.
        """
        if torch.is_grad_enabled() or not is_sharded(self.policy):
            return 0
        return all_reduce_max(num_calls, self.device, distributed.get_world_size()) - num_calls

    def _call_network(self, noisy_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Call the transformer with prompts of one length."""
        num, (height, width) = len(noisy_latents), noisy_latents.shape[-2:]
        num_words, num_slots = prompt_embeds.shape[1], height * width // SLOT**2
        # the network counts with its mask, which needs numbers: of a network without memory it lies in main memory
        without_memory = noisy_latents.is_meta
        device = "cpu" if without_memory else noisy_latents.device
        is_image = torch.arange(num_words + num_slots, device=device) >= num_words
        with MaskInMainMemory() if without_memory else nullcontext():
            prediction = self.policy(
                hidden_states=self.pack(noisy_latents).to(self.dtype),
                # rounded to the network's dtype before the division, as the pipeline does
                timestep=timesteps.to(self.dtype) / self.schedule.num_train_timesteps,
                encoder_hidden_states=prompt_embeds.to(self.dtype),
                img_shapes=[[(1, height, width)]] * num,
                img_mask=is_image.expand(num, -1),
                return_dict=False,
            )[0]
        return self.unpack(prediction[:, -height * width :], (height, width))  # what comes before is of the text

    def generation_arguments(
        self,
        num_prompts: int,
        guidance_scale: float,
        negative_prompt: str | None = None,
        true_cfg_scale: float | None = None,
    ) -> dict[str, Any]:
        """Guide away from the empty prompt or from the one that is given; the pipeline calls the scale true_cfg_scale.

        Its cache of the text's keys and values is left out: it would mix those of policy and start where both are
        asked.
        """
        arguments = super().generation_arguments(num_prompts, guidance_scale, negative_prompt, true_cfg_scale)
        arguments = {"true_cfg_scale": arguments.pop("guidance_scale"), "use_kv_cache": False}
        if self.is_guided(guidance_scale):
            arguments["negative_prompt"] = self.shortened([negative_prompt or ""]) * num_prompts
        return arguments
