"""A reward that compares images is refused by methods that look at each image alone, before anything loads."""

import pytest

from alignbench.configuration.build import build
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError
from evaluators.comparers.shapes import ShapesComparer

COMPARER = ["model=sd15_mini", "reward=comparer"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=srpo"], "method=srpo follows the gradient of its reward, and reward=comparer has none; choose anoth"),
        (["method=smpo"], "method=smpo reads a score of each training image, and reward=comparer compares images that"),
        (["method=ddpo", "method.group_size=1"], "method.group_size=1 leaves nothing to compare an image with"),
        (
            ["method=nft", "model=wan_video", "data=shapes"],
            "model=wan_video makes videos, and reward=comparer compares images",
        ),
        (["method=nft", "comparers@reward.comparer=none"], "reward=comparer has no comparer; add comparers@reward.com"),
        (["method=nft", "reward.opponents=3"], "method.reward.opponents=3 must be an even number of at least 2"),
        (["method=nft", "reward.value=wins"], "method.reward.value=wins is unknown; did you mean win_share?"),
    ],
)
@pytest.mark.matrix
def test_what_cannot_be_compared_is_refused(words, told):
    with pytest.raises(UserError) as refused:
        check_command_line([*COMPARER, *words], False)
    assert told in str(refused.value)


def test_any_comparer_can_be_the_reward_of_a_method_that_compares():
    check_command_line([*COMPARER, "method=grpo", "reward.comparer.position_bias=2"], False)
    method = build(composed([*COMPARER, "method=grpo", "reward.comparer.position_bias=2"]).method)
    assert isinstance(method.reward.comparer, ShapesComparer)
    assert method.reward.comparer.position_bias == 2
    assert method.trained_on == ("shapes_comparer", "shapes_annotators")
    words = ["reward=[comparer,shapes_clip]", "comparers@reward.components.comparer.comparer=qwen3_vl"]
    node = composed(["model=sd15_mini", "method=nft", *words]).method.reward
    assert node.components.comparer.comparer.name == "qwen3_vl_8b"
