"""Pairs know the conditioning of each of their images, also when they are turned round."""

from dataclasses import replace

import torch

from alignbench.batch import Conditioning, GeneratedPairBatch, PairBatch

SIZES_W, SIZES_L = torch.tensor([[1.0] * 6, [2.0] * 6]), torch.tensor([[3.0] * 6, [4.0] * 6])


def pairs(time_ids_w=SIZES_W, time_ids_l=SIZES_L):
    latents = torch.arange(4.0).reshape(4, 1, 1, 1)
    return PairBatch(
        torch.arange(2),
        ["a", "b"],
        Conditioning(torch.tensor([[[10.0]], [[20.0]]]), torch.tensor([[11.0], [21.0]]), time_ids_w),
        latents_w=latents[:2],
        latents_l=latents[2:],
        probability_w=torch.tensor([0.9, 0.6]),
        score_w=torch.tensor([1.0, 2.0]),
        score_l=torch.tensor([3.0, 4.0]),
        time_ids_l=time_ids_l,
    )


def test_both_images_of_a_pair_have_its_prompt_and_each_its_own_sizes():
    both = pairs().conditioning_both
    assert both.prompt_embeds.flatten().tolist() == [10, 20, 10, 20]
    assert both.pooled_prompt_embeds.flatten().tolist() == [11, 21, 11, 21]
    assert both.time_ids[:, 0].tolist() == [1, 2, 3, 4]
    assert pairs().rows(1, 2).conditioning_both.time_ids[:, 0].tolist() == [2, 4]


def test_samples_are_taken_in_any_order_with_all_that_is_theirs():
    taken = pairs().take([1, 0, 1])
    assert taken.index.tolist() == [1, 0, 1]
    assert taken.prompts == ["b", "a", "b"]
    assert taken.conditioning.time_ids[:, 0].tolist() == [2, 1, 2]
    assert taken.score_l.tolist() == [4, 3, 4]


def test_without_sizes_of_its_own_a_loser_has_those_of_its_winner():
    assert pairs(time_ids_l=None).conditioning_both.time_ids[:, 0].tolist() == [1, 2, 1, 2]
    assert pairs(None, None).conditioning_both.time_ids is None


def test_a_swapped_pair_exchanges_all_that_belongs_to_its_images_and_no_other_pair_changes():
    swapped = pairs().swapped(torch.tensor([False, True]))
    assert swapped.latents_w.flatten().tolist() == [0, 3]
    assert swapped.latents_l.flatten().tolist() == [2, 1]
    assert (swapped.score_w.tolist(), swapped.score_l.tolist()) == ([1, 4], [3, 2])
    assert swapped.conditioning_both.time_ids[:, 0].tolist() == [1, 4, 3, 2]
    assert swapped.conditioning.prompt_embeds.flatten().tolist() == [10, 20]
    torch.testing.assert_close(swapped.probability_w, torch.tensor([0.9, 0.4]))
    assert pairs(time_ids_l=None).swapped(torch.tensor([True, True])).time_ids_l is None


def test_what_is_known_of_samples_goes_with_them():
    """Of both images it is exchanged with them; of the pair it stays."""
    known = {"error_w": torch.tensor([1.0, 2.0]), "error_l": torch.tensor([3.0, 4.0]), "time": torch.tensor([5.0, 6.0])}
    batch = replace(pairs(), known=known)
    swapped = batch.swapped(torch.tensor([False, True])).known
    assert {name: value.tolist() for name, value in swapped.items()} == {
        "error_w": [1, 4], "error_l": [3, 2], "time": [5, 6]
    }  # fmt: skip
    assert batch.take([1]).known["time"].tolist() == [6]
    assert PairBatch.cat([batch, batch.rows(0, 1)]).known["error_l"].tolist() == [3, 4, 3]
    assert pairs().swapped(torch.tensor([True, True])).known is None


def test_a_swapped_pair_of_generated_images_exchanges_their_noise():
    noise = torch.arange(4.0, 8.0).reshape(4, 1, 1, 1)
    generated = GeneratedPairBatch(**vars(pairs()), noise_w=noise[:2], noise_l=noise[2:])
    swapped = generated.swapped(torch.tensor([False, True]))
    assert [swapped.noise_w.flatten().tolist(), swapped.noise_l.flatten().tolist()] == [[4, 7], [6, 5]]
    assert [swapped.latents_w.flatten().tolist(), swapped.latents_l.flatten().tolist()] == [[0, 3], [2, 1]]


def test_batches_are_joined_with_all_that_is_theirs():
    joined = PairBatch.cat([pairs(time_ids_l=None), pairs(time_ids_l=None).rows(1, 2)])
    assert joined.index.tolist() == [0, 1, 1]
    assert joined.prompts == ["a", "b", "b"]
    assert joined.conditioning.pooled_prompt_embeds.flatten().tolist() == [11, 21, 21]
    assert joined.score_l.tolist() == [3, 4, 4]
    assert joined.time_ids_l is None
