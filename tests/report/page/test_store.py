import json
import math
import re

import pytest

from alignbench.report.page.store import Store, script_json


@pytest.mark.parametrize(
    "text", ["</script><script>", "<!--", "\u2028\u2029", 'quote " \\ back', "مرحبا", "👩‍🚀", "\ud800"]
)
def test_no_text_leaves_its_place_in_a_script(text):
    written = script_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert re.fullmatch(r"[ -;=-~]*", written), "plain ASCII without <"


def test_what_is_not_a_number_becomes_null():
    assert script_json([math.nan, (math.inf, 1.5), {"a": -math.inf}]) == '[null,[null,1.5],{"a":null}]'


def test_equal_values_are_written_once_and_others_beside_them(tmp_path):
    store = Store(tmp_path)
    first = store.script("x", [1])
    file = tmp_path / first
    assert file.read_text() == "document.currentScript.receive([1]);\n"
    changed = file.stat().st_mtime_ns
    assert Store(tmp_path).script("x", [1]) == first
    assert file.stat().st_mtime_ns == changed
    assert store.script("x", [2]) != first


def test_addresses_of_odd_names_lead_to_their_files(tmp_path):
    from urllib.parse import unquote

    address = Store(tmp_path).script("a#b%20<c>?", 1)
    assert not set("#<?") & set(address)
    assert (tmp_path / unquote(address)).exists()


def test_only_what_this_report_does_not_show_is_removed(tmp_path):
    old = Store(tmp_path)
    gone, kept = old.script("x", [1]), old.script("x", [2])
    picture = old.thumbnails(["digest"])
    (tmp_path / picture).parent.mkdir(parents=True)
    (tmp_path / picture).touch()
    unfinished = tmp_path / "report/data/.x.js.tmp"
    unfinished.touch()
    (tmp_path / "report/win_rates.png").touch()
    new = Store(tmp_path)
    assert new.script("x", [2]) == kept
    assert not new.holds(new.thumbnails(["another"]))
    new.prune()
    left = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {kept, "report/data/.x.js.tmp", "report/win_rates.png"}
    assert gone != kept
