"""Features of a CLIP are the unit vectors that its scores are products of; files list all of their settings."""

import inspect

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from PIL import Image

from alignbench.configuration.build import choices, conf_folder
from evaluators.clip_features import PublishedClipFeatures, ShapesFeatures
from evaluators.clip_score import ClipScore
from evaluators.shapes_reward import ShapesReward
from tests.evaluators.conftest import TINY_QUICK

PICTURES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "navy", "white")]


def test_features_of_the_shapes_world_are_those_of_its_reward_in_any_batch():
    features, reward = ShapesFeatures("shapes_clip"), ShapesReward("shapes_clip")
    assert features.preprocess == reward.preprocess
    with torch.no_grad():
        rows = features.rows(features.preprocess(PICTURES))
        alone = torch.cat([features.rows(features.preprocess([picture])) for picture in PICTURES])
        score = (rows * reward.embed_text(["a red circle"] * 3)).sum(dim=1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(rows, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(score, reward.score(PICTURES, ["a red circle"] * 3), atol=1e-5, rtol=0)
    features.release()
    assert "network" not in vars(features.clip)


def test_published_features_are_of_the_network_that_the_evaluator_has_loaded(weights):
    features = PublishedClipFeatures("clip_l14", weights["clip_score_l14"], architecture=TINY_QUICK)
    evaluator = ClipScore("clip_score_l14", weights["clip_score_l14"], architecture=TINY_QUICK)
    assert features.network is evaluator.network
    assert (features.weights, features.preprocess.key) == (evaluator.weights, "clip_224")
    with torch.no_grad():
        inputs = features.preprocess(PICTURES)
        torch.testing.assert_close(features.rows(inputs), evaluator.image_features(inputs))


def test_cmmd_is_published_with_whole_pictures_of_336_pixels(weights):
    file = f"{weights['clip_score_l14']}/model.safetensors"
    features = PublishedClipFeatures("clip_l14_336", file, architecture=TINY_QUICK)
    assert features.preprocess([Image.new("RGB", (1024, 1024))]).shape == (1, 3, 336, 336)


@pytest.mark.parametrize("name", choices("feature"))
def test_a_file_lists_every_argument_with_the_default_of_its_class(name):
    node = OmegaConf.to_container(OmegaConf.load(conf_folder() / "feature" / f"{name}.yaml"))
    parameters = inspect.signature(get_class(node.pop("_target_"))).parameters
    assert node.keys() == parameters.keys()
    assert node["name"] == name
    for key, value in node.items():
        default = parameters[key].default
        assert value == default or default in (inspect.Parameter.empty, None), key
