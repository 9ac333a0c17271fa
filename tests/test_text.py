from alignbench.text import keyed


def test_keyed_draws_are_the_same_everywhere():
    assert keyed(0, "order", 1, "p0").hex()[:16] == "589c2fdcf00866ae"
