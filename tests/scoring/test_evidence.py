import json

import pytest

from alignbench.errors import UserError
from alignbench.scoring.evidence import borderline_share, evidence_file
from alignbench.store.scores import ScoreInfo, Scores

SCORES = Scores.of(ScoreInfo("geneval", "1"), ["a", "b"], [0, 0], [1.0, 0.0], ["d1", "d2"])


def write(path, *lines):
    file = evidence_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def line(prompt_id, digest, margin):
    return {"prompt_id": prompt_id, "image": 0, "digest": digest, "margin": margin}


def test_a_margin_of_another_file_does_not_count(tmp_path):
    path = tmp_path / "geneval@1.parquet"
    assert borderline_share(path, SCORES) is None
    write(path, line("a", "d1", 0.01), line("b", "d2", 0.5), line("b", "of an earlier image", 0.001))
    assert borderline_share(path, SCORES) == 0.5


@pytest.mark.parametrize("wrong", [{"margin": 0.1}, line("a", "d1", "wide"), line("a", 5, 0.1), line("a", "d1", [])])
def test_damaged_evidence_is_refused_in_one_sentence(tmp_path, wrong):
    path = tmp_path / "geneval@1.parquet"
    write(path, line("a", "d1", 0.01), wrong)
    with pytest.raises(UserError, match=r"line 2 of .*geneval@1\.evidence\.jsonl has a wrong entry .*; delete it"):
        borderline_share(path, SCORES)
