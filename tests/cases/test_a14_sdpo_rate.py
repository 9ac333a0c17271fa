"""A14: a user who types `method=sdpo model=sdxl` gets the rate of the launcher, not ten times as much."""

import pytest

from alignbench.configuration.build import conf_folder
from alignbench.configuration.compose import composed


def test_sdpo_on_sdxl_trains_at_the_rate_and_warm_up_of_its_launcher():
    train = composed(["method=sdpo", "model=sdxl", "data=shapes"]).train
    assert train.learning_rate == pytest.approx(1e-9 * 2048)  # --learning_rate=1e-9 --scale_lr, 2048 pairs an update
    assert train.lr_warmup_steps == 500
    assert train.total_batch_size == 2048


def test_the_rate_stands_beside_its_source():
    text = (conf_folder() / "preset" / "sdpo" / "sdxl.yaml").read_text()
    assert "sdxl_diffusion_dpo.sh" in text
    assert "1e-9 times 2048" in text
