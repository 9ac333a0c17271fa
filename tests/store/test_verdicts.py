"""Verdicts are kept line by line: kills, damage and several processes lose none and make none up."""

import json
import multiprocessing

import pytest

from alignbench.pairwise.comparer import Verdict
from alignbench.store.manifest import ResultsError
from alignbench.store.verdicts import Judged, VerdictFile, judged_pairs, verdict_files


def line(number=0, *, a_first=True, identity="x", digests=("1", "2"), log_odds=0.5):
    verdict = Verdict.of_log_odds(log_odds, tokens=(3, 1), seconds=0.25, raw="A", answered_by="model-7")
    return Judged(f"p{number}", f"a cat {number}", 0, "base", "dpo", *digests, a_first, identity, verdict)


@pytest.fixture
def file(tmp_path):
    return VerdictFile.of(tmp_path, "shapes", "1a2b", "judge", "1-768px")


def test_what_is_kept_is_read_and_found_by_its_name(file, tmp_path):
    assert file.read() == []
    lines = [line(0), line(0, a_first=False)]
    file.add(lines)
    assert file.read() == lines
    assert file.path == tmp_path / "comparisons" / "shapes" / "1a2b" / "judge@1-768px.jsonl"
    assert verdict_files(tmp_path) == [file]
    assert (file.prompt_set, file.sampling_hash, file.comparer, file.version) == ("shapes", "1a2b", "judge", "1-768px")


def test_a_call_is_known_by_images_in_their_order_whatever_the_runs_are_called():
    assert line().call == ("1", "2", "a cat 0")
    assert line(a_first=False).call == ("2", "1", "a cat 0")
    assert line(a_first=False, digests=("2", "1")).call == line().call


def test_a_line_that_a_kill_has_cut_is_left_out_and_written_over(file):
    file.add([line(0)])
    with file.path.open("a") as opened:
        opened.write('{"prompt_id": "p1", "pro')
    assert file.read() == [line(0)]
    file.add([line(2)])
    assert file.read() == [line(0), line(2)]


@pytest.mark.parametrize("change", [{"a_first": False}, {"prompt_id": "p9"}, {"extra": 1}])
def test_a_line_that_was_changed_is_refused(file, change):
    file.add([line(0)])
    record = json.loads(file.path.read_text())
    file.path.write_text(json.dumps(record | change) + "\n")
    with pytest.raises(ResultsError, match="has changed since it was written; delete it to compare its images again"):
        file.read()


def _add(file, start):
    for number in range(start, start + 40):
        file.add([line(number)])


def test_two_processes_that_add_at_once_lose_no_line(file):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(file, start)) for start in (0, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {one.prompt_id for one in file.read()} == {f"p{n}" for n in (*range(40), *range(100, 140))}


def test_tables_see_the_last_line_of_a_pair_and_order_of_the_comparer_that_was_asked_last(file):
    file.add([line(0, identity="old"), line(1), line(0), line(0, log_odds=-1.0)])
    assert file.read_latest() == [line(1), line(0, log_odds=-1.0)]


def test_orders_of_different_images_are_no_pair():
    """As where a kill came while a changed image was asked about anew."""
    key = ("base", "dpo", "p0", 0)
    assert judged_pairs([line(0), line(0, a_first=False)])[key].position == 0.5
    assert judged_pairs([line(0), line(0, a_first=False, digests=("1", "3"))]) == {}
    assert judged_pairs([line(0, digests=("1", "1"))])[key].is_one_image
    assert judged_pairs([line(0)], run="kto") == {}
