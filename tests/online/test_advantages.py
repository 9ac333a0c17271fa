"""Advantages against worked numbers, and what must not change them."""

import pytest
import torch

from alignbench.online.advantages import AdvantageSettings, flat_groups, gdpo, group_relative, group_statistics

ONE_GROUP = torch.zeros(4, dtype=torch.long)
REWARDS = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)


def settings(**changes):
    values = {"combination": "sum", "spread": "group", "clip": 5.0, "scale": 1.0, "min_spread": 0.05}
    return AdvantageSettings(**values | changes)


def test_rewards_of_one_group_are_centred_and_divided_by_their_population_deviation():
    expected = torch.tensor([-1.06899, -0.53449, 0.0, 1.60348], dtype=torch.float64)
    torch.testing.assert_close(group_relative(REWARDS, ONE_GROUP, "group"), expected, atol=1e-5, rtol=0)


def test_the_deviation_of_the_round_is_that_of_all_rewards_and_not_of_the_centred_ones():
    rewards, groups = torch.tensor([0.0, 1.0, 10.0, 11.0], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    std = rewards.std(correction=0)
    expected = torch.tensor([-0.5, 0.5, -0.5, 0.5], dtype=torch.float64) / (std + 1e-4)
    torch.testing.assert_close(group_relative(rewards, groups, "round"), expected)


def test_without_a_spread_advantages_are_in_the_unit_of_the_reward():
    expected = torch.tensor([-2.0, -1.0, 0.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(group_relative(REWARDS, ONE_GROUP, "none"), expected)


@pytest.mark.parametrize("spread", ["group", "round", "none"])
def test_equal_rewards_and_single_images_have_no_advantage(spread):
    rewards, groups = torch.tensor([2.0, 2.0, 7.0], dtype=torch.float64), torch.tensor([0, 0, 1])
    assert group_relative(rewards, groups, spread).abs().max() == 0


def test_advantages_do_not_depend_on_the_order_of_images_or_the_numbers_of_groups():
    rewards = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups, order = torch.arange(12) // 4, torch.randperm(12, generator=torch.Generator().manual_seed(1))
    one = group_relative(rewards, groups, "group")
    torch.testing.assert_close(group_relative(rewards[order], 100 - groups[order], "group"), one[order])


def test_gdpo_and_the_sum_rule_on_worked_numbers():
    rewards = torch.stack([REWARDS, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)], dim=1)
    weights = torch.ones(2, dtype=torch.float64)
    expected = torch.tensor([-1.08994, -0.80836, 0.52679, 1.37152], dtype=torch.float64)
    torch.testing.assert_close(gdpo(rewards, weights, ONE_GROUP, 0.05), expected, atol=1e-5, rtol=0)
    summed = torch.tensor([-1.09109, -0.65465, 0.21822, 1.52753], dtype=torch.float64)
    found = settings().of(rewards, weights, ONE_GROUP)
    torch.testing.assert_close(found, summed, atol=1e-4, rtol=0)


def test_gdpo_does_not_see_the_scale_of_a_reward():
    generator = torch.Generator().manual_seed(0)
    rewards, groups = torch.randn(12, 2, dtype=torch.float64, generator=generator), torch.arange(12) // 4
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    scaled = rewards * torch.tensor([100.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(gdpo(scaled, weights, groups, 0.05), gdpo(rewards, weights, groups, 0.05))


def test_a_reward_that_hardly_differs_in_a_group_does_not_become_noise():
    """In the first group the second reward differs by a thousandth of what it differs elsewhere."""
    rewards = torch.tensor([[0.0, 0.001], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    weights, groups = torch.ones(2, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    quiet, loud = gdpo(rewards, weights, groups, 0.05), gdpo(rewards, weights, groups, 0.0)
    assert quiet[1] > quiet[0]
    assert loud[1] == pytest.approx(float(loud[0]), abs=1e-3)  # blown up, it cancels the first reward


def test_advantages_are_clipped_before_they_are_scaled():
    rewards = torch.tensor([[0.0]] * 99 + [[1.0]])
    found = settings(clip=5.0, scale=0.2).of(rewards, torch.ones(1), torch.zeros(100, dtype=torch.long))
    assert float(found.max()) == 1.0


def test_flat_groups_are_told():
    rewards, groups = torch.tensor([2.0, 2.0, 1.0, 3.0]), torch.tensor([0, 0, 1, 1])
    assert flat_groups(rewards, groups).tolist() == [True, True, False, False]


def test_statistics_of_groups_of_unlike_size():
    mean, std = group_statistics(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([5, 5, 2]))
    assert mean.tolist() == [2.0, 2.0, 7.0]
    assert std.tolist() == [1.0, 1.0, 0.0]
