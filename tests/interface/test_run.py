"""A run shows the figures that its evaluators are shown by."""

from alignbench.interface.run import RunResult
from alignbench.report.tables import build
from tests.report.conftest import World


def test_a_run_shows_the_mean_of_an_evaluator_that_is_shown_by_it(tmp_path):
    world = World(tmp_path / "results")
    for method, scores in (("base", [1, 0, 0, 0]), ("sft", [1, 1, 0, 0.5])):
        folder = world.run(method, scores, summary="mean")
        world.run(method, scores, evaluator="plain")
    build(world.root, 50).write(world.root)
    shown = RunResult(folder.path, (folder.name,))._short()
    assert shown[["evaluator", "summary", "score"]].to_numpy().tolist() == [
        ["clip", "mean", 0.625],
        ["plain", "median", 0.75],
    ]
