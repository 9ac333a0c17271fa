"""A comparer as a reward: what it is asked, what is counted, and when training cannot go by it."""

import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from alignbench.pairwise.canaries import canaries
from evaluators.comparer_reward import FEWEST, ComparerReward
from evaluators.comparers.shapes import ShapesComparer
from tests.online_runs import Brighter

PROMPT = "a red circle"


def grey(*levels):
    return [Image.new("RGB", (8, 8), (level,) * 3) for level in levels]


def score(reward, *levels):
    return reward.score(grey(*levels), [PROMPT] * len(levels), batch_size=len(levels))


def test_the_reward_is_the_share_of_the_wins_whoever_comes_first():
    for bias in (0.0, 500.0):
        comparer = Brighter(bias)
        found = score(ComparerReward(comparer), 10, 30, 20, 0)
        torch.testing.assert_close(found, torch.tensor([1 / 3, 1.0, 2 / 3, 0.0]))
        assert len(comparer.asked) == 12
        assert {prompt for *_, prompt in comparer.asked} == {PROMPT}
    quality = score(ComparerReward(Brighter(500.0), value="quality"), 10, 30, 20)
    torch.testing.assert_close(quality, torch.tensor([-15.0, 15.0, 0.0]))


def test_words_that_follow_the_place_alone_are_ties():
    reward = ComparerReward(Brighter(500.0, words=True))
    assert score(reward, 10, 30, 20).tolist() == [0.5] * 3
    assert reward.take_figures() == {"failed": (0, 3), "ties": (3, 3), "first": (6.0, 6)}


def test_the_shapes_comparer_ranks_as_its_people_do():
    reward = ComparerReward(ShapesComparer(3.0))
    assert (reward.name, reward.range) == ("shapes_comparer", (0.0, 1.0))
    assert reward.lineage == ("shapes_comparer", "shapes_annotators")
    assert "shapes_comparer judges by prompts of the shapes world alone" in reward.supports(["a photo"])
    assert reward.weight_bytes({"comparer": {"_target_": "evaluators.comparers.shapes.ShapesComparer"}}) == 0


def test_fewer_opponents_and_orders_cost_less_and_the_cost_is_told():
    comparer = Brighter()
    reward = ComparerReward(comparer, opponents=2, orders="once")
    score(reward, 10, 30, 20, 0, 5)
    assert len(comparer.asked) == 5
    assert reward.cost(20, 5) == "20 calls of brighter for 20 images in groups of 5, each pair once"
    assert ComparerReward(comparer).cost(64, 8).startswith("448 calls of brighter for 64 images in groups of 8, both")


def test_failed_pairs_are_left_out_and_counted_until_the_figures_are_taken():
    reward = ComparerReward(Brighter(fails=lambda one, other: {one, other} == {10, 30}))
    torch.testing.assert_close(score(reward, 10, 30, 20), torch.tensor([0.0, 1.0, 0.5]))
    assert reward.take_figures() == {"failed": (1, 3), "ties": (0, 2), "first": (2.0, 4)}
    assert reward.take_figures()["failed"] == (0, 0)


def test_training_stops_where_too_many_pairs_fail():
    reward = ComparerReward(Brighter(fails=lambda one, other: {one, other} == {10, 30}), max_failed=0.3)
    for _ in range(FEWEST // 3):  # one of three pairs; 99 of them are too few to tell
        score(reward, 10, 30, 20)
    with pytest.raises(UserError, match=r"brighter failed on 34 of 102 pairs, more than reward.max_failed=0.3;"):
        score(reward, 10, 30, 20)


def test_another_model_that_answers_stops_training():
    reward = ComparerReward(Brighter(models=["one"] * 6 + ["two"]))
    score(reward, 1, 2, 3)
    with pytest.raises(UserError, match="brighter: two answers now and one answered before"):
        score(reward, 1, 2, 3)


def test_words_have_no_quality():
    with pytest.raises(UserError, match=r"brighter answers in words, and reward.value=quality needs log-odds"):
        score(ComparerReward(Brighter(words=True), value="quality"), 1, 2, 3)


def test_images_of_two_prompts_or_one_image_are_no_group():
    reward = ComparerReward(Brighter())
    with pytest.raises(ValueError, match="compares images of one prompt"):
        reward.score(grey(1, 2), ["a", "b"])
    with pytest.raises(ValueError, match="got 1 of"):
        reward.score(grey(1), ["a"])


# ---- a training that goes on


class Killed(Exception):
    pass


class DiesAfter(Brighter):
    """Is asked about so many batches, and kills the training at the next one."""

    def __init__(self, num_batches, **others):
        super().__init__(**others)
        self.num_batches = num_batches

    def compare(self, first, second, prompts):
        if self.num_batches == 0:
            raise Killed
        self.num_batches -= 1
        return super().compare(first, second, prompts)


def fails_at_both_ends(one, other):
    return min(one, other) == 0 or max(one, other) >= 240


def trained(folder, comparer, groups, **settings):
    """Score groups one after the other, as a training does; return the scores, and why it stopped."""
    reward, found = ComparerReward(comparer, max_failed=0.3, **settings), []
    reward.begin_training(folder, 0)
    try:
        found += (score(reward, *group).tolist() for group in groups)
    except (UserError, Killed) as stopped:
        return found, str(stopped)
    return found, "ended"


GROUPS = [(n, n + 1, n + 2) for n in range(3, 39)] + [(0, n, 250) for n in range(60, 80)]


@pytest.mark.parametrize("orders", ["both", "once"])
def test_failures_are_counted_and_training_stops_as_if_nothing_had_killed_it(tmp_path, orders):
    expected, told = trained(tmp_path / "whole", whole := Brighter(fails=fails_at_both_ends), GROUPS, orders=orders)
    assert told.startswith("brighter failed on 48 of 156 pairs")
    assert len(expected) == 51
    for batches, checkpoint in ((0, 0), (3, 1), (37, 5), (70, 30), (77, 36), (80, 36), (89, 40), (97, 42), (103, 50)):
        num_batches, folder = batches if orders == "both" else batches // 2, tmp_path / f"{batches}"
        killed = DiesAfter(num_batches, fails=fails_at_both_ends)
        start = min(checkpoint, len(trained(folder, killed, GROUPS, orders=orders)[0]))
        resumed = Brighter(fails=fails_at_both_ends)
        assert trained(folder, resumed, GROUPS[start:], orders=orders) == (expected[start:], told)
        assert killed.asked + resumed.asked == whole.asked
        again = Brighter(fails=fails_at_both_ends)
        assert trained(folder, again, GROUPS[50:], orders=orders) == (expected[50:], told)  # the same command once more
        assert again.asked == []


def test_the_verdicts_of_all_processes_are_known_as_there_may_be_fewer_by_now(tmp_path):
    for process, group in ((0, (1, 2, 3)), (1, (10, 30, 20))):
        reward = ComparerReward(Brighter(fails=lambda *levels: 10 in levels))
        reward.begin_training(tmp_path, process)
        score(reward, *group)
    reward = ComparerReward(comparer := Brighter())
    reward.begin_training(tmp_path, 0)
    torch.testing.assert_close(score(reward, 10, 30, 20), torch.tensor([0.5, 1.0, 0.0]))
    assert comparer.asked == []


class Server(Brighter):
    """One that can change."""

    can_change = True


def test_a_server_is_asked_the_canary_pairs_each_time_that_training_begins_or_goes_on(tmp_path):
    def begin(comparer):
        reward = ComparerReward(comparer)
        reward.begin_training(tmp_path, 0)
        assert [prompt for *_, prompt in comparer.asked] == [one.prompt for one in canaries()]
        return reward

    begin(Server(bias=200.0))  # nothing was judged by it, so that another one may begin
    score(begin(Server(models=["one"])), 10, 30, 20)
    score(begin(Server(bias=0.5, models=["one"])), 11, 30, 20)  # as rounding may do
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(
        UserError, match=r"brighter answers [1-8] of 8 test pairs otherwise than before, such as '.*', s"
    ):
        begin(Server(bias=200.0, models=["one"]))
    with pytest.raises(UserError, match="brighter: two answers now and one answered before; start the server with the"):
        begin(Server(models=["two"]))
    with pytest.raises(UserError, match="brighter: two answers now and one answered before"):
        score(begin(Server(models=["one"] * 8 + ["two"])), 12, 30, 20)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files

    other = Server(bias=200.0)
    ComparerReward(other).begin_training(tmp_path, 1)  # the main process alone asks
    fixed = Brighter(bias=200.0)
    ComparerReward(fixed).begin_training(tmp_path, 0)
    assert other.asked == fixed.asked == []


def test_a_damaged_file_of_verdicts_stops_the_training(tmp_path):
    trained(tmp_path, Brighter(), [(10, 30, 20)])
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-30])  # the last line is cut, as by a kill
    assert trained(tmp_path, comparer := Brighter(), [(10, 30, 20)])[1] == "ended"
    assert len(comparer.asked) == 1
    assert file.read_bytes() == content
    for damaged in (
        content.replace(b"true", b"false"),
        content.replace(b'"shown": [0, 1]', b'"shown": [1, 0]'),
        b"{}\n",
    ):
        if damaged == content:
            continue
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"verdicts-0\.jsonl.*; delete it to ask for its verdicts again"):
            ComparerReward(Brighter()).begin_training(tmp_path, 0)
