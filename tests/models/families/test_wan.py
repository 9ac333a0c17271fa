"""Wan: one frame of a video model, Euler's steps in place of UniPC's, and what its pipeline cleans and pads."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel

from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.families import wan
from alignbench.models.families.wan import Wan
from alignbench.models.schedulers import make_scheduler
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter
from alignbench.models.tiny_random.wan import tiny_wan
from tests.of_the_pipeline import latents_of

PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture
def model():
    return tiny_adapter("wan")


def noise_for(model):
    return torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def test_the_solver_it_is_published_with_is_given_back_and_ends_where_eulers_steps_do(model):
    noise, conditioning = noise_for(model), model.encode_prompts(PROMPTS)
    published = tiny_wan().scheduler
    made = make_scheduler("UniPCMultistep", model.pipeline.scheduler, model.schedulers)
    assert isinstance(made, UniPCMultistepScheduler)
    for scheduler in (published, made):
        scheduler.set_timesteps(4)
    assert torch.equal(made.sigmas, published.sigmas)
    gaps = []
    for num_steps in (4, 40):
        ours = model.sample(noise, conditioning, model.noise_levels(num_steps)).latents
        model.pipeline.scheduler, own = published, model.pipeline.scheduler
        arguments = model.generation_arguments(2, 1.0)
        theirs = latents_of(model, PROMPTS, noise, num_inference_steps=num_steps, **arguments)
        model.pipeline.scheduler = own
        gaps.append(float((ours - theirs).std()))
    assert gaps[0] > 2 * gaps[1]
    assert gaps[1] < 0.1


def test_every_setting_of_the_published_solver_is_given_back():
    pipeline = tiny_wan()
    published = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, solver_order=3, flow_shift=5.0)
    pipeline.scheduler = published
    model = Wan(pipeline, RESOLUTION, ["to_q"])
    assert model.published is published
    assert model.pipeline.scheduler.shift == 5.0
    made = make_scheduler("UniPCMultistep", model.pipeline.scheduler, model.schedulers)
    assert (made.config.solver_order, made.config.flow_shift, made.config.solver_type) == (3, 5.0, "bh2")


def test_a_solver_of_diffusion_is_refused():
    pipeline = tiny_wan()
    pipeline.scheduler = UniPCMultistepScheduler()
    with pytest.raises(UserError, match="without use_flow_sigmas"):
        Wan(pipeline, RESOLUTION, ["to_q"])


def test_features_are_zeros_after_the_prompt_and_the_network_reads_them(model):
    embeds = model.encode_prompts(["ab"]).prompt_embeds
    num_tokens = len(model.pipeline.tokenizer("ab")["input_ids"])
    assert embeds.shape[1] == 32
    assert (embeds[0, num_tokens:] == 0).all()
    assert (embeds[0, :num_tokens] != 0).any(1).all()
    noise, timesteps = noise_for(model)[:1], torch.tensor([500.0])
    conditioning = model.encode_prompts(["ab"])
    with torch.no_grad():
        whole = model.predict(noise, timesteps, conditioning)
        cut = model.predict(noise, timesteps, type(conditioning)(embeds[:, :num_tokens]))
    assert not torch.allclose(whole, cut, atol=1e-3)


def test_prompts_are_cleaned_before_they_are_encoded(model):
    dirty, clean = (model.encode_prompts([text]).prompt_embeds for text in ("  a &amp;  b ", "a & b"))
    assert torch.equal(dirty, clean)


def test_without_ftfy_nothing_is_encoded_in_another_way(monkeypatch):
    monkeypatch.setattr(wan, "is_ftfy_available", lambda: False)
    with pytest.raises(UserError, match="pip install ftfy"):
        tiny_adapter("wan")


@pytest.mark.parametrize(
    "settings",
    [{"boundary_ratio": 0.9}, {"expand_timesteps": True}, {"transformer_2": "another"}],
    ids=["boundary_ratio", "expand_timesteps", "transformer_2"],
)
def test_wan_2_2_is_refused(settings):
    if "transformer_2" in settings:
        config = tiny_wan().transformer.config
        settings = {"transformer_2": WanTransformer3DModel.from_config(config)}
    with pytest.raises(UserError, match=r"holds Wan 2\.2"):
        tiny_adapter("wan", **settings)


def test_norms_that_stay_float32_do_not_decide_what_the_network_computes_in(model):
    network = model.denoiser.to(torch.bfloat16)
    for name, parameter in network.named_parameters():
        if any(kept in name for kept in network._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    assert next(network.parameters()).dtype == torch.float32
    assert model.dtype == torch.bfloat16
    assert model.sampling_dtype == torch.float32
    model.pipeline.text_encoder.to(torch.bfloat16)
    with torch.no_grad():
        assert (
            model.predict(noise_for(model), torch.tensor([500.0, 500.0]), model.encode_prompts(PROMPTS))
            .isfinite()
            .all()
        )
    assert len(Sampler(model, 2, 4.0)([("a", 0), ("b", 0)], PROMPTS, noise_for(model))) == 2
