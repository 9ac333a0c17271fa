"""B17: rollouts take any spacing of timesteps and any number of steps, as diffusers' own DDIM visits them."""

import pytest
from diffusers import DDIMScheduler

from alignbench.errors import UserError
from alignbench.models.families.stable_diffusion import StableDiffusion
from alignbench.models.tiny_random import RESOLUTION
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from tests.program import alignbench, manifests

PROCESS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
SPACINGS = ["leading", "trailing", "linspace"]


def pipeline_with(spacing):
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = DDIMScheduler(**PROCESS, timestep_spacing=spacing, steps_offset=1, set_alpha_to_one=False)
    return pipeline


@pytest.fixture(scope="module", params=SPACINGS)
def model(request):
    return StableDiffusion(pipeline_with(request.param), RESOLUTION, ["to_q"])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 25, 30, 50, 333, 999])
def test_a_rollout_visits_what_the_pipeline_visits(model, num_steps):
    own = DDIMScheduler.from_config(model.pipeline.scheduler.config)
    own.set_timesteps(num_steps)
    levels = model.noise_levels(num_steps)
    assert levels.timesteps.tolist() == own.timesteps.tolist()
    assert len(levels.level) == num_steps + 1
    assert (levels.level.sigma.diff() <= 0).all()


def test_more_steps_than_timesteps_are_refused(model):
    with pytest.raises(
        UserError, match=r"1001 sampling steps are too many for DDIMScheduler, which has (1000|999) time"
    ):
        model.noise_levels(1001)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_srpo_rolls_out_and_trains(spacing, tmp_path):
    pipeline_with(spacing).save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    alignbench(
        "method=srpo", "model=sd15", f"model.pretrained_model_name_or_path={tmp_path}/model", "model.resolution=32",
        "data=prompts", f"data.path={tmp_path}/prompts.txt", "reward=shapes_clip", "method.num_rollout_steps=25",
        "train.max_train_steps=1", "train.total_batch_size=1", "train.micro_batch_size=1", "stages=[train]",
        "evaluators=shapes", "prompts=shapes", "train.mixed_precision=no", "memory=default",
        f"results={tmp_path}/results",
    )  # fmt: skip
    (manifest,) = manifests(tmp_path / "results").values()
    assert manifest["budget"]["optimizer_steps"] == 1
