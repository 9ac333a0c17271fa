import numpy as np
import pytest

from alignbench.store.manifest import ResultsError
from alignbench.store.scores import ScoreInfo, Scores

INFO = ScoreInfo("clip", "1", preprocess="R224", display_scale=100.0)


def test_scores_come_back_sorted_with_what_decides_them(tmp_path):
    scores = Scores.of(INFO, ["b", "a", "a"], [0, 1, 0], np.array([3, 2, 1], dtype=np.float32), ["f", "e", "d"])
    scores.write(tmp_path / "s.parquet")
    found = Scores.read(tmp_path / "s.parquet")
    assert found.info == INFO
    assert found.prompt_id.tolist() == ["a", "a", "b"]
    assert found.image.tolist() == [0, 1, 0]
    assert found.score.tolist() == [1, 2, 3]
    assert found.score.dtype == np.float32


def test_equal_scores_in_any_order_give_equal_bytes(tmp_path):
    Scores.of(INFO, ["a", "b"], [0, 0], [1.5, 2.5], ["d", "e"]).write(tmp_path / "1.parquet")
    Scores.of(INFO, ["b", "a"], [0, 0], [2.5, 1.5], ["e", "d"]).write(tmp_path / "2.parquet")
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_scores_that_are_not_finite_or_doubled_are_refused():
    with pytest.raises(ResultsError, match="clip gave 1 of 2 scores that are not finite"):
        Scores.of(INFO, ["a", "b"], [0, 0], [1.0, float("nan")], ["", ""])
    with pytest.raises(ResultsError, match="clip scored image 0 of prompt a more than once"):
        Scores.of(INFO, ["a", "a"], [0, 0], [1.0, 2.0], ["", ""])
