"""A15: a user who types a method and a model gets the paper's optimizer, and can type the released SRPO as one word."""

import pytest
import torch

from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from methods.srpo import SRPO


@pytest.mark.parametrize(
    ("pair", "optimizer"),
    [
        *(
            (f"method={method} model=sdxl", "transformers.Adafactor")
            for method in ("dpo", "sdpo", "sft", "sft_all", "smpo", "smpo_upstream", "inpo", "inpo_upstream")
        ),
        ("method=mapo model=sdxl", "bitsandbytes.optim.AdamW8bit"),
        ("method=kto model=sd15", "bitsandbytes.optim.AdamW8bit"),
        *((f"method={method} model=sd15", "torch.optim.AdamW") for method in ("dpo", "sdpo", "sft", "smpo", "inpo")),
        ("method=srpo model=flux", "torch.optim.AdamW"),
    ],
)
def test_a_recipe_trains_by_the_optimizer_of_the_published_launcher(pair, optimizer):
    given = [*pair.split(), "data=shapes"]
    assert composed(given).train.optimizer._target_ == optimizer
    assert composed([*given, "optimizer=prodigy"]).train.optimizer._target_ == "prodigyopt.Prodigy"


def test_the_released_srpo_trains_all_weights_at_the_released_rate_and_shift():
    cfg = composed(["method=srpo_released", "model=flux"])
    train = {"tuning": "full", "learning_rate": 5e-6, "max_train_steps": 19, "weights_dtype": "float32"}
    assert {key: cfg.train[key] for key in train} == train
    assert cfg.method.rollout_shift == 3.0
    assert composed(["method=srpo", "model=flux"]).train.tuning == "lora"


@pytest.mark.parametrize("model", ["sd15", "sdxl", "sd15_mini"])
def test_the_released_srpo_asks_no_shift_of_a_model_that_has_none(model):
    assert composed(["method=srpo_released", f"model={model}"]).method.rollout_shift is None


def rollout_levels(family, **values):
    method = object.__new__(SRPO)
    vars(method).update(num_rollout_steps=25, **values)
    return method.rollout_levels(tiny_adapter(family))


def test_the_released_rollout_starts_where_the_released_code_does():
    levels = rollout_levels("flux", rollout_shift=3.0)
    even = [1 - step / 25 for step in range(26)]  # sd3_time_shift(3, linspace(1, 0, 26)) of its SRPO.py
    expected = [3 * u / (1 + 2 * u) for u in even]
    assert levels.level.sigma.tolist() == pytest.approx(expected)
    assert levels.timesteps.tolist() == pytest.approx([1000 * sigma for sigma in expected[:-1]])


def test_a_rollout_without_a_shift_of_its_own_follows_the_model():
    own = tiny_adapter("flux").noise_levels(25)
    assert torch.equal(rollout_levels("flux", rollout_shift=None).level.sigma, own.level.sigma)
    released = rollout_levels("flux", rollout_shift=3.0)
    assert not torch.allclose(released.level.sigma, own.level.sigma, atol=0.01)


def test_a_shift_for_a_model_that_has_none_is_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"method.rollout_shift=3 .* set method.rollout_shift=null"):
        rollout_levels("stable_diffusion", rollout_shift=3.0)
