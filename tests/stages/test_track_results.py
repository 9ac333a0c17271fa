from types import SimpleNamespace

from alignbench.report.tables import build
from alignbench.stages.track_results import COLUMNS, track_results
from tests.report.conftest import World


class Noted:
    """Notes what a tracker is told."""

    def __init__(self):
        self.values, self.rows, self.is_finished = {}, [], False

    def log(self, values, step):
        self.values |= values

    def table(self, name, columns, rows, step):
        self.rows = [dict(zip(columns, row, strict=True)) for row in rows]

    def finish(self):
        self.is_finished = True


def test_a_tracker_is_told_the_figure_that_an_evaluator_is_shown_by(tmp_path):
    world, noted = World(tmp_path / "results"), Noted()
    for method, scores in (("base", [1, 0, 0, 0]), ("sft", [1, 1, 0, 0.5])):
        folder = world.run(method, scores, summary="mean")
        world.run(method, scores, evaluator="plain")
    sampling = SimpleNamespace(strength=1.0, strength_kind="prediction")
    track_results(noted, folder, sampling, build(world.root, 50), [])
    assert noted.values == {
        "eval/shapes/clip/mean": 0.625,
        "eval/shapes/clip/win_rate_vs_base": 0.75,
        "eval/shapes/plain/median": 0.75,
        "eval/shapes/plain/win_rate_vs_base": 0.75,
    }
    assert [(row["evaluator"], row["median"], row["mean"]) for row in noted.rows] == [
        ("clip", 0.75, 0.625),
        ("plain", 0.75, 0.625),
    ]
    assert all(row.keys() == set(COLUMNS) for row in noted.rows)
    assert noted.is_finished
