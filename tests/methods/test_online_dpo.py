"""Online DPO: which images make a pair, and that it is then the loss it is given."""

from dataclasses import replace

import pytest
import torch

from alignbench.batch import PairBatch
from alignbench.online.online_method import RolledOut
from methods.online_dpo import best_and_worst
from tests.online_runs import method_of, prompts_in_groups


def test_the_best_and_the_worst_image_of_each_prompt_are_found():
    advantage = torch.tensor([0.1, 0.9, -1.0, 2.0, -2.0, 0.0])
    best, worst = best_and_worst(advantage, 3)
    assert best.tolist() == [1, 3]
    assert worst.tolist() == [2, 4]


def images(model, num_prompts, group_size, advantage):
    batch = prompts_in_groups(model, num_prompts, group_size)
    latents = torch.randn(len(batch), *model.latent_shape, generator=torch.Generator().manual_seed(1))
    return RolledOut(
        batch.index,
        batch.prompts,
        batch.conditioning,
        latents,
        scores=advantage[:, None],
        advantage=advantage,
        flat=torch.zeros(len(batch), dtype=torch.bool),
    )


def test_it_is_dpo_on_that_pair_and_those_draws(kit, make_model):
    model, method = make_model(), method_of("online_dpo", group_size=2)
    kit.perturb(model)
    rolled = images(model, 2, 2, torch.tensor([0.5, -0.5, -1.0, 1.0]))
    pairs = method.pairs(rolled)
    context = kit.context()
    found = method.loss(model, pairs, context).values
    winners, losers = rolled.latents[[0, 3]], rolled.latents[[1, 2]]
    offline = PairBatch(pairs.index, pairs.prompts, pairs.conditioning, winners, losers, torch.ones(2))
    assert torch.equal(found, method.pairwise.loss(model, offline, context).values)
    assert found.std() > 0


def test_a_prompt_whose_images_are_all_alike_gives_no_gradient_and_is_counted(kit, make_model):
    model, method = make_model(), method_of("online_dpo", group_size=2)
    kit.perturb(model)
    pairs = method.pairs(images(model, 2, 2, torch.tensor([0.0, 0.0, -1.0, 1.0])))
    loss = method.loss(model, pairs, kit.context())
    assert loss.values[0] == 0
    assert loss.values[1] > 0
    assert loss.weights.tolist() == [1, 1]
    assert loss.metrics["flat_groups"].tolist() == [1, 0]


def test_a_round_makes_one_pair_of_each_prompt_and_the_updates_share_them(kit, make_model):
    model, method = make_model(), method_of("online_dpo", group_size=2, updates_per_round=2)
    context = replace(kit.context(), micro_batch_size=1)
    rounds = list(method.rollout(model, prompts_in_groups(model, 4, 2), context))
    assert [[len(batch) for batch in batches] for batches in rounds] == [[1, 1], [1, 1]]
    prompts = [prompt for batches in rounds for batch in batches for prompt in batch.prompts]
    assert len(set(prompts)) == 4
    assert method.reward_calls == 8


def test_a_loss_that_keeps_errors_on_the_images_of_the_data_is_refused():
    method = method_of("online_dpo", group_size=2)
    method.pairwise.num_draws = 3
    with pytest.raises(ValueError, match=r"method.pairwise.num_draws=3 keeps errors on the images of the data"):
        replace(method)
