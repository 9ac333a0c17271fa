import json

from alignbench.report.curves.read import read_curves


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_step_logged_again_after_a_resume_counts_as_it_was_logged_last(tmp_path):
    log = write(tmp_path / "t", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}])
    assert read_curves(log) == {"loss": [(1, 1.0), (2, 2.0)]}


def test_losses_come_first_and_figures_that_are_not_always_logged_keep_their_steps(tmp_path):
    log = write(tmp_path / "t", [{"step": 1, "accuracy": 0.5, "loss": 1.0}, {"step": 2, "loss": 2.0, "note": "text"}])
    assert list(read_curves(log).items()) == [("loss", [(1, 1.0), (2, 2.0)]), ("accuracy", [(1, 0.5)])]
