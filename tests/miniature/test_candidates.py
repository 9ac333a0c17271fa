from collections import Counter

import numpy as np
import pytest

from alignbench.miniature.candidates import candidate, scene_for, with_dirt, with_fault
from alignbench.miniature.captions import demand_of, parse
from alignbench.miniature.scenes import STYLES

PROMPTS = [
    "a red circle on the left, white background",
    "a large blue square in the center, black background",
    "a small green cross above a large purple triangle, gray background",
    "a yellow cross right of a cyan circle, beige background",
]


def differences(demand, other):
    """What two demands differ in; a demand that names fewer shapes differs in that alone."""
    if len(demand.shapes) != len(other.shapes):
        return ["missing"]
    pairs = list(zip(demand.shapes, other.shapes, strict=True))
    found = [name for name in ("place", "relation", "background") if getattr(demand, name) != getattr(other, name)]
    return found + [
        name for name in ("shape", "colour", "size") for a, b in pairs if getattr(a, name) != getattr(b, name)
    ]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_scene_fulfils_its_prompt_in_the_style_asked_for(prompt):
    rng, demand = np.random.default_rng(0), parse(prompt)
    for style in STYLES:
        for _ in range(20):
            seen = demand_of(scene_for(demand, style, rng))
            assert (seen.place, seen.relation, seen.background) == (demand.place, demand.relation, demand.background)
            assert seen.style == style
            for shape, wanted in zip(seen.shapes, demand.shapes, strict=True):
                assert (shape.shape, shape.colour) == (wanted.shape, wanted.colour)
                assert wanted.size in (None, shape.size)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_fault_changes_exactly_one_thing(prompt):
    rng, demand = np.random.default_rng(0), parse(prompt)
    faults = Counter(tuple(differences(demand, with_fault(demand, rng))) for _ in range(200))
    assert all(len(fault) == 1 for fault in faults)
    arrangement = "place" if len(demand.shapes) == 1 else "relation"
    missing = {("missing",)} if len(demand.shapes) == 2 else set()
    assert set(faults) == {("shape",), ("colour",), ("background",), (arrangement,)} | missing


def test_dirt_is_seen_but_does_not_hide_the_scene():
    rng, plain = np.random.default_rng(0), np.full((64, 64, 3), 128, np.uint8)
    for _ in range(20):
        error = with_dirt(plain, rng).astype(float) - 128
        assert 1 < np.sqrt((error**2).mean()) < 30


def test_a_candidate_depends_on_its_generator_alone():
    demand = parse(PROMPTS[2])
    first, again, other = (candidate(demand, np.random.default_rng(seed), 0.4, 0.3) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.shape, first.dtype) == ((64, 64, 3), np.uint8)
