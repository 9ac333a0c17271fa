"""Accuracy on human pairs: which pairs count, what ties give, and what intervals and rules are over."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from alignbench.card.accuracy import accuracy, scaled
from alignbench.card.human.lists import ImageRewardTest
from alignbench.card.human.records import HumanPairs, Pairs, Record
from alignbench.card.rules import ranks_of_groups
from alignbench.pairwise.comparer import Verdict
from alignbench.pairwise.orders import JudgedPair

# the rankings of THUDM/ImageReward's data/test.json (Apache-2.0), with the number of each record's prompt
RANKINGS = Path(__file__).parents[1] / "fixtures" / "imagereward_test_rankings.json"


class Toy(HumanPairs):
    name, published, own_rule, in_domain = "toy", "2024-01", "imagereward", ("tuned",)

    def __init__(self, records):
        self._records = records

    def read(self):
        return self._records


def record(prompt, worth, **others):
    return Record(prompt, (Path("a"),) * len(worth), np.array(worth, float), **others)


def measured(records, margins, name="clip", **others):
    pairs = Pairs.of(records)
    return accuracy(Toy(records), records, pairs, np.array(margins, float), (name,), **others)


@pytest.fixture
def imagereward(tmp_path):
    """ImageReward's test annotations with the rankings as published, and one file in place of all images."""
    (tmp_path / "x.webp").touch()
    entries = []
    for number, (prompt, ranking) in enumerate(json.loads(RANKINGS.read_text())):
        names = ["x.webp"] * len(ranking)
        entries.append({"id": f"{number}", "prompt": f"prompt {prompt}", "generations": names, "ranking": ranking})
    (tmp_path / "test.json").write_text(json.dumps(entries))
    return ImageRewardTest(str(tmp_path / "test.json"), str(tmp_path))


def test_imagereward_has_6399_pairs_of_unequal_label(imagereward):
    records = imagereward.records
    pairs = Pairs.of(records)
    found = accuracy(imagereward, records, pairs, pairs.worth, ("clip",))
    assert (len(records), len(pairs.record)) == (466, 7230)
    assert (found.num_pairs, found.num_ties, found.num_prompts) == (6399, 831, 463)
    assert found.accuracy.value == 1
    assert {one.rule: (one.value, one.num) for one in found.rules}["imagereward"] == (1, 6399)
    assert ranks_of_groups(pairs.worth, pairs.worth, pairs.record).num == 466


def test_human_ties_are_left_out_and_predicted_ties_count_half():
    records = [record("a", [2, 1]), record("b", [1, 2]), record("c", [1, 1]), record("d", [2, 1]), record("e", [2, 1])]
    found = measured(records, [1, 1, 1, 0, 1])
    assert (found.num_pairs, found.num_ties) == (4, 1)
    assert found.accuracy.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)


def test_the_mean_of_prompts_weighs_prompts_and_not_pairs():
    records = [record("a", [3, 2, 1]), record("b", [1, 2])]
    found = measured(records, [1, 1, 1, 1])
    assert found.accuracy.value == pytest.approx(3 / 4)
    assert found.mean_of_prompts == pytest.approx(1 / 2)


def test_a_judge_that_learned_from_the_data_is_marked():
    records = [record("a", [2, 1])]
    assert measured(records, [1], "tuned_2").in_domain
    assert not measured(records, [1], "clip").in_domain


def test_figures_over_other_labels_have_another_digest():
    one, other = measured([record("a", [2, 1])], [1]), measured([record("a", [1, 2])], [1])
    assert one.digest != other.digest


def test_accuracy_is_told_by_thirds_of_the_human_margin_and_by_group():
    records = [record(str(n), [1 + n % 3, 0], group="even" if n % 2 == 0 else "odd") for n in range(12)]
    margins = [1 if n % 3 == 2 else -1 for n in range(12)]  # right where people see the largest difference
    found = measured(records, margins)
    assert [(part.num, part.accuracy.value) for part in found.by_margin] == [(4, 0), (4, 0), (4, 1)]
    assert {part.name: part.num for part in found.by_group} == {"even": 6, "odd": 6}


def test_margins_become_log_odds_by_a_scale_of_the_other_half():
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 8000)
    first = rng.random(8000) < expit(odds)
    won, half = np.where(first, odds, -odds), rng.random(8000) < 0.5
    found = scaled(won / 50, np.ones(8000), half)
    assert found == pytest.approx(won, rel=0.1)
    # labels of one half are of no use to its own scale
    spoiled = np.where(half, -won, won)
    assert np.abs(scaled(spoiled, np.ones(8000), half)[half]) == pytest.approx(np.abs(won[half]), rel=0.1)


def test_a_comparer_that_always_says_the_first_image_is_right_in_half_of_both_orders():
    records = [record(str(n), [2, 1] if n % 3 else [1, 2]) for n in range(9)]
    judged = [JudgedPair(one.prompt, Verdict(None, 1.0), Verdict(None, 1.0)) for one in records]
    found = measured(records, [pair.won - 0.5 for pair in judged], judged=judged)
    assert {one.rule: one.value for one in found.rules}["mmrb2"] == 0.5
    assert found.accuracy.value == 0.5
    assert (found.position.first_rate, found.position.is_biased) == (1.0, True)


def test_pairs_that_a_comparer_failed_on_are_left_out_and_counted():
    records = [record("a", [2, 1]), record("b", [2, 1])]
    right, failed = (Verdict(1.0, 1.0), Verdict(-1.0, 0.0)), (Verdict(1.0, 1.0), Verdict(None, None))
    answers = [JudgedPair("a", *right), JudgedPair("b", *failed)]
    found = measured(records, [1.0, float("nan")], judged=answers)
    assert (found.num_pairs, found.position.failures, found.accuracy.value) == (1, 1, 1.0)
    rule = next(one for one in found.rules if one.rule == "mmrb2")
    assert (rule.value, rule.num) == (1.0, 3), "upstream leaves out answers, not pairs"
