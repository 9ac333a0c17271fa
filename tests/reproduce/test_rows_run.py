"""Every row composes, passes the checks and is estimated; those of the miniatures run to their verdict."""

import json
import sys

import pytest

from alignbench.configuration.build import is_base
from alignbench.configuration.checks import check
from alignbench.reproduce import __main__ as program
from alignbench.reproduce.finished import own_configuration
from alignbench.reproduce.rows import figures, read_rows
from alignbench.training.memory_estimate import estimate, total

ROWS = read_rows()
OURS = {"draft_lv": "draft_lv", "dancegrpo": "dance_grpo"}  # methods that a paper calls otherwise than we


@pytest.mark.matrix
@pytest.mark.parametrize("experiment", sorted({row.experiment for row in ROWS.values()}))
def test_the_rows_of_an_experiment_are_what_their_figures_are_of(experiment):
    is_estimated = experiment.startswith("mini_")  # whose rows are run below
    for row in (row for row in ROWS.values() if row.experiment == experiment):
        cfg = own_configuration(row)
        assert (cfg.model.name, cfg.prompts.name) == (row.model, row.prompts), row.id
        assert is_base(cfg) == (row.method == "base"), row.id
        if not row.variant.startswith("inversion"):  # parts of smpo, which are methods of their own here
            named = cfg.method.name.removesuffix("_upstream").removesuffix("_released")
            assert named == OURS.get(row.method, row.method), row.id
        printed = [
            one.printed for one in figures(row) if one.printed.prompt_set == row.prompts and not one.printed.obstacle
        ]
        for one in printed:
            assert one.evaluator in cfg.evaluators, row.id
            assert one.guidance_scale in (None, cfg.sampling.guidance_scale), row.id
            assert one.noise in ("", cfg.sampling.noise), row.id
            assert (row.starts_from is not None) == (one.start not in ("", "base")) or not one.start, row.id
        if not is_base(cfg):
            check(cfg)
            if not is_estimated:
                assert total(estimate(cfg)) > 0
                is_estimated = True


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize("name", ["mini_smpo", "mini_srpo"])
def test_a_row_of_a_miniature_runs_to_its_verdict(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["alignbench.reproduce", name, f"results={tmp_path}", "tracker=none"])
    program.main()
    told = capsys.readouterr().out
    assert told.startswith(f"python -m alignbench experiment=mini_row_{name.removeprefix('mini_')} results={tmp_path}")
    assert f"{name}: reproduced, all 3 compared figures are within the tolerance" in told
    noted = json.loads((tmp_path / "reproductions" / f"{name}.json").read_text())
    assert (noted["verdict"], noted["differences"]) == ("reproduced", [])
    assert (tmp_path / noted["run"] / "policy").is_dir()
    (tmp_path / "reproductions" / f"{name}.json").unlink()

    monkeypatch.setattr(sys, "argv", ["alignbench.reproduce", name, f"results={tmp_path}", "tracker=none"])
    program.main()
    assert "done before, and nothing has changed since" in capsys.readouterr().out
    assert json.loads((tmp_path / "reproductions" / f"{name}.json").read_text()) == noted
