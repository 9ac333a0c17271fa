"""What a sweep is to be: names that stay, and files that are checked before they are believed."""

import json
from dataclasses import replace

import pytest

from alignbench.errors import UserError
from alignbench.files import with_check, without_check
from alignbench.sweeps.record import Sweep, cells_of, read_sweeps, sweep_name
from tests.sweeps.sweeps import small_sweep

JOBS = [(f"method={m} seed={s}", [f"method={m}", f"seed={s}"], f"{m}-x", 2) for m in ("sft", "dpo") for s in (0, 1)]


def test_cells_are_named_by_the_words_that_tell_them_apart():
    assert [cell.slug for cell in cells_of(JOBS)] == ["1-sft-seed0", "2-sft-seed1", "3-dpo-seed0", "4-dpo-seed1"]
    (cell,) = cells_of([("data.path='/a b/../c' train.lr=1e-5", ["x"], "r", 1)])
    assert cell.slug == "1-path_a-_c_-lr1e-5"


def test_the_same_cells_are_the_same_sweep_and_others_are_another():
    cells = cells_of(JOBS)
    assert sweep_name(cells) == sweep_name(cells_of(JOBS))
    assert sweep_name(cells).startswith("sft_dpo-seed0_1-")
    assert sweep_name(cells[:3]) != sweep_name(cells)


def test_what_is_written_is_read_again(tmp_path):
    sweep = small_sweep(["a", "b"], base="c")
    assert Sweep.read(sweep.write(tmp_path)) == sweep
    assert read_sweeps(tmp_path) == ([sweep], [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[:40], "is not JSON"),
        (lambda text: text.replace("seed=1", "seed=2"), "has changed since it was written"),
        (lambda text: checked(text, cells=[]) and checked(text, name="../../x"), "names files that are not its own"),
        (lambda text: checked(text, cells=[cell(slug="../x")]), "names files that are not its own"),
        (lambda text: checked(text, cells=[cell(run="../r")]), "names files that are not its own"),
        (lambda text: checked(text, cells=[cell(), cell()]), "names files that are not its own"),
        (lambda text: checked(text, cells=[cell(updates="2")]), "has a wrong entry cells.0.updates"),
        (lambda text: checked(text, more=1), "has a wrong entry more"),
    ],
)
def test_a_damaged_or_hostile_record_is_named_and_the_others_are_read(tmp_path, change, told):
    file = small_sweep(["a", "b"]).write(tmp_path)
    file.write_text(change(file.read_text()))
    good = replace(small_sweep(["a"]), name="good")
    good.write(tmp_path)
    sweeps, damaged = read_sweeps(tmp_path)
    assert sweeps == [good]
    with pytest.raises(UserError, match=told):
        Sweep.read(file)
    assert len(damaged) == 1
    assert str(file) in damaged[0]


def checked(text, **changes):
    return json.dumps(with_check(without_check(json.loads(text)) | changes))


def cell(**changes):
    return {"name": "n", "slug": "s", "words": [], "run": "r", "updates": 1, "is_base": False} | changes
