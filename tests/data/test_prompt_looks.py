"""The prompts of a look are a random part of the set, and those of an earlier look are among them."""

from collections import Counter

import pytest

from alignbench.data.prompt_looks import first_prompts, in_random_order, look_sizes
from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError

STYLES = {"anime": 40, "photo": 20}
WHOLE = PromptSet(
    "test",
    tuple(Prompt(f"{style}-{i}", f"{style} {i}", (style,)) for style, num in STYLES.items() for i in range(num)),
    90,
)


def ids(prompts):
    return [prompt.prompt_id for prompt in prompts]


def test_every_first_part_has_the_shares_of_the_groups():
    for num in (6, 12, 30, 60):
        counts = Counter(prompt.groups[0] for prompt in first_prompts(WHOLE, 0, num))
        assert counts == {"anime": num * 2 // 3, "photo": num // 3}


def test_a_look_holds_the_prompts_of_earlier_ones_in_the_order_of_the_set():
    small, large = (first_prompts(WHOLE, 0, num) for num in (12, 30))
    assert set(ids(small)) < set(ids(large))
    assert ids(large) == [name for name in ids(WHOLE) if name in ids(large)]
    assert (large.whole, large.full_size, large.name, large.is_subset) == (WHOLE, 90, "test", True)
    assert ids(first_prompts(WHOLE, 0, 60)) == ids(WHOLE)


def test_the_seed_decides_the_order_which_is_not_that_of_the_set():
    orders = [[same[0].prompt_id for same in in_random_order(WHOLE, seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    anime = [name for name in orders[0] if name.startswith("anime")]
    assert anime != sorted(anime, key=lambda name: int(name[6:]))


def test_prompts_of_one_text_are_in_one_look():
    twice = PromptSet("test", tuple(Prompt(f"p{i}", f"text {i // 2}") for i in range(8)), 8)
    assert look_sizes(twice, 2) == [2, 4]
    assert len(first_prompts(twice, 0, 2)) == 4
    assert all(len({prompt.prompt for prompt in same}) == 1 for same in in_random_order(twice, 0))


def test_looks_are_equally_far_apart_or_where_their_shares_say():
    assert look_sizes(WHOLE, 5) == [12, 24, 36, 48, 60]
    assert look_sizes(WHOLE, [0.1, 0.5]) == [6, 30, 60]
    assert look_sizes(WHOLE, 1) == [60]


@pytest.mark.parametrize("looks", [61, [0.5, 0.501]])
def test_more_looks_than_prompts_are_refused(looks):
    with pytest.raises(UserError, match="as there are only 60 different ones; choose fewer looks"):
        look_sizes(WHOLE, looks)
