from alignbench.cli import _time_left


def test_the_time_left_of_a_sweep_follows_its_last_jobs():
    assert _time_left([0.0], 12) == ""
    done_before = [0.0, 1.0, 2.0, 3.0]
    assert _time_left(done_before, 12) == ", 3 s so far, about 9 s left"
    slow = [3.0 + 60.0 * number for number in range(1, 5)]
    assert _time_left([*done_before, *slow], 12) == ", 4 min 03 s so far, about 5 min 00 s left"
