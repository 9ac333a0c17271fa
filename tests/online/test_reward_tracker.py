"""Which rewards an image is compared with."""

import pytest
import torch

from alignbench.online.reward_tracker import RewardTracker, prompt_numbers

ONE = torch.ones(1, dtype=torch.float64)


def advantages(tracker, rewards, prompts):
    return tracker.of(torch.tensor(rewards, dtype=torch.float64)[:, None], ONE, torch.tensor(prompts))


def expected(rewards, among):
    among = torch.tensor(among, dtype=torch.float64)
    return (torch.tensor(rewards, dtype=torch.float64) - among.mean()) / (among.std(correction=0) + 1e-6)


def test_a_prompt_with_few_rewards_is_compared_with_the_round_and_then_with_itself():
    tracker = RewardTracker(buffer_size=4, min_count=3, clip=None)
    torch.testing.assert_close(advantages(tracker, [1.0, 3.0, 8.0], [7, 7, 5]), expected([1, 3, 8], [1, 3, 8]))
    found = advantages(tracker, [5.0, 0.0], [7, 5])  # prompt 7 has three rewards now, prompt 5 two
    torch.testing.assert_close(found[0], expected([5], [1, 3, 5])[0])
    torch.testing.assert_close(found[1], expected([0], [5, 0])[0])


def test_the_oldest_rewards_are_dropped():
    tracker = RewardTracker(buffer_size=3, min_count=1, clip=None)
    advantages(tracker, [100.0, 1.0, 2.0], [0, 0, 0])
    torch.testing.assert_close(advantages(tracker, [6.0], [0]), expected([6], [1, 2, 6]))


def test_advantages_are_clipped():
    tracker = RewardTracker(buffer_size=200, min_count=1, clip=5.0)
    assert advantages(tracker, [0.0] * 99 + [1.0], [0] * 100).max() == 5


def test_several_rewards_count_by_their_weights():
    rewards = torch.tensor([[1.0, 10.0], [2.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.1], dtype=torch.float64)
    found = RewardTracker(4, 1, None).of(rewards, weights, torch.tensor([0, 0]))
    assert found.abs().max() < 1e-9  # both are 2 in sum


def test_what_is_saved_goes_on_where_it_was():
    one, other = RewardTracker(4, 2, None), RewardTracker(4, 2, None)
    advantages(one, [1.0, 3.0, 8.0], [7, 7, -5])
    other.load_state_dict(one.state_dict())
    both = [advantages(tracker, [2.0, 2.0, 9.0], [7, 7, -5]) for tracker in (one, other)]
    assert torch.equal(*both)


def test_a_prompt_has_one_number_wherever_it_stands():
    first, second, third = prompt_numbers(["a cat", "a dog", "a cat"]).tolist()
    assert first == third != second
    assert prompt_numbers(["a cat"]).item() == first


def test_more_rewards_than_are_kept_cannot_be_asked_for():
    with pytest.raises(ValueError, match=r"method\.advantage\.min_count=17 must be at most .*buffer_size=16"):
        RewardTracker(buffer_size=16, min_count=17, clip=None)
