"""DDPO: images are compared with those of their prompt, wherever and whenever they were drawn."""

import pytest
import torch

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.diffusion.samplers import TransitionKernel
from alignbench.online.reward_tracker import RewardTracker
from methods.ddpo import DDPO
from tests.processes import together


@pytest.fixture
def ddpo(kit):
    """A function that makes the method."""

    def make():
        own = {
            "name": "ddpo",
            "group_size": 1,
            "kernel": TransitionKernel("ddim", 1.0),
            "advantage": RewardTracker(buffer_size=4, min_count=3, clip=None),
            "kl_weight": 0.0,
            "kl_form": "paper",
            "clip_range": 1e-4,
        }
        return DDPO(**kit.path_settings(**own))

    return make


def batch_of(model, prompts, first=0):
    return PromptBatch(torch.arange(len(prompts)) + first, prompts, model.encode_prompts(prompts))


def model_of(kit):
    return kit.ToyModel(kit.Linear(0.5), "epsilon", shape=(3, 8, 8))


def compared(method, model, batch, scores, context=None):
    return method.compared(
        model, batch, torch.zeros(len(batch), 3, 8, 8), torch.tensor(scores)[:, None], context or Context(0, 0, 4)
    )


def expected(rewards, among):
    among = torch.tensor(among, dtype=torch.float64)
    return ((torch.tensor(rewards) - among.mean()) / (among.std(correction=0) + 1e-6)).float()


def test_an_image_is_compared_with_those_of_its_prompt_in_all_rounds(kit, ddpo):
    model, method = model_of(kit), ddpo()
    first = compared(method, model, batch_of(model, ["a", "b", "a"]), [1.0, 5.0, 2.0])
    torch.testing.assert_close(first.advantage, expected([1, 5, 2], [1, 5, 2]))
    second = compared(method, model, batch_of(model, ["b", "a"], 3), [4.0, 6.0])
    torch.testing.assert_close(second.advantage[0], expected([4], [4, 6])[0])  # b has two rewards, a three
    torch.testing.assert_close(second.advantage[1], expected([6], [1, 2, 6])[0])


def test_two_processes_compare_like_one(kit, ddpo):
    prompts, scores = ["a", "b", "a", "a", "b", "c"], [1.0, 5.0, 2.0, 4.0, 3.0, 0.0]

    def share(rank, num_processes):
        model, method, size = model_of(kit), ddpo(), 6 // num_processes
        rounds = []
        for number in range(2):
            own = slice(rank * size, (rank + 1) * size)
            batch = batch_of(model, prompts, 6 * number).rows(own.start, own.stop)
            context = Context(number, 0, 4, num_processes=num_processes)
            rounds.append(compared(method, model, batch, [s + number for s in scores[own]], context).advantage)
        return torch.stack(rounds).tolist()

    first, second = together(share, 2)
    both = [one + other for one, other in zip(first, second, strict=True)]
    torch.testing.assert_close(torch.tensor(both), torch.tensor(share(0, 1)))


def test_a_resumed_run_knows_the_earlier_rewards(kit, ddpo):
    model, methods = model_of(kit), [ddpo() for _ in range(2)]
    compared(methods[0], model, batch_of(model, ["a", "a", "b"]), [1.0, 2.0, 0.0])
    methods[1].load_state_dict(methods[0].state_dict())
    rounds = [compared(method, model, batch_of(model, ["a", "b"], 3), [5.0, 1.0]).advantage for method in methods]
    assert torch.equal(*rounds)
    fresh = compared(ddpo(), model, batch_of(model, ["a", "b"], 3), [5.0, 1.0]).advantage
    assert not torch.equal(fresh, rounds[0])


def test_brighter_images_become_more_probable(kit, ddpo):
    """The first update of a round: loss -A, and a gradient that raises the probability of good images."""
    model, method = model_of(kit), ddpo()
    batch, context = batch_of(model, ["a"] * 8), Context(0, 0, 8)
    (steps,) = method.rollout(model, batch, context)
    losses = [method.loss(model, one, context) for one in steps]
    for one, loss in zip(steps, losses, strict=True):
        torch.testing.assert_close(loss.values, -one.advantage)
    sum(loss.values.sum() for loss in losses).backward()
    before = [method.predict(model, one).detach() for one in steps]
    with torch.no_grad():
        model.network.a -= 1e-3 * model.network.a.grad.sign()
    gain = 0.0
    for one, old in zip(steps, before, strict=True):
        ratio = method.log_ratio(
            one.next_latents,
            method.transition(model, one, method.predict(model, one)),
            method.transition(model, one, old),
        )
        gain += float((one.advantage * ratio.detach()).sum())
    assert gain > 0
