"""`benchmarks/checkpoints.py` measures what training waits for."""

from benchmarks.checkpoints import measure, measure_copy


def test_both_modes_and_the_copy_are_measured(tmp_path):
    assert [row["waits"] > 0 for row in measure_copy(0.01, 2)] == [True, True]
    for in_background in (False, True):
        rows = [*measure(tmp_path / str(in_background), 0.01, 2, in_background)]
        assert [row["round"] for row in rows] == [1, 2]
        assert {row["mode"] for row in rows} == {"background" if in_background else "foreground"}
        assert all(0 < row["waits"] <= row["stored"] for row in rows)
