"""Every method trains on videos as it does on images."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hydra import compose, initialize_config_dir

from alignbench.configuration.build import build, conf_folder
from alignbench.context import keyed_generator
from alignbench.data.source import TrainingImage
from alignbench.models.tiny_random import RESOLUTION
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import train
from tests.tiny_runs import METHODS, RandomPairs, log_of, settings, shortened
from tests.videos import tiny_video_model

NUM_FRAMES = 5
CHEAP = {"dpo", "srpo", "nft"}


class RandomVideos(RandomPairs):
    """Pairs of random videos."""

    def image(self, key):
        shape = (NUM_FRAMES, RESOLUTION, RESOLUTION, 3)
        return TrainingImage(key, torch.randint(0, 256, shape, generator=keyed_generator(key)).byte().numpy())


@pytest.mark.parametrize(
    "name", [one if one.values[0] in CHEAP else pytest.param(*one.values, marks=pytest.mark.matrix) for one in METHODS]
)
def test_every_method_trains_on_videos(tmp_path, name):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"method={name}", "model=wan_video", "data=shapes", "reward=shapes_clip"])
    cfg.train = settings(max_train_steps=1, total_batch_size=2, micro_batch_size=2).train
    model = tiny_video_model(NUM_FRAMES)
    assert len(model.latent_shape) == 4
    start = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    train(cfg, model, build(shortened(cfg.method, 2)), RandomVideos(), RunFolder(tmp_path), Accelerator(cpu=True))
    assert all(np.isfinite(line["loss"]) for line in log_of(tmp_path))
    moved = [value - start[key] for key, value in model.denoiser.state_dict().items()]
    assert 0 < sum(change.norm() for change in moved) < float("inf")
