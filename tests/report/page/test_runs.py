from alignbench.report.page.runs import thinned


def test_a_thinned_curve_keeps_its_ends_and_every_spike():
    curve = [(step, 0.0) for step in range(10_000)]
    curve[0], curve[5_003], curve[7_777], curve[-1] = (0, 0.5), (5_003, 9.0), (7_777, -9.0), (9_999, 0.25)
    short = thinned(curve, 100)
    assert len(short) <= 100
    assert {curve[0], curve[5_003], curve[7_777], curve[-1]} <= set(short)
    assert short == sorted(short)


def test_a_short_curve_stays_as_it_is():
    curve = [(1, 1.0), (2, float("nan"))]
    assert thinned(curve, 2) is curve
