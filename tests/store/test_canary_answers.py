import json

import pytest

from alignbench.errors import UserError
from alignbench.pairwise.comparer import Verdict
from alignbench.store.canary_answers import CanaryAnswers
from alignbench.store.verdicts import VerdictFile, verdict_files

ANSWERS = CanaryAnswers(
    "judge log_odds", "1a2b", (*(Verdict.of_log_odds(0.5, tokens=(3, 1)),) * 7, Verdict(None, None))
)


@pytest.fixture
def path(tmp_path):
    return VerdictFile.of(tmp_path, "shapes", "1a2b", "judge", "1-768px").canary_answers(ANSWERS.identity)


def test_answers_are_read_as_they_were_written_and_are_no_verdicts(path, tmp_path):
    assert CanaryAnswers.read(path) is None
    ANSWERS.write(path)
    assert path.name == "judge@1-768px.canaries-ba97e8c2d7.json"
    assert CanaryAnswers.read(path) == ANSWERS
    assert verdict_files(tmp_path) == []


def test_damage_ends_in_one_sentence(path):
    ANSWERS.write(path)
    content = path.read_bytes()
    damaged = [
        content[:place] + bytes([byte]) + content[place + 1 :] for place in range(0, 300, 11) for byte in (0, 34)
    ]
    damaged += [content[:100], b"", b"[]", b"null", b"{}"]
    record = json.loads(content) | {"verdicts": []}
    del record["check"]
    damaged += [json.dumps(one).encode() for one in (record, record | {"identity": 3}, record | {"verdicts": [3] * 8})]
    for one in damaged:
        if one == content:
            continue
        path.write_bytes(one)
        with pytest.raises(
            UserError, match=r"judge@1-768px\.canaries-.*\.json.*; delete it to ask for these answers again"
        ):
            CanaryAnswers.read(path)
