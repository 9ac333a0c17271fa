"""Pixels that are moved up the gradient of a reward stay in their box, and beat random changes."""

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.card.ascent import Ascents, raised, with_random_signs
from alignbench.evaluator import Evaluator, Reward
from alignbench.scoring.network_pool import NetworkPool
from evaluators.networks.preprocess import Pictures


def array(images):
    return torch.stack([torch.from_numpy(np.array(image, np.float32) / 255) for image in images])


class Stripes(Reward):
    """Even columns minus odd columns: random signs change it little, the gradient much."""

    name, version, preprocess = "stripes", "1", Pictures()

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, inputs, encoded):
        pixels = array(inputs)
        return (pixels[:, :, ::2] - pixels[:, :, 1::2]).mean(dim=(1, 2, 3))

    def reward(self, pixels, prompts):
        return (pixels[..., ::2] - pixels[..., 1::2]).mean(dim=(1, 2, 3))


class Dimness(Stripes):
    """The darker the better, told by its mean; the lower the better."""

    name, higher_is_better = "dimness", False

    def score_features(self, inputs, encoded):
        return array(inputs).mean(dim=(1, 2, 3))

    def reward(self, pixels, prompts):
        return pixels.mean(dim=(1, 2, 3))


class Constant(Evaluator):
    name, version, preprocess = "constant", "1", Pictures()

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, inputs, encoded):
        return torch.ones(len(encoded))


def images(num=6, side=8):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(40, 200, (side, side, 3), dtype=np.uint8)) for _ in range(num)]


def on_images(scorers):
    spreads = {one.name: 0.0 if one.name == "constant" else 0.02 for one in scorers}
    return Ascents("toy", scorers, spreads, images(), [""] * 6, 4, NetworkPool(torch.device("cpu")), 0)


def test_steps_stay_within_the_bound_and_reach_it():
    pixels = torch.rand(2, 3, 4, 4) * 0.5 + 0.25
    found = raised(Stripes(), pixels, ["", ""], bound=0.1, num_steps=20)
    assert (found - pixels).abs().max() == pytest.approx(0.1, abs=1e-6)
    assert (found - pixels)[..., ::2] == pytest.approx(torch.full((2, 3, 4, 2), 0.1).numpy(), abs=1e-6)
    assert raised(Dimness(), pixels, ["", ""], 0.1, 20).mean() < pixels.mean(), "lower scores are better"


def test_random_signs_move_every_value_by_the_bound_and_are_the_same_again():
    pixels = torch.full((2, 3, 4, 4), 0.5)
    found = with_random_signs(pixels, 0.1, seed=3)
    assert (found - pixels).abs().numpy() == pytest.approx(np.full((2, 3, 4, 4), 0.1), abs=1e-6)
    assert torch.equal(found, with_random_signs(pixels, 0.1, seed=3))
    assert not torch.equal(found, with_random_signs(pixels, 0.1, seed=4))


def test_ascent_beats_random_changes_and_says_what_others_think():
    scorers = [Stripes(), Dimness(), Constant()]
    found = on_images(scorers).measure(scorers[0], 8, 20)
    assert found.gain > 3 * abs(found.control)
    # each of the two means moves by 8/255, but for rounding to 8 bits
    assert found.gain + found.control == pytest.approx(2 * 8 / 255 / 0.02, rel=0.01)
    assert (found.won, found.num_images, found.levels) == (1.0, 6, 8)
    assert [one.scorer for one in found.others] == ["dimness"], "a scorer without spread has no standard deviation"
    assert found.exploitability == pytest.approx(found.gain - found.others[0].gain)
    assert found.others_won == found.others[0].won


def test_scorers_of_the_lineage_are_no_others():
    relative = Dimness()
    relative.labelled_by = ("stripes",)
    scorers = [Stripes(), relative]
    found = on_images(scorers).measure(scorers[0], 8, 2)
    assert found.others[0].in_lineage
    assert found.exploitability is None
    assert found.others_won is None


def test_images_of_several_sizes_keep_their_prompts_and_places():
    class ByPrompt(Stripes):
        def score_features(self, inputs, encoded):
            return torch.tensor([float(prompt) for prompt in encoded])

    pictures = [Image.new("RGB", (size, 8)) for size in (8, 10, 8, 10, 8)]
    found = Ascents("toy", [ByPrompt()], {}, pictures, list("01234"), 2, NetworkPool(torch.device("cpu")), 0)
    assert found.before.tolist() == [[0, 1, 2, 3, 4]]
