"""What scores that a test decides come to: the figures of a trial, and the verdict on the best setting."""

from types import SimpleNamespace

import pytest

from alignbench.search import verdict as module
from alignbench.search.objectives import Objective, is_scored, measure
from alignbench.search.verdict import verdict
from tests.report.conftest import World

WINS = Objective("win_rate", "clip", "1", True, 100.0)
PLACE = ("shapes", "1a2b")


def test_figures_are_those_counted_by_hand(tmp_path):
    """The run wins p0 and p3, ties p1 and loses p2: (2 + 0.5) / 4; its median is 2, its mean 2.75."""
    world = World(tmp_path)
    base, run = world.run("base", [1, 2, 3, 4]), world.run("sft", [2, 2, 1, 6])
    objectives = [WINS, Objective("median", "clip", "1", True), Objective("mean", "clip", "1", True)]
    figures = measure(run, base, *PLACE, objectives)
    assert [one.value for one in figures] == [0.625, 2, 2.75]
    assert all(one.low <= one.value <= one.high for one in figures)
    assert is_scored(run, *PLACE, objectives)
    assert not is_scored(run, *PLACE, [Objective("mean", "other", "1", True)])
    assert not is_scored(run, "parti", "1a2b", objectives)


@pytest.mark.parametrize(
    ("best", "rate", "told"),
    [
        ([9] * 8, "100.0", "it is better"),
        ([0] * 8, "0.0", "it is worse"),
        ([9, 0] * 4, "50.0", "not shown to be better"),
    ],
)
def test_the_best_setting_is_compared_with_the_default_one_by_runs_of_other_seeds(
    tmp_path, monkeypatch, best, rate, told
):
    """With eight prompts won of eight, the exact bound of the win rate is 0.025 ** (1 / 8) = 63 %."""
    world, folders = World(tmp_path), {}
    prompts = {f"p{number}": f"{number} red circles" for number in range(8)}
    for seed in (1, 2, 3):
        folders["lr=9", f"seed={seed}"] = world.run("sft", best, seed=seed, recipe="best", prompts=prompts)
        folders[f"seed={seed}",] = world.run("sft", [1] * 8, seed=seed, recipe="default", prompts=prompts)
    found = lambda words: SimpleNamespace(folder=folders[tuple(words)], sampling_hash="1a2b")  # noqa: E731
    monkeypatch.setattr(module.TrialRun, "of", found)
    said = verdict([], ["lr=9"], [1, 2, 3], "shapes", WINS)
    assert said.startswith(f"on prompts=shapes with seeds 1, 2, 3, the best setting wins {rate} [")
    assert said.endswith(told)
    assert verdict([], ["lr=9"], [1, 2, 3], "parti", WINS) is None
