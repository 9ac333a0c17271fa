"""What training reads of a reward: of images its own, of videos the mean over their frames."""

import time

import pytest
import torch

from alignbench.errors import UserError
from alignbench.online.rewards import ImageScorer, embedding_of, pictures, reward_of
from evaluators.several import Several
from evaluators.shapes_reward import ShapesReward
from tests.online_runs import Brightness, keep_old_policy, method_of, prompts_in_groups

PROMPTS = ["a red circle", "two blue squares"]


@pytest.fixture(scope="module")
def reward():
    return ShapesReward("shapes_clip")


def pixels(*shape):
    return torch.rand(2, *shape, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_images_are_rewarded_as_they_are(reward):
    images = pixels()
    assert torch.equal(reward_of(reward, images, PROMPTS), reward.reward(images, PROMPTS))
    assert torch.equal(embedding_of(reward, images), reward.embed_image(images).float())


def test_the_reward_of_a_video_is_the_mean_over_its_frames_and_so_is_its_gradient(reward):
    videos, same = pixels(3).requires_grad_(), pixels(3).requires_grad_()
    found = reward_of(reward, videos, PROMPTS)
    expected = torch.stack([reward.reward(frame, PROMPTS) for frame in same.unbind(1)]).mean(0)
    torch.testing.assert_close(found, expected)
    for one in (found, expected):
        one.sum().backward()
    assert videos.grad.abs().amax(dim=(0, 2, 3, 4)).min() > 0  # of every frame
    torch.testing.assert_close(videos.grad, same.grad)


def test_the_embedding_of_a_video_meets_a_text_as_its_frames_do_in_the_mean(reward):
    videos, text = pixels(3), reward.embed_text(PROMPTS)
    each = torch.stack([(reward.embed_image(frame) * text).sum(-1) for frame in videos.unbind(1)])
    torch.testing.assert_close((embedding_of(reward, videos) * text).sum(-1), each.mean(0))


def test_scorers_see_each_frame_as_a_picture():
    videos = pixels(3)
    scorer = ImageScorer(Brightness())
    scorer.add(videos, PROMPTS)
    scorer.add(videos[:1], PROMPTS[:1])
    scores = scorer.scores()
    assert scores.shape == (3, 1)
    torch.testing.assert_close(scores[:2, 0], videos.mean(dim=(1, 2, 3, 4)), atol=1e-3, rtol=0)
    assert scores[2] == scores[0]
    assert len(pictures(videos[0])) == 3


class Above(Brightness):
    """How much brighter an image is than the mean of its call; keeps how many images the calls had."""

    sees_group = True

    def __init__(self):
        self.calls = []

    def score_features(self, features, encoded):
        self.calls.append((len(features), set(encoded)))
        scores = super().score_features(features, encoded)
        return scores - scores.mean()

    def take_figures(self):
        return {"calls": (float(len(self.calls)), 1.0)}


@pytest.mark.parametrize("batch", [2, 3, 4, 8])
def test_what_compares_images_sees_whole_groups_whatever_the_batches(batch):
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    above = Above()
    scorer = ImageScorer(Several({"bright": Brightness(), "above": above}, {}), group_size=4)
    for start in range(0, 8, batch):
        scorer.add(images[start : start + batch], prompts[start : start + batch])
    bright, scores = scorer.scores().unbind(1)
    assert above.calls == [(4, {prompt}) for prompt in PROMPTS]
    groups = bright.unflatten(0, (2, 4))
    torch.testing.assert_close(scores, (groups - groups.mean(1, keepdim=True)).flatten())


class Refuses(Brightness):
    """Looks at each image for a while, and then refuses it."""

    def __init__(self):
        self.num_calls = 0

    def score_features(self, features, encoded):
        self.num_calls += 1
        time.sleep(0.02)
        raise UserError("another model answers")


def test_after_a_refusal_nobody_is_asked_about_the_images_that_wait():
    refuses = Refuses()
    scorer = ImageScorer(refuses)
    for _ in range(40):
        scorer.add(torch.zeros(1, 3, 8, 8), PROMPTS[:1])
    with pytest.raises(UserError, match="another model answers"):
        scorer.scores()
    assert refuses.num_calls < 40
    before = refuses.num_calls
    time.sleep(0.1)
    assert refuses.num_calls == before


def test_what_a_reward_counts_is_noted_beside_the_scores_of_a_round(kit, make_model):
    model, method = make_model(), method_of("nft", reward=Above())
    keep_old_policy(model)
    next(iter(method.rollout(model, prompts_in_groups(model, 2, 2), kit.context())))
    assert {name: float(value) for name, value in method.beside.items()} == {"reward_calls": 2.0}
