"""The mistakes: those that were measured when the families were added, and others of the same kinds.

Each was made in an adapter, or could be. On tiny pipelines it moves an image by 2e-2 to 0.5, or a gradient by half.
"""

from benchmarks.mutations.trial import Mutation

FAMILY = "alignbench.models.families."
ADAPTERS = "tests/models/test_adapters.py::"
OWN = "tests/models/families/test_"


def images(variant: str, guidance_scale: float = 1.0) -> str:
    """Return the test that compares images of a family with its pipeline's."""
    return f"{ADAPTERS}test_sampling_and_decoding_give_the_images_of_the_pipeline[{variant}-{guidance_scale}]"


def wide(variant: str) -> str:
    """Return the test that compares latents of wide images with the pipeline's."""
    return f"{ADAPTERS}test_wide_images_are_those_of_the_pipeline[{variant}]"


def ladder(variant: str, num_steps: int) -> str:
    """Return the test that compares timesteps with those that the pipeline visits."""
    return f"{ADAPTERS}test_the_ladder_is_what_the_pipeline_visits[{variant}-{num_steps}]"


MUTATIONS = [
    # ---- Qwen-Image
    Mutation(
        "qwen_image: a guided prediction keeps its own length",
        f"{FAMILY}qwen_image",
        "tokens = to_tokens(guided, self.patch_size) * (length / given)",
        "tokens = to_tokens(guided, self.patch_size)",
        images("qwen_image", 4.0),
    ),
    Mutation(
        "qwen_image: length is that of a latent pixel, not of a token",
        f"{FAMILY}qwen_image",
        """vector_norm(to_tokens(one, self.patch_size), dim=-1, keepdim=True) for one in (conditional, guided)
        )
        tokens = to_tokens(guided, self.patch_size) * (length / given)""",
        """vector_norm(one, dim=1, keepdim=True) for one in (conditional, guided)
        )
        tokens = to_tokens(guided * (length / given), self.patch_size)""",
        images("qwen_image", 4.0),
    ),
    Mutation(
        "qwen_image: padding is attended to",
        f"{FAMILY}qwen_image",
        "encoder_hidden_states_mask=conditioning.text_mask",
        "encoder_hidden_states_mask=None",
        images("qwen_image"),
    ),
    Mutation(
        "qwen_image: no prompt is the empty prompt, not a blank",
        f"{FAMILY}qwen_image",
        "return self.encode_prompts([NO_PROMPT])",
        'return self.encode_prompts([""])',
        images("qwen_image", 4.0),
    ),
    Mutation(
        "qwen_image: levels are not stretched to the scheduler's last one",
        "alignbench.models.flow_adapter",
        "scheduler = copy.deepcopy(self.pipeline.scheduler)  # set_timesteps changes it",
        "scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config, shift_terminal=None)",
        ladder("qwen_image", 7),
    ),
    Mutation(
        "qwen_image: channels are not normalised",
        "alignbench.models.frame_latents",
        "return (codes - mean) / std",
        "return codes",
        "tests/models/test_frame_latents.py::test_each_channel_has_its_own_mean_and_scale[qwen_image]",
    ),
    # ---- Qwen-Image 2.1
    Mutation(
        "qwen_image_21: prompts of a call are padded",
        f"{FAMILY}qwen_image_21",
        "if mask is None else mask.sum(1).tolist()",
        "",
        images("qwen_image_21", 4.0),
    ),
    Mutation(
        "qwen_image_21: rows do not come back in their order",
        f"{FAMILY}qwen_image_21",
        "return torch.cat(predictions)[order.to(noisy_latents.device)]",
        "return torch.cat(predictions)",
        f"{OWN}qwen_image_21.py::test_rows_keep_their_places_and_equal_lengths_share_a_call",
    ),
    Mutation(
        "qwen_image_21: the pipeline is called with several prompts",
        f"{FAMILY}qwen_image_21",
        "samples_alone = True",
        "samples_alone = False",
        f"{OWN}qwen_image_21.py::test_the_pipeline_mixes_prompts_of_a_call_and_the_sampler_does_not_let_it",
    ),
    Mutation(
        "qwen_image_21: training images are half transparent",
        f"{FAMILY}qwen_image_21",
        "torch.ones_like(pixels[:, :1])",
        "torch.zeros_like(pixels[:, :1])",
        f"{OWN}qwen_image_21.py::test_images_are_encoded_as_opaque",
    ),
    Mutation(
        "qwen_image_21: what is transparent is black",
        f"{FAMILY}qwen_image_21",
        "return opacity * colours + (1 - opacity)",
        "return opacity * colours - (1 - opacity)",
        f"{OWN}qwen_image_21.py::test_what_is_transparent_shows_white_and_half_of_it_where_it_is_half_so",
    ),
    Mutation(
        "qwen_image_21: noise levels that come with the weights are not taken",
        f"{FAMILY}qwen_image_21",
        "return super().start_sigmas(num_inference_steps) if own is None else own",
        "return super().start_sigmas(num_inference_steps)",
        f"{OWN}qwen_image_21.py::test_steps_that_come_with_the_weights_are_taken_and_others_are_refused",
    ),
    # ---- Z-Image
    Mutation(
        "z_image: guidance has the usual sense",
        f"{FAMILY}z_image",
        "return 1 + guidance_scale",
        "return guidance_scale",
        images("z_image", 4.0),
    ),
    Mutation(
        "z_image: time runs from images to noise",
        f"{FAMILY}z_image",
        "(self.schedule.num_train_timesteps - timesteps.float())",
        "timesteps.float()",
        images("z_image"),
    ),
    Mutation(
        "z_image: the prediction is latents - noise",
        f"{FAMILY}z_image",
        "return -torch.stack(predictions)",
        "return torch.stack(predictions)",
        images("z_image"),
    ),
    Mutation(
        "z_image: padding of a prompt is given to the network",
        f"{FAMILY}z_image",
        "for row in conditioning.text_rows]",
        "for row in conditioning.prompt_embeds]",
        images("z_image"),
    ),
    Mutation(
        "z_image: noise levels have the last digits of NumPy",
        f"{FAMILY}z_image",
        "return torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()",
        "return super().start_sigmas(num_inference_steps) or []",
        ladder("z_image", 20),
    ),
    Mutation(
        "z_image: the pipeline overwrites the prompts that it is given",
        f"{FAMILY}z_image",
        "list(prompts),  # which the pipeline overwrites",
        "prompts,",
        f"{OWN}z_image.py::test_prompts_are_left_as_they_are",
    ),
    # ---- FLUX.2
    Mutation(
        "flux2_klein: noise levels are shifted as the scheduler says",
        f"{FAMILY}flux2",
        "return compute_empirical_mu(num_tokens, num_inference_steps or self.shift_steps)",
        "return super().shift_exponent(num_tokens) or 0.0",
        ladder("flux2_klein", 7),
    ),
    Mutation(
        "flux2_klein: all words are at one place",
        f"{FAMILY}flux2",
        "txt_ids=pad(words[:, None], (3, 0))",
        "txt_ids=pad(0 * words[:, None], (3, 0))",
        images("flux2_klein"),
    ),
    Mutation(
        "flux2_klein: the batch norm adds nothing to a variance",
        f"{FAMILY}flux2",
        "(norm.running_var + epsilon).sqrt()",
        "norm.running_var.sqrt()",
        images("flux2_klein"),
    ),
    Mutation(
        "flux2_klein: codes that the pipeline ends with are taken for normalised",
        f"{FAMILY}flux2_klein",
        "return self.patches(packed)",
        "return self.patches(packed) * 0.5",
        wide("flux2_klein"),
    ),
    Mutation(
        "flux2_klein: distilled weights are guided",
        f"{FAMILY}flux2_klein",
        "return 1.0 if self.pipeline.config.is_distilled else guidance_scale",
        "return guidance_scale",
        images("flux2_klein_distilled", 4.0),
    ),
    Mutation(
        "flux2: guidance does not reach the network",
        f"{FAMILY}flux2",
        "guidance=guidance,",
        "guidance=None if guidance is None else 0 * guidance + 1,",
        images("flux2", 4.0),
    ),
    # ---- Sana
    Mutation(
        "sana: an instruction precedes no prompt",
        f"{FAMILY}sana",
        'return self._encode([""], None)',
        'return self.encode_prompts([""])',
        images("sana", 4.0),
    ),
    Mutation(
        "sana: no instruction precedes a prompt",
        f"{FAMILY}sana",
        'call["complex_human_instruction"].default)',
        "None)",
        images("sana"),
    ),
    Mutation(
        "sana: codes are not scaled",
        f"{FAMILY}sana",
        "return codes * self.pipeline.vae.config.scaling_factor",
        "return codes",
        f"{OWN}sana.py::test_codes_are_scaled_and_have_no_spread",
    ),
    Mutation(
        "sana: decoding keeps what it computes",
        "alignbench.models.adapter",
        "self.checkpoints_decoding = decoder and not self.loss_vae._supports_gradient_checkpointing",
        "self.checkpoints_decoding = False",
        f"{OWN}sana.py::test_decoding_anew_in_the_backward_pass_changes_no_gradient",
    ),
    # ---- Lumina-Image 2.0
    Mutation(
        "lumina2: length is that of all channels, not of a row",
        f"{FAMILY}lumina2",
        "(vector_norm(one, dim=-1, keepdim=True)",
        "(vector_norm(one, dim=1, keepdim=True)",
        images("lumina2", 4.0),
    ),
    Mutation(
        "lumina2: a system prompt precedes no prompt",
        f"{FAMILY}lumina2",
        """*_, embeds, mask = self.pipeline.encode_prompt(
            [""], negative_prompt=[""], device""",
        """embeds, mask, *_ = self.pipeline.encode_prompt(
            [""], negative_prompt=[""], device""",
        images("lumina2", 4.0),
    ),
    Mutation(
        "lumina2: time runs from images to noise",
        f"{FAMILY}lumina2",
        "timestep=1 - timesteps / self",
        "timestep=timesteps / self",
        images("lumina2"),
    ),
    # ---- Chroma
    Mutation(
        "chroma: padding is left out of attention",
        f"{FAMILY}chroma",
        "pad(conditioning.known_mask.to(self.dtype), (0, tokens.shape[1]), value=1.0)",
        "pad(conditioning.known_mask, (0, tokens.shape[1]), value=True)",
        images("chroma"),
    ),
    Mutation(
        "chroma: checkpoints lose the mask",
        f"{FAMILY}chroma",
        "if isinstance(block, ChromaSingleTransformerBlock):",
        "if False:",
        f"{ADAPTERS}test_gradient_checkpointing_changes_memory_not_gradients[chroma]",
    ),
    # ---- Wan
    Mutation(
        "wan: prompts are as long as the pipeline's encoder has them by default",
        f"{FAMILY}wan",
        "            max_sequence_length=self.max_sequence_length,\n",
        "",
        images("wan"),
    ),
    Mutation(
        "wan: channels are not scaled back",
        "alignbench.models.frame_latents",
        "return latents * std + mean",
        "return latents + mean",
        images("wan"),
    ),
    # ---- families that were there before
    Mutation(
        "stable_diffusion: guidance below 1 goes towards no prompt",
        "alignbench.models.predictor",
        "self.guidance_weight(guidance_scale) > 1",
        "self.guidance_weight(guidance_scale) != 1",
        "tests/cases/test_a16_guidance_of_1_and_less.py::"
        "test_guidance_below_1_is_that_of_1_and_costs_one_call_a_step[stable_diffusion-0.5]",
    ),
    Mutation(
        "stable_diffusion: noise alone is not where sampling begins",
        "alignbench.diffusion.ddim",
        'process["timestep_spacing"] = "trailing"',
        'process["timestep_spacing"] = process.get("timestep_spacing", "leading")',
        "tests/cases/test_a17_schedulers_of_a_folder.py::test_zero_snr_starts_where_there_is_noise_alone[leading]",
    ),
    Mutation(
        "stable_diffusion: weights that were distilled for a scheduler are sampled by another",
        "alignbench.models.schedulers",
        "if published in FEW_STEP and chosen is None:",
        "if False:",
        "tests/cases/test_a17_schedulers_of_a_folder.py::"
        "test_few_step_weights_are_sampled_by_their_own_scheduler_or_not_at_all[LCM]",
    ),
    Mutation(
        "stable_diffusion: a step of DDIM lands beside the next timestep",
        "alignbench.diffusion.ddim",
        "landing < 0 if last else landing == int(self.timesteps[number + 1])",
        "True",
        f"{ADAPTERS}test_ddim_lands_at_the_timesteps_it_visits_whatever_their_spacing[linspace-20]",
    ),
]
